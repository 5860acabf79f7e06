//! Configuration files as users write them: those that load, those that don't and what they are told, and secrets.

use std::path::Path;

use godctl::config::{Config, Environment, Loaded, Loader, Shown};

use crate::support::{Home, files, read};

fn load(path: &Path) -> Result<Loaded, godctl::config::ConfigError> {
    Loader::new(Environment::made_up([], Path::new("/home/user"))).file(path.to_owned()).load()
}

#[test]
fn valid_files_load() {
    for path in files("tests/fixtures/valid_configs", ".toml") {
        let loaded = load(&path).unwrap_or_else(|error| panic!("{error}"));
        let empty = path.ends_with("empty.toml");
        assert_eq!(loaded.config == Config::default(), empty, "{} sets nothing", path.display());
    }
}

#[test]
fn invalid_files_are_refused_with_the_message_beside_them() {
    for path in files("tests/fixtures/invalid_configs", ".toml") {
        let error = load(&path).expect_err(path.to_str().unwrap()).to_string();
        let error = error.replace(path.to_str().unwrap(), path.file_name().unwrap().to_str().unwrap());
        let expected = std::fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
        assert_eq!(error, expected.trim_end(), "{}", path.display());
    }
}

#[test]
fn the_example_holds_every_key_with_its_default() {
    let home = Home::new();
    let example = read("assets/config.example.toml");
    let as_is = home.write("as-is.toml", &example);
    assert_eq!(load(&as_is).unwrap().config, Config::default());

    // A comment that is a key and a value; prose has no `=` after its first word.
    let is_key = |text: &str| text.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let uncommented =
        example.lines().map(|line| line.strip_prefix("# ").filter(|text| is_key(text)).unwrap_or(line));
    let path = home.write("all.toml", &uncommented.collect::<Vec<_>>().join("\n"));
    let all = load(&path).unwrap();

    let defaults = load(&as_is).unwrap();
    for (set, default) in all.entries().into_iter().zip(defaults.entries()) {
        assert_eq!(set.origin.layer(), "file", "{} is not in the example", set.key);
        if default.value != Shown::Unset {
            assert_eq!(set.value, default.value, "the example shows another default for {}", set.key);
        }
    }
}

#[test]
fn config_example_prints_the_example() {
    let ran = Home::new().godctl(&["config", "example"]);
    assert_eq!((ran.code, ran.stdout), (Some(0), read("assets/config.example.toml")));
}

#[test]
fn show_tells_values_and_where_they_came_from() {
    let home = Home::new();
    home.write(".config/godctl/config.toml", "[asr]\nmax_sessions = 3\n\n[models]\ntoken = \"t\"\n");
    let show = |args: &[&str]| {
        let mut command = home.command("godctl");
        let output = command.args(args).env("GODCTL__ASR__HOP_MS", "250").output().unwrap();
        String::from_utf8(output.stdout).unwrap().replace(home.path().to_str().unwrap(), "~")
    };
    insta::assert_snapshot!("show_origin", show(&["config", "show", "--origin", "-c", "asr.threads=2"]));
    insta::assert_snapshot!("show_json", show(&["config", "show", "--json"]));
    let flat: serde_json::Value =
        serde_json::from_str(&show(&["config", "show", "--json", "--origin"])).unwrap();
    assert_eq!(flat["asr.hop_ms"]["layer"], "env");
    assert_eq!(flat["models.token"]["value"], "***");
    insta::assert_snapshot!(show(&["config", "check"]), @"ok: 3 keys set (~/.config/godctl/config.toml)");
}

#[test]
fn no_run_prints_a_secret() {
    const MARKER: &str = "marker-91be";
    let home = Home::new();
    let secret = format!("[models]\ntoken = \"{MARKER}\"\n");
    home.write(".config/godctl/config.toml", &secret);
    let wrong_type = home.write("type.toml", &format!("[models]\ntoken = [\"{MARKER}\"]\n"));
    let wrong_syntax = home.write("syntax.toml", &format!("[models]\ntoken = {MARKER}\n"));
    let assignment = format!("models.token={MARKER}");
    let mistyped = format!("models.tokken={MARKER}");
    let runs: &[&[&str]] = &[
        &["config", "show"],
        &["config", "show", "--origin"],
        &["config", "show", "--json"],
        &["config", "show", "--json", "--origin"],
        &["config", "show", "-c", &assignment],
        &["config", "check", "-vvv", "--log-format", "json"],
        &["config", "check", "-c", &mistyped],
        &["config", "check", "--config", wrong_type.to_str().unwrap()],
        &["config", "check", "--config", wrong_syntax.to_str().unwrap()],
        &["doctor", "-vvvv", "-c", "models.offline=true"],
        &["doctor", "--json", "--config", wrong_syntax.to_str().unwrap(), "-c", "models.offline=true"],
    ];
    for args in runs {
        for name in ["HF_TOKEN", "GODCTL__MODELS__TOKEN"] {
            let output = home.command("godctl").args(*args).env(name, MARKER).output().unwrap();
            let all = [output.stdout, output.stderr].concat();
            assert!(!all.is_empty(), "{args:?} says nothing");
            assert!(!String::from_utf8_lossy(&all).contains(MARKER), "{args:?}");
        }
    }
}
