//! The models worth knowing by name: what they are for, what they cost, under which licence. Pure data.
//!
//! Parameters are computed from the architecture. Sizes are those of the files that godctl needs, at the precision
//! the hub stores them in; they are shown as approximate, `pull` shows the hub's own.

use serde::Serialize;

/// The dimensions of a Whisper network, which give its number of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// Width of encoder and decoder (`d_model`).
    pub width: u64,
    /// Encoder layers.
    pub encoder_layers: u64,
    /// Decoder layers.
    pub decoder_layers: u64,
    /// Tokens.
    pub vocabulary: u64,
    /// Mel bins of the input.
    pub mels: u64,
    /// Encoder positions of one window, 50 a second.
    pub audio_positions: u64,
    /// Positions of the decoder.
    pub text_positions: u64,
}

impl Shape {
    /// The dimensions that a `config.json` describes, or `None` when it describes no Whisper model.
    #[must_use]
    pub fn from_config(json: &[u8]) -> Option<Self> {
        let config: serde_json::Value = serde_json::from_slice(json).ok()?;
        // Large enough for every Whisper there is, small enough that nothing computed from them overflows.
        let field = |key: &str| config.get(key)?.as_u64().filter(|n| (1..=1 << 20).contains(n));
        Some(Self {
            width: field("d_model").filter(|n| *n <= 1 << 14)?,
            encoder_layers: field("encoder_layers").filter(|n| *n <= 1 << 10)?,
            decoder_layers: field("decoder_layers").filter(|n| *n <= 1 << 10)?,
            vocabulary: field("vocab_size")?,
            mels: field("num_mel_bins")?,
            audio_positions: field("max_source_positions").filter(|n| *n <= 1 << 16)?,
            text_positions: field("max_target_positions").filter(|n| *n <= 1 << 16)?,
        })
    }

    /// Weights of the network; the output projection is the token embedding and not counted again.
    #[must_use]
    pub const fn parameters(&self) -> u64 {
        let d = self.width;
        let norm = 2 * d;
        // Query, value and output have a bias, the key has none.
        let attention = 4 * d * d + 3 * d;
        let feed_forward = 8 * d * d + 5 * d;
        let front = (3 * self.mels * d + d) + (3 * d * d + d) + self.audio_positions * d;
        let encoder = front + self.encoder_layers * (attention + feed_forward + 2 * norm) + norm;
        let embeddings = self.vocabulary * d + self.text_positions * d;
        let decoder = embeddings + self.decoder_layers * (2 * attention + feed_forward + 3 * norm) + norm;
        encoder + decoder
    }

    /// An estimate of the memory needed to run one stream, in bytes: the weights as f32, one stream's key/value
    /// caches, the encoder's largest activations, and the program.
    #[must_use]
    pub const fn memory_estimate(&self) -> u64 {
        const F32: u64 = 4;
        const PROGRAM: u64 = 60_000_000;
        let caches =
            2 * self.decoder_layers * (self.audio_positions + self.text_positions) * self.width * F32;
        // Scores of one attention layer (heads are 64 wide) and the inner activations of one feed-forward layer.
        let scores = (self.width / 64) * self.audio_positions * self.audio_positions * F32;
        let inner = 2 * 4 * self.width * self.audio_positions * F32;
        self.parameters() * F32 + caches + scores + inner + PROGRAM
    }
}

/// What a model understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "count")]
pub enum Languages {
    /// English only.
    English,
    /// This many languages, with translation into English.
    Multilingual(u32),
    /// Many languages, without translation into English.
    Transcription(u32),
}

impl std::fmt::Display for Languages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::English => f.pad("English"),
            Self::Multilingual(n) | Self::Transcription(n) => f.pad(&format!("{n} languages")),
        }
    }
}

/// One model of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The name to pull and to ask for.
    pub name: &'static str,
    /// Other names for the same model.
    pub aliases: &'static [&'static str],
    /// `owner/name` on the hub.
    pub repo: &'static str,
    /// The network's dimensions.
    pub shape: Shape,
    /// Bytes of one weight as stored: 4 for f32, 2 for f16.
    pub stored_bytes: u64,
    /// As the model card on the hub says, as SPDX identifier.
    pub licence: &'static str,
    /// What it understands.
    pub languages: Languages,
    /// What it is good for.
    pub good_for: &'static str,
}

impl Entry {
    /// About how many bytes a pull downloads.
    #[must_use]
    pub const fn download_estimate(&self) -> u64 {
        // The tokenizer and the configuration files: 2.5 to 4 MB, depending on how the tokenizer was written.
        const OTHER_FILES: u64 = 3_000_000;
        self.shape.parameters() * self.stored_bytes + OTHER_FILES
    }

    /// The entry of that name or alias, or of that repository.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        CATALOGUE.iter().find(|entry| {
            entry.name.eq_ignore_ascii_case(name)
                || entry.repo.eq_ignore_ascii_case(name)
                || entry.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
        })
    }
}

const fn shape(width: u64, encoder_layers: u64, decoder_layers: u64, vocabulary: u64) -> Shape {
    let mels = if vocabulary > MULTILINGUAL { 128 } else { 80 };
    Shape {
        width,
        encoder_layers,
        decoder_layers,
        vocabulary,
        mels,
        audio_positions: 1500,
        text_positions: 448,
    }
}

/// Tokens of the English models, of the multilingual ones, and of version 3 (which added Cantonese).
const ENGLISH: u64 = 51_864;
const MULTILINGUAL: u64 = 51_865;
const VERSION_3: u64 = 51_866;

// OpenAI's own repository releases code and weights under MIT; the cards on the hub say Apache-2.0 for all but turbo.
const OPENAI: &str = "Apache-2.0";

macro_rules! catalogue {
    ($($name:literal $aliases:expr, $repo:literal, $shape:expr, $stored:literal, $licence:expr, $languages:expr, $good_for:literal;)*) => {
        &[$(Entry {
            name: $name,
            aliases: &$aliases,
            repo: $repo,
            shape: $shape,
            stored_bytes: $stored,
            licence: $licence,
            languages: $languages,
            good_for: $good_for,
        }),*]
    };
}

use Languages::{English, Multilingual, Transcription};

/// All that can be pulled by a short name, smallest first in each family.
#[rustfmt::skip]
pub const CATALOGUE: &[Entry] = catalogue![
    "tiny" [], "openai/whisper-tiny", shape(384, 4, 4, MULTILINGUAL), 4, OPENAI, Multilingual(99),
        "trying things out, very weak machines";
    "tiny.en" [], "openai/whisper-tiny.en", shape(384, 4, 4, ENGLISH), 4, OPENAI, English,
        "English on very weak machines";
    "base" [], "openai/whisper-base", shape(512, 6, 6, MULTILINGUAL), 4, OPENAI, Multilingual(99),
        "live captions on two cores";
    "base.en" [], "openai/whisper-base.en", shape(512, 6, 6, ENGLISH), 4, OPENAI, English,
        "live English dictation on two cores";
    "small" [], "openai/whisper-small", shape(768, 12, 12, MULTILINGUAL), 4, OPENAI, Multilingual(99),
        "dictation in the large languages on a fast CPU";
    "small.en" [], "openai/whisper-small.en", shape(768, 12, 12, ENGLISH), 4, OPENAI, English,
        "English dictation on a fast CPU";
    "medium" [], "openai/whisper-medium", shape(1024, 24, 24, MULTILINGUAL), 4, OPENAI, Multilingual(99),
        "files, where large-v3-turbo is not wanted";
    "medium.en" [], "openai/whisper-medium.en", shape(1024, 24, 24, ENGLISH), 4, OPENAI, English,
        "English files";
    "large-v1" [], "openai/whisper-large", shape(1280, 32, 32, MULTILINGUAL), 4, OPENAI, Multilingual(99),
        "comparing with old results";
    "large-v2" [], "openai/whisper-large-v2", shape(1280, 32, 32, MULTILINGUAL), 4, OPENAI, Multilingual(99),
        "files on a GPU; loops less than v3 in some languages";
    "large-v3" ["large"], "openai/whisper-large-v3", shape(1280, 32, 32, VERSION_3), 2, OPENAI, Multilingual(100),
        "best quality, on a GPU; translation into English";
    "large-v3-turbo" ["turbo"], "openai/whisper-large-v3-turbo", shape(1280, 32, 4, VERSION_3), 2, "MIT", Transcription(100),
        "nearly large-v3 at a fraction of the time; not trained to translate";
    "distil-small.en" [], "distil-whisper/distil-small.en", shape(768, 12, 4, ENGLISH), 2, "MIT", English,
        "fast English dictation";
    "distil-medium.en" [], "distil-whisper/distil-medium.en", shape(1024, 24, 2, ENGLISH), 2, "MIT", English,
        "English files, fast";
    "distil-large-v2" [], "distil-whisper/distil-large-v2", shape(1280, 32, 2, MULTILINGUAL), 2, "MIT", English,
        "English files; distil-large-v3 replaced it";
    "distil-large-v3" [], "distil-whisper/distil-large-v3", shape(1280, 32, 2, VERSION_3), 2, "MIT", English,
        "English close to large-v3 at turbo's speed";
    // Stored as f32 as far as is known; an f16 copy would halve the download.
    "distil-large-v3.5" [], "distil-whisper/distil-large-v3.5", shape(1280, 32, 2, VERSION_3), 4, "MIT", English,
        "the most accurate of the distilled English models";
];

/// The dimensions of the built-in model.
pub const BUILTIN_SHAPE: Shape = Shape {
    width: 192,
    encoder_layers: 4,
    decoder_layers: 2,
    vocabulary: 1406,
    mels: 80,
    audio_positions: 500,
    text_positions: 128,
};

/// The name in the catalogue (or `also`) that is nearest to a misspelt one, if one is near.
pub(super) fn nearest(name: &str, also: &'static str) -> Option<&'static str> {
    let wanted = name.to_ascii_lowercase();
    let wanted = wanted.rsplit('/').next().unwrap_or(&wanted);
    let wanted = wanted.strip_prefix("whisper-").unwrap_or(wanted);
    let names =
        CATALOGUE.iter().flat_map(|entry| std::iter::once(entry.name).chain(entry.aliases.iter().copied()));
    let (distance, best) = names
        .chain(std::iter::once(also))
        .map(|known| (distance(wanted, known), known))
        .min_by_key(|(d, _)| *d)?;
    // Up to a third of the letters may be wrong, at most three.
    (distance <= (best.len() / 3).clamp(1, 3)).then_some(best)
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_follow_from_the_architecture() {
        let known = [
            ("tiny", 37_760_640),
            ("base", 72_593_920),
            ("small", 241_734_912),
            ("medium", 763_857_920),
            ("large-v2", 1_543_304_960),
            ("large-v3", 1_543_490_560),
            ("turbo", 808_878_080),
        ];
        for (name, parameters) in known {
            assert_eq!(Entry::find(name).unwrap().shape.parameters(), parameters, "{name}");
        }
        assert_eq!(BUILTIN_SHAPE.parameters(), 3_513_216, "the built-in model's card");
        let config = crate::asr::weights::BUILTIN.iter().find(|file| file.name == "config.json").unwrap();
        assert_eq!(Shape::from_config(config.bytes), Some(BUILTIN_SHAPE));
        assert_eq!(Shape::from_config(br#"{"d_model": 18446744073709551615}"#), None);
    }

    #[test]
    fn sizes_are_those_of_the_hub_within_a_hundredth() {
        // `model.safetensors` as listed by the hub, in megabytes.
        for (name, megabytes) in
            [("tiny", 151.1), ("base", 290.4), ("small", 967.0), ("large-v3", 3087.0), ("turbo", 1618.0)]
        {
            let weights = Entry::find(name).unwrap();
            let stored = (weights.shape.parameters() * weights.stored_bytes) as f64 / 1e6;
            assert!((stored / megabytes - 1.0).abs() < 0.01, "{name}: {stored} MB");
        }
    }

    #[test]
    fn names_aliases_and_repositories_are_unique_and_turbo_is_turbo() {
        let mut all: Vec<&str> =
            CATALOGUE.iter().flat_map(|e| e.aliases.iter().chain([&e.name, &e.repo])).copied().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert_eq!(Entry::find("turbo").unwrap().repo, "openai/whisper-large-v3-turbo");
        assert_eq!(Entry::find("Large").unwrap().repo, "openai/whisper-large-v3");
        assert!(
            CATALOGUE.iter().all(
                |e| (e.languages == English) == (e.name.ends_with(".en") || e.name.starts_with("distil"))
            )
        );
    }

    #[test]
    fn misspelt_names_find_their_neighbour() {
        for (typed, meant) in [
            ("bse", "base"),
            ("smal", "small"),
            ("large-v3-trubo", "large-v3-turbo"),
            ("whisper-small.en", "small.en"),
            ("comand-en", "command-en"),
            ("distil-large-3", "distil-large-v3"),
        ] {
            assert_eq!(nearest(typed, "command-en"), Some(meant), "{typed}");
        }
        assert_eq!(nearest("llama", "command-en"), None);
    }
}
