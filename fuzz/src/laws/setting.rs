//! What the parsers of queries are given beside the query.

use godctl::asr::ModelInfo;

/// The pairs of `name=value&…`. Without undoing escapes, so that any text can be a value.
pub fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), value.to_owned())
    };
    text.split('&').map(pair).collect()
}

/// A model of 30 s windows that takes prompts or not.
pub fn model(prompts: bool) -> ModelInfo {
    ModelInfo {
        name: "tiny".to_owned(),
        window_s: 30.0,
        multilingual: true,
        languages: vec!["en".to_owned(), "de".to_owned()],
        prompts,
        parameters: 1,
        device: "cpu".to_owned(),
    }
}
