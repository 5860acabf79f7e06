//! What programs that we start get of our variables, and what must not come back out. Pure.

use std::collections::BTreeMap;

/// Variables that every program gets, if they are set; a `*` at the end stands for any rest.
const BASE: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_*",
    "TZ",
    "TMPDIR",
    "XDG_*",
    "SSL_CERT_*",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];
/// Values of variables that are shorter are not looked for in what is shown: they would be found everywhere.
const MIN_SECRET: usize = 8;

/// The variables of a program: those that any program needs, those that it may have, those that are set for it, and
/// nothing else. What marks a run inside another agent is not among them.
pub(super) fn environment(
    passes: &[String],
    set: &[(String, String)],
    ours: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let fits = |name: &str, pattern: &str| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    let patterns = || BASE.iter().copied().chain(passes.iter().map(String::as_str));
    let mut all: BTreeMap<String, String> = ours
        .iter()
        .filter(|(name, _)| patterns().any(|pattern| fits(name, pattern)))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    all.extend([("TERM".to_owned(), "dumb".to_owned()), ("NO_COLOR".to_owned(), "1".to_owned())]);
    all.extend(set.iter().cloned());
    all
}

/// Takes the values of variables that may be secrets out of a text.
pub(super) fn redacted(text: &str, environment: &BTreeMap<String, String>) -> String {
    let may_be_secret =
        |name: &str| ["KEY", "TOKEN", "SECRET", "PASSWORD"].iter().any(|word| name.contains(word));
    let mut text = text.to_owned();
    for (name, value) in environment {
        if may_be_secret(name) && value.len() >= MIN_SECRET {
            text = text.replace(value.as_str(), "[secret]");
        }
    }
    text
}
