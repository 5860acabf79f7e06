//! OpenAI's protocol: the fields of a form. How a form is taken apart is its reader's matter.

use godctl::asr::{
    DecodeOptions, Task,
    protocols::openai::{
        language,
        request::{Format, Request},
    },
};

/// More values of one field are refused.
const MAX_LIST: usize = 100;

/// Each line is a field: `name=value`.
///
/// Holds: a refusal names a field of the form; what was taken is within its limits; the temperatures go up to 1 from the
/// one that was asked for.
pub fn hold(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    languages(text);
    let mut request = Request::default();
    for line in text.split('\n') {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        if let Err(refused) = request.set(name, value) {
            let field = name.strip_suffix("[]").unwrap_or(name);
            assert!(refused.param.starts_with(field) && !refused.message.is_empty(), "{refused:?}");
        }
    }
    assert_eq!(request.format.to_string().parse::<Format>(), Ok(request.format));
    assert!((0.0..=1.0).contains(&request.temperature));
    for list in [&request.languages, &request.keywords, &request.speakers] {
        assert!(list.len() <= MAX_LIST);
    }
    if let Err(refused) = request.check() {
        assert!(request.stream && refused.param == "stream");
    }
    let decode = request.decode(&DecodeOptions::default(), Task::Transcribe);
    let ladder = &decode.temperatures;
    assert!(!ladder.is_empty() && ladder.is_sorted(), "{ladder:?}");
    assert!(ladder.iter().all(|temperature| (0.0..=1.0 + 1e-5).contains(temperature)), "{ladder:?}");
}

/// Holds: the code of a code is itself, and so is that of its name.
fn languages(text: &str) {
    let code = language::code(text);
    assert_eq!(language::code(&code), code);
    assert_eq!(language::code(language::name(&code)), code);
    assert!(language::space(Some(&code)).len() <= 1);
}
