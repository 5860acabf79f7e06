//! The layers of ARCHITECTURE.md, enforced: who imports whom, what a `mod.rs` may do, how long a file may be.
//!
//! The sources are read as tokens, without comments and literals, so that neither a word in a sentence nor an unusual
//! line break fools the rules. The rules themselves are tested on made-up sources at the end.

use std::collections::BTreeSet;

use crate::support::{files, root};

/// The rooms that each room may import, itself aside.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("shutdown", &[]),
    ("config", &[]),
    ("telemetry", &["config"]),
    ("db", &[]),
    ("audio", &["config", "shutdown"]),
    ("bus", &["config", "shutdown", "db"]),
    ("asr", &["audio", "config", "shutdown", "telemetry", "db"]),
    ("agents", &["bus", "config", "shutdown", "telemetry", "db"]),
    ("spaces", &["audio", "asr", "bus", "config", "shutdown", "telemetry", "db"]),
    ("cmd", &["audio", "asr", "bus", "agents", "spaces", "config", "shutdown", "telemetry", "db"]),
    ("main", &["cmd"]),
];

/// A file longer than this has more than one job.
const MAX_LINES: usize = 800;

/// One source file: its path below `src`, with `/`, and its text.
struct Source {
    path: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let source = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
        Source { path, text }
    };
    files("src", ".rs").into_iter().map(source).collect()
}

fn check(rule: impl Fn(&Source) -> Vec<String>) {
    let broken: Vec<String> = sources().iter().flat_map(rule).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn rooms_import_only_what_lies_below_them() {
    check(imports_upwards);
}

#[test]
fn a_mod_file_calls_nothing_in_its_children() {
    check(calls_to_children);
}

#[test]
fn files_are_short_and_say_what_they_own() {
    check(shape);
}

#[test]
fn the_library_page_lists_every_room() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rooms: BTreeSet<String> = sources().iter().map(|source| room(&source.path)).collect();
    for room in rooms.iter().filter(|room| !["main", "lib"].contains(&room.as_str())) {
        assert!(lib.contains(&format!("pub mod {room};")), "lib.rs lacks {room}");
        assert!(
            lib.lines().any(|line| line.starts_with("//!") && line.contains(room)),
            "the diagram lacks {room}"
        );
    }
}

fn imports_upwards(source: &Source) -> Vec<String> {
    let from = room(&source.path);
    if from == "lib" {
        return Vec::new();
    }
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == from) else {
        return vec![format!("{}: no rule for the room {from}; add it to MAY_IMPORT", source.path)];
    };
    let forbidden = |to: &String| *to != from && !allowed.contains(&to.as_str());
    rooms_named(source)
        .into_iter()
        .filter(forbidden)
        .map(|to| format!("{}: {from} must not import {to}", source.path))
        .collect()
}

fn calls_to_children(source: &Source) -> Vec<String> {
    if !source.path.ends_with("mod.rs") {
        return Vec::new();
    }
    let tokens = tokens(&source.text);
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token == text);
    let declares = |at: &usize| is(*at, "mod") && is(at + 2, ";");
    let children: BTreeSet<&String> =
        (0..tokens.len()).filter(declares).filter_map(|at| tokens.get(at + 1)).collect();
    // Names that a `use` brought in from a child.
    let mut imported = BTreeSet::new();
    for at in (0..tokens.len()).filter(|at| is(*at, "use")) {
        let end = (at..tokens.len()).find(|end| is(*end, ";")).unwrap_or(tokens.len());
        let statement = &tokens[at..end];
        let start = if is(at + 1, "self") { at + 3 } else { at + 1 };
        let mut first = BTreeSet::new();
        heads(&tokens, start, &mut first);
        if first.iter().any(|head| children.contains(head)) {
            imported.extend(statement.iter().filter(|token| !children.contains(token) && is_name(token)));
        }
    }

    let mut broken = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is(at, "use") {
            at = (at..tokens.len()).find(|end| is(*end, ";")).unwrap_or(tokens.len());
            continue;
        }
        let starts_path = is_name(&tokens[at]) && (at == 0 || !(is(at - 1, "::") || is(at - 1, ".")));
        let mut end = at;
        while is(end + 1, "::") && tokens.get(end + 2).is_some_and(|token| is_name(token)) {
            end += 2;
        }
        let first = if is(at, "self") && end > at { &tokens[at + 2] } else { &tokens[at] };
        let last = &tokens[end];
        let from_child = (children.contains(first) && end > at) || imported.contains(first);
        let is_function = last.chars().next().is_some_and(char::is_lowercase);
        let declared_here = at > 0 && (is(at - 1, "fn") || is(at - 1, "mod"));
        if starts_path && from_child && is_function && !declared_here && is(end + 1, "(") {
            broken.push(format!("{}: calls {} of a child", source.path, tokens[at..=end].concat()));
        }
        at = end + 1;
    }
    broken
}

fn shape(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    if !source.text.starts_with("//! ") {
        broken.push(format!("{}: must open with //! and say what it owns", source.path));
    }
    let lines = source.text.lines().count();
    if lines > MAX_LINES {
        broken.push(format!("{}: {lines} lines; split it", source.path));
    }
    broken
}

fn room(path: &str) -> String {
    let first = path.split('/').next().unwrap_or(path);
    first.strip_suffix(".rs").unwrap_or(first).to_owned()
}

/// How many modules lie between the crate root and this file.
fn depth(path: &str) -> usize {
    let parts = path.split('/').count();
    if path.ends_with("/mod.rs") { parts - 1 } else { parts }
}

/// The rooms that a file names: `crate::room`, `crate::{room, …}`, `godctl::room`, or `super::…::room`.
fn rooms_named(source: &Source) -> BTreeSet<String> {
    let tokens = tokens(&source.text);
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token == text);
    let mut named = BTreeSet::new();
    // Inline modules that are open: true for each brace that belongs to one.
    let mut braces: Vec<bool> = Vec::new();
    for at in 0..tokens.len() {
        match tokens[at].as_str() {
            "{" => braces.push(at >= 2 && is(at - 2, "mod")),
            "}" => drop(braces.pop()),
            "crate" | "godctl" if is(at + 1, "::") && !(at > 0 && is(at - 1, "::")) => {
                heads(&tokens, at + 2, &mut named);
            }
            "super" if !(at >= 2 && is(at - 1, "::") && is(at - 2, "super")) => {
                let mut end = at;
                while is(end + 1, "::") && is(end + 2, "super") {
                    end += 2;
                }
                let climbs = (end - at) / 2 + 1;
                let inline = braces.iter().filter(|is_module| **is_module).count();
                if climbs == depth(&source.path) + inline && is(end + 1, "::") {
                    heads(&tokens, end + 2, &mut named);
                }
            }
            _ => {}
        }
    }
    named
}

/// The first names of a path or of each path in a group.
fn heads(tokens: &[String], at: usize, named: &mut BTreeSet<String>) {
    if tokens.get(at).is_none_or(|token| token != "{") {
        named.extend(tokens.get(at).cloned());
        return;
    }
    let mut open = 0;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.as_str() {
            "{" => open += 1,
            "}" => open -= 1,
            _ => {}
        }
        if open == 0 {
            return;
        }
        let starts_item = open == 1 && (tokens[index] == "{" || tokens[index] == ",");
        if let Some(head) = tokens.get(index + 1).filter(|head| starts_item && *head != "}") {
            named.insert(head.clone());
        }
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The tokens of a Rust source without comments, strings and characters. Names and `::` are whole, everything else
/// is single characters.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = at(i);
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut open = 0;
            while i < chars.len() {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (open, i) = (open + 1, i + 2),
                    ('*', '/') => (open, i) = (open - 1, i + 2),
                    _ => i += 1,
                }
                if open == 0 {
                    break;
                }
            }
        } else if let Some(end) = raw_string_end(&chars, i) {
            i = end;
        } else if c == '"' {
            i += 1;
            while i < chars.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            i += if at(i + 1) == '\\' { 3 } else { 2 };
            while i < chars.len() && at(i) != '\'' {
                i += 1;
            }
            i += 1;
        } else if c.is_alphabetic() || c == '_' {
            let start = i;
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            tokens.push(chars[start..i].iter().collect());
        } else if c == ':' && at(i + 1) == ':' {
            tokens.push("::".to_owned());
            i += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            i += 1;
        }
    }
    tokens
}

/// Where a raw string (`r"…"`, `br#"…"#`) that starts here ends.
fn raw_string_end(chars: &[char], start: usize) -> Option<usize> {
    let mut i = start;
    if matches!(chars.get(i), Some('b' | 'c')) {
        i += 1;
    }
    if chars.get(i) != Some(&'r')
        || (start > 0 && (chars[start - 1].is_alphanumeric() || chars[start - 1] == '_'))
    {
        return None;
    }
    i += 1;
    let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
    i += hashes;
    if chars.get(i) != Some(&'"') {
        return None;
    }
    i += 1;
    while i < chars.len() {
        if chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return Some(i + 1 + hashes);
        }
        i += 1;
    }
    Some(chars.len())
}

fn made_up(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}

#[test]
fn an_import_upwards_is_found_however_it_is_written() {
    let cases = [
        ("audio/mod.rs", "use crate::asr::Word;"),
        ("audio/vad.rs", "use crate::{config::Vad, asr::{Word, Segment}};"),
        ("audio/vad.rs", "use crate :: {\n  config,\n  asr,\n};"),
        ("audio/vad.rs", "fn f() { crate::asr::engine::run(); }"),
        ("audio/vad.rs", "use super::super::asr;"),
        ("audio/vad.rs", "mod tests { use super::super::super::asr; }"),
        ("audio/mod.rs", "use super::{config, asr::Word};"),
        ("shutdown.rs", "use crate::config::Stop;"),
        ("config/load.rs", "use crate::telemetry;"),
        ("asr/stream.rs", "use crate::bus::Event;"),
        ("main.rs", "use godctl::asr;"),
        ("cmd/bench.rs", "use crate::nowhere;"),
        ("unknown/mod.rs", "fn f() {}"),
    ];
    for (path, text) in cases {
        assert!(!imports_upwards(&made_up(path, text)).is_empty(), "{path}: {text}");
    }
}

#[test]
fn an_import_downwards_or_inside_is_left_alone() {
    let cases = [
        ("audio/vad.rs", "// use crate::asr;\nuse crate::{audio::SAMPLE_RATE_HZ, config::Vad};"),
        (
            "audio/vad.rs",
            "/* crate::asr /* nested */ crate::bus */ fn f() -> &'static str { \"crate::asr\" }",
        ),
        (
            "audio/vad.rs",
            "const A: &str = r#\"crate::asr \" crate::bus\"#; const B: char = '\"'; use crate::config;",
        ),
        ("audio/vad.rs", "use super::Frame; mod tests { use super::*; use super::super::Frame; }"),
        ("audio/deep/er.rs", "use super::super::Frame;"),
        ("asr/mod.rs", "pub(crate) fn f<'a>(x: &'a str) {} use crate::audio;"),
        ("cmd/serve.rs", "use crate::{asr, audio, config, shutdown::Shutdown};"),
        ("main.rs", "fn main() { godctl::cmd::main() }"),
    ];
    for (path, text) in cases {
        assert_eq!(imports_upwards(&made_up(path, text)), Vec::<String>::new(), "{path}: {text}");
    }
}

#[test]
fn a_call_to_a_child_is_found_and_a_type_of_a_child_is_not() {
    let bad = [
        "mod child;\nfn f() { child::run(); }",
        "mod child;\nfn f() { self::child::Thing::new(); }",
        "mod child;\npub use self::child::Thing;\nfn f() { Thing::new(); }",
        "mod child;\nuse child::{run, Thing};\nfn f() { run(1); }",
        "mod child;\npub use self::{child::{run, Thing}};\nfn f() { Thing::make(1); }",
    ];
    for text in bad {
        assert!(!calls_to_children(&made_up("room/mod.rs", text)).is_empty(), "{text}");
    }
    let good = [
        "mod child;\npub use self::child::{run, Thing};\nstruct S { thing: Thing }\nfn f(x: child::Other) -> Thing { x.run() }",
        "mod child;\nfn f() { other::run(); crate::child(); }",
        "pub mod child { pub fn run() {} }",
        "mod config;\nuse crate::config::Config;\nfn f() { Config::default(); }",
    ];
    for text in good {
        assert_eq!(calls_to_children(&made_up("room/mod.rs", text)), Vec::<String>::new(), "{text}");
    }
    assert!(calls_to_children(&made_up("room/file.rs", bad[0])).is_empty());
}

#[test]
fn a_long_or_silent_file_is_found() {
    assert_eq!(shape(&made_up("a.rs", "fn f() {}\n")).len(), 1);
    assert_eq!(shape(&made_up("a.rs", &format!("//! A.\n{}", "\n".repeat(MAX_LINES)))).len(), 1);
    assert!(shape(&made_up("a.rs", "//! A.\n")).is_empty());
}
