//! The layers: each becomes a list of keys with an origin, later layers win, and the merged table is parsed once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Serialize;
use toml::{Table, Value, de::DeTable};

use super::{
    Config, ConfigError, Entry, Environment, Origin, Paths,
    mask::{mask_addresses, mask_value},
    schema::{SCHEMA, SECRET_KEYS, is_secret},
};

/// Variables named after the configuration: `GODCTL__ASR__LISTEN` is `asr.listen`.
const PREFIX: &str = "GODCTL__";

/// Variables that other programs of this field use too. They are weaker than `GODCTL__…`, and in this order.
const CONVENTIONS: &[(&str, &str)] = &[
    ("RUST_LOG", "log.level"),
    ("HF_ENDPOINT", "models.endpoint"),
    ("HF_TOKEN_PATH", "models.token_file"),
    ("HF_TOKEN", "models.token"),
    (HF_OFFLINE, "models.offline"),
    ("RABBIT_URL", "bus.url"),
    ("DEFAULT_USERNAME", "bus.username"),
    ("DEFAULT_PASSWORD", "bus.password"),
    ("GODCTL_SESSION_KEYS", "store.keys"),
    ("GODCTL_DATA_DIR", "data_dir"),
];

/// Its values are `1` and `0` where TOML has `true` and `false`.
const HF_OFFLINE: &str = "HF_HUB_OFFLINE";

/// What one layer says about one key.
#[derive(Debug)]
struct Setting {
    key: String,
    value: Given,
    origin: Origin,
}

#[derive(Debug)]
enum Given {
    /// Has a type already.
    Typed(Value),
    /// Text from the environment or the command line: TOML where the key takes it as such, else a string.
    Text(String),
}

/// Values that a command's own flags set: the strongest layer.
#[derive(Debug, Default)]
pub struct Overrides(Vec<Result<Setting, ConfigError>>);

impl Overrides {
    /// Sets `key` to the value that `flag` (as written on the command line, such as `--listen`) was given, if it was.
    pub fn set<V: Serialize>(&mut self, flag: &str, key: &str, value: Option<&V>) -> &mut Self {
        let origin = Origin::Flag(flag.to_owned());
        let setting = match value.map(Value::try_from) {
            None => return self,
            Some(Ok(value)) => Ok(Setting { key: key.to_owned(), value: Given::Typed(value), origin }),
            Some(Err(error)) => {
                let (value, reason) = ("that".to_owned(), error.to_string());
                Err(ConfigError::BadValue { key: key.to_owned(), origin, value, reason })
            }
        };
        self.0.push(setting);
        self
    }
}

/// Collects the layers. Nothing is read before [`Loader::load`].
#[derive(Debug)]
pub struct Loader {
    environment: Environment,
    file: Option<PathBuf>,
    assignments: Vec<String>,
    overrides: Overrides,
}

/// A configuration and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Where things are kept.
    pub paths: Paths,
    origins: BTreeMap<String, Origin>,
}

impl Loader {
    /// Starts with the defaults and what the environment says.
    #[must_use]
    pub fn new(environment: Environment) -> Self {
        Self { environment, file: None, assignments: Vec::new(), overrides: Overrides::default() }
    }

    /// Reads this file instead of the one that `GODCTL_CONFIG` names or the user's own; it must exist.
    #[must_use]
    pub fn file(mut self, path: PathBuf) -> Self {
        self.file = Some(path);
        self
    }

    /// Adds the `section.key=value` texts of `-c`.
    #[must_use]
    pub fn assignments(mut self, assignments: Vec<String>) -> Self {
        self.assignments.extend(assignments);
        self
    }

    /// Adds what a command's own flags say; they win over `-c`.
    #[must_use]
    pub fn overrides(mut self, overrides: Overrides) -> Self {
        self.overrides.0.extend(overrides.0);
        self
    }

    /// Reads, merges, parses and validates. Has no side effects.
    ///
    /// # Errors
    /// The first thing wrong, lowest layer first.
    pub fn load(self) -> Result<Loaded, ConfigError> {
        let Self { environment, file, assignments, overrides } = self;

        let named = file.or_else(|| environment.get("GODCTL_CONFIG").map(PathBuf::from));
        let config_file = named.clone().or_else(|| environment.default_file());
        let mut settings = match &config_file {
            Some(path) => read_file(path, named.is_some())?,
            None => Vec::new(),
        };
        settings.extend(from_environment(&environment)?);
        for text in assignments {
            settings.push(from_assignment(&text)?);
        }
        for setting in overrides.0 {
            settings.push(setting?);
        }

        let mut merged = Table::new();
        let mut origins = BTreeMap::new();
        for setting in settings {
            let (key, value, origin) = typed(setting)?;
            insert(&mut merged, &key, value);
            origins.insert(key, origin);
        }

        let config: Config =
            merged.try_into().map_err(|error: toml::de::Error| ConfigError::Merged(error.to_string()))?;
        check(&config, &origins)?;
        let paths = Paths::new(&config, &environment, config_file)?;
        Ok(Loaded { config, paths, origins })
    }
}

impl Loaded {
    /// Every key with its value (secrets masked) and the layer that gave it.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let entry = |(key, value): (String, _)| {
            let origin = self.origins.get(&key).cloned().unwrap_or_default();
            Entry { key, value, origin }
        };
        self.config.shown().into_iter().map(entry).collect()
    }

    /// The layer that gave `key` its value.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or_default()
    }
}

fn read_file(path: &Path, must_exist: bool) -> Result<Vec<Setting>, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(Vec::new()),
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    let syntax = |error: toml::de::Error| {
        let (line, column) = position(&text, error.span().map_or(0, |span| span.start));
        let reason = error.message().trim().replace('\n', ", ");
        ConfigError::Syntax { path: path.to_owned(), line, column, reason }
    };
    let table: Table = text.parse().map_err(syntax)?;
    let spans = DeTable::parse(&text).map_err(syntax)?;

    let mut lines = BTreeMap::new();
    note_lines(spans.get_ref(), "", &text, &mut lines);
    let mut settings = Vec::new();
    flatten(table, "", &mut |key, value| {
        let line = lines.get(&key).copied().unwrap_or(1);
        let origin = Origin::File { path: path.to_owned(), line };
        settings.push(Setting { key, value: Given::Typed(value), origin });
    });
    Ok(settings)
}

/// Calls `found` for each value, in any depth; an empty unknown table counts as a value, so that it gets noticed.
fn flatten(table: Table, prefix: &str, found: &mut impl FnMut(String, Value)) {
    for (name, value) in table {
        let key = join(prefix, &name);
        match value {
            Value::Table(inner) if !SCHEMA.is_key(&key) && (SCHEMA.is_section(&key) || !inner.is_empty()) => {
                flatten(inner, &key, found);
            }
            value => found(key, value),
        }
    }
}

fn note_lines(table: &DeTable<'_>, prefix: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    for (name, value) in table {
        let key = join(prefix, name.get_ref());
        if let Some(inner) = value.get_ref().as_table() {
            note_lines(inner, &key, text, lines);
        }
        lines.insert(key, position(text, name.span().start).0);
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// Line and column, both from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before.chars().count() - before.get(..start).map_or(0, |s| s.chars().count()) + 1,
    )
}

fn from_environment(environment: &Environment) -> Result<Vec<Setting>, ConfigError> {
    let ours = |name: &&str| name.starts_with(PREFIX) || CONVENTIONS.iter().any(|(known, _)| known == name);
    if let Some(name) = environment.not_text().find(ours) {
        return Err(ConfigError::NotText(name.to_owned()));
    }
    let setting = |name: &str, key: String, text: &str| {
        let switch = if name == HF_OFFLINE { as_switch(text) } else { None };
        let value =
            switch.map_or_else(|| Given::Text(text.to_owned()), |on| Given::Typed(Value::Boolean(on)));
        Setting { key, value, origin: Origin::Env(name.to_owned()) }
    };
    let conventional = CONVENTIONS
        .iter()
        .filter_map(|(name, key)| Some(setting(name, (*key).to_owned(), environment.get(name)?)));
    let own = environment.iter().filter_map(|(name, text)| {
        let key = name.strip_prefix(PREFIX)?.to_ascii_lowercase().replace("__", ".");
        Some(setting(name, key, text))
    });
    Ok(conventional.chain(own).collect())
}

fn as_switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn from_assignment(text: &str) -> Result<Setting, ConfigError> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let key = key.trim();
    if key.is_empty() || !text.contains('=') {
        return Err(ConfigError::Assignment { flag: format!("-c {}", mask_addresses(key)) });
    }
    let value = Given::Text(value.trim().to_owned());
    Ok(Setting { key: key.to_owned(), value, origin: Origin::Flag(format!("-c {key}=…")) })
}

/// Checks one setting by itself: every key has a default, so a table with this key alone must parse.
fn typed(setting: Setting) -> Result<(String, Value, Origin), ConfigError> {
    let Setting { key, value, origin } = setting;
    let candidates = match value {
        Given::Typed(value) => vec![value],
        Given::Text(text) => {
            let string = Value::String(text.clone());
            text.parse::<Value>().map_or_else(|_| vec![string.clone()], |value| vec![value, string.clone()])
        }
    };
    let show = |value: &Value| match is_secret(&key) {
        true => "***".to_owned(),
        false => mask_value(&key, &value.to_string()),
    };
    let Some(first) = candidates.first().map(show) else {
        unreachable!("there is always a candidate");
    };

    if SCHEMA.is_section(&key) {
        let reason = format!("it is a section; set a key in it, such as {key}.KEY");
        return Err(ConfigError::BadValue { key, origin, value: first, reason });
    }
    if !SCHEMA.is_key(&key) {
        let advice = SCHEMA.nearest(&key).map_or_else(
            || "`godctl config example` lists them all".to_owned(),
            |nearest| format!("did you mean {nearest}?"),
        );
        return Err(ConfigError::UnknownKey { key, origin, value: first, advice });
    }

    let mut reason = None;
    for value in candidates {
        let mut alone = Table::new();
        insert(&mut alone, &key, value.clone());
        match alone.try_into::<Config>() {
            Ok(_) => return Ok((key, value, origin)),
            Err(error) => reason = reason.or_else(|| Some(mask_value(&key, error.message().trim()))),
        }
    }
    let secret = SECRET_KEYS.contains(&key.as_str());
    let reason = if secret { "want a text".to_owned() } else { reason.unwrap_or_default() };
    Err(ConfigError::BadValue { key, origin, value: first, reason })
}

/// Puts a value at a dotted key, making the tables on the way.
fn insert(table: &mut Table, key: &str, value: Value) {
    let Some((section, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return;
    };
    let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(inner) = inner {
        insert(inner, rest, value);
    }
}

fn check(config: &Config, origins: &BTreeMap<String, Origin>) -> Result<(), ConfigError> {
    config.validate().map_err(|violation| {
        let key = violation.key.to_owned();
        let origin = origins.get(&key).cloned().unwrap_or_default();
        let shown = config.shown().into_iter().find(|(name, _)| *name == key);
        let value = shown.map_or_else(String::new, |(_, value)| value.to_string());
        ConfigError::BadValue { key, origin, value, reason: violation.reason }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Listen, Secret};

    const MARKER: &str = "marker-5d1c";

    struct Fixture {
        home: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            Self { home: tempfile::tempdir().unwrap() }
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.home.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        }

        fn loader(&self, vars: &[(&str, &str)]) -> Loader {
            Loader::new(Environment::made_up(vars.iter().copied(), self.home.path()))
        }
    }

    fn set(loader: Loader, assignments: &[&str]) -> Result<Loaded, ConfigError> {
        loader.assignments(assignments.iter().map(|text| (*text).to_owned()).collect()).load()
    }

    #[test]
    fn each_layer_wins_over_the_one_below_and_is_remembered() {
        let fixture = Fixture::new();
        let file = fixture.write(
            ".config/godctl/config.toml",
            "[asr]\nmax_sessions = 1\nhop_ms = 200\nbeam_size = 2\nlisten = \"127.0.0.1:1\"\n",
        );
        let vars =
            [("GODCTL__ASR__HOP_MS", "300"), ("GODCTL__ASR__BEAM_SIZE", "3"), ("GODCTL__ASR__LISTEN", "a:2")];
        let mut overrides = Overrides::default();
        overrides.set("--listen", "asr.listen", Some(&"localhost:0")).set::<String>(
            "--model",
            "asr.model",
            None,
        );
        let loader = fixture.loader(&vars).overrides(overrides);
        let loaded = set(loader, &["asr.beam_size=4", "asr.listen=b:3"]).unwrap();

        let asr = &loaded.config.asr;
        assert_eq!((asr.max_sessions.to_string().as_str(), asr.hop_ms, asr.beam_size), ("1", Some(300), 4));
        assert_eq!(asr.listen.as_str(), "localhost:0");
        assert_eq!(asr.model, None);
        assert_eq!(loaded.origin("asr.max_sessions"), Origin::File { path: file, line: 2 });
        assert_eq!(loaded.origin("asr.hop_ms"), Origin::Env("GODCTL__ASR__HOP_MS".to_owned()));
        assert_eq!(loaded.origin("asr.beam_size"), Origin::Flag("-c asr.beam_size=…".to_owned()));
        assert_eq!(loaded.origin("asr.listen"), Origin::Flag("--listen".to_owned()));
        assert_eq!(loaded.origin("asr.device"), Origin::Default);
    }

    #[test]
    fn nothing_set_gives_the_defaults_and_makes_no_file() {
        let fixture = Fixture::new();
        let loaded = fixture.loader(&[]).load().unwrap();
        assert_eq!(loaded.config, Config::default());
        assert_eq!(loaded.paths.data_dir, fixture.home.path().join(".local/share/godctl"));
        assert_eq!(loaded.paths.models_dir, loaded.paths.data_dir.join("models"));
        assert_eq!(std::fs::read_dir(fixture.home.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_named_file_must_exist_whoever_names_it() {
        let fixture = Fixture::new();
        let missing = fixture.home.path().join("none.toml");
        let error = fixture.loader(&[]).file(missing.clone()).load().unwrap_err();
        assert!(matches!(&error, ConfigError::Read { path, .. } if *path == missing), "{error}");
        let error = fixture.loader(&[("GODCTL_CONFIG", missing.to_str().unwrap())]).load().unwrap_err();
        assert!(matches!(&error, ConfigError::Read { path, .. } if *path == missing), "{error}");
    }

    #[test]
    fn the_flag_wins_over_the_variable_that_names_a_file() {
        let fixture = Fixture::new();
        let flag = fixture.write("flag.toml", "asr.hop_ms = 111");
        let variable = fixture.write("variable.toml", "asr.hop_ms = 222");
        let vars = [("GODCTL_CONFIG", variable.to_str().unwrap())];
        assert_eq!(fixture.loader(&vars).load().unwrap().config.asr.hop_ms, Some(222));
        assert_eq!(fixture.loader(&vars).file(flag).load().unwrap().config.asr.hop_ms, Some(111));
    }

    #[test]
    fn conventional_variables_are_heard_but_weaker_than_our_own() {
        let fixture = Fixture::new();
        let vars = [
            ("HF_TOKEN", "hf_1"),
            ("HF_ENDPOINT", "http://mirror.example"),
            ("HF_HUB_OFFLINE", "1"),
            ("RUST_LOG", "debug"),
            ("GODCTL_DATA_DIR", "/data"),
            ("GODCTL__LOG__LEVEL", "warn"),
        ];
        let loaded = fixture.loader(&vars).load().unwrap();
        let Loaded { config, paths, .. } = &loaded;
        assert_eq!(config.models.read_token().unwrap(), Some(Secret::new("hf_1".to_owned())));
        assert_eq!((config.models.endpoint.as_str(), config.models.offline), ("http://mirror.example", true));
        assert_eq!(config.log.level.as_deref(), Some("warn"));
        assert_eq!(paths.models_dir, Path::new("/data/models"));
        let error = fixture.loader(&[("HF_HUB_OFFLINE", "perhaps")]).load().unwrap_err();
        insta::assert_snapshot!(error, @r#"environment variable HF_HUB_OFFLINE: models.offline cannot be "perhaps": invalid type: string "perhaps", expected a boolean"#);
    }

    #[test]
    fn text_is_toml_where_the_key_takes_it_and_a_string_otherwise() {
        let fixture = Fixture::new();
        let loaded = set(
            fixture.loader(&[("GODCTL__MODELS__TOKEN", "12345")]),
            &[
                "asr.model=tiny.en",
                "audio.input=\"quoted\"",
                "asr.threads=3",
                "models.offline=true",
                "vad.release=0",
            ],
        );
        let config = loaded.unwrap().config;
        assert_eq!(config.models.token.as_ref().map(Secret::expose), Some("12345"));
        assert_eq!(config.asr.model.as_deref(), Some("tiny.en"));
        assert_eq!(config.audio.input.as_deref(), Some("quoted"));
        assert_eq!((config.asr.threads, config.models.offline), (Some(3), true));
    }

    #[test]
    fn errors_name_key_layer_and_value() {
        let fixture = Fixture::new();
        let message = |assignment: &str| set(fixture.loader(&[]), &[assignment]).unwrap_err().to_string();
        insta::assert_snapshot!(message("asr.hop_ms=soon"), @r#"flag -c asr.hop_ms=…: asr.hop_ms cannot be "soon": invalid type: string "soon", expected u32"#);
        insta::assert_snapshot!(message("asr.lisetn=1"), @"flag -c asr.lisetn=…: unknown key asr.lisetn (value 1); did you mean asr.listen?");
        insta::assert_snapshot!(message("nonsense=1"), @"flag -c nonsense=…: unknown key nonsense (value 1); `godctl config example` lists them all");
        insta::assert_snapshot!(message("asr=1"), @"flag -c asr=…: asr cannot be 1: it is a section; set a key in it, such as asr.KEY");
        insta::assert_snapshot!(message("asr.listen=8000"), @"flag -c asr.listen=…: asr.listen cannot be 8000: invalid type: integer `8000`, expected a string");
        insta::assert_snapshot!(message("asr.listen=::1:80"), @r#"flag -c asr.listen=…: asr.listen cannot be "::1:80": not an address to listen on; write host:port, such as 127.0.0.1:8000 or [::1]:8000"#);
        insta::assert_snapshot!(message("log.format=xml"), @r#"flag -c log.format=…: log.format cannot be "xml": unknown variant `xml`, expected `text` or `json`"#);
        insta::assert_snapshot!(message("vad.release=0.9"), @"flag -c vad.release=…: vad.release cannot be 0.9: must not be above vad.threshold, or speech never ends");
        insta::assert_snapshot!(message("log.level=wran"), @r#"flag -c log.level=…: log.level cannot be "wran": want off, error, warn, info, debug, trace or target=level,…"#);
        insta::assert_snapshot!(message("asr.hop_ms"), @"-c asr.hop_ms: want section.key=value, such as -c asr.max_sessions=4");
    }

    #[test]
    fn no_layer_can_make_a_secret_print() {
        let fixture = Fixture::new();
        let vars = [("GODCTL__MODELS__TOKEN", MARKER), ("HF_TOKEN", MARKER)];
        let file = fixture.write("c.toml", &format!("[models]\ntoken = \"{MARKER}\"\n"));
        let mut overrides = Overrides::default();
        overrides.set("--token", "models.token", Some(&MARKER));

        let by_flag = fixture.loader(&[]).overrides(overrides).load().unwrap();
        let by_env = fixture.loader(&vars).load().unwrap();
        let by_file = fixture.loader(&[]).file(file).load().unwrap();
        let by_assignment = set(fixture.loader(&[]), &[&format!("models.token={MARKER}")]).unwrap();
        for loaded in [by_flag, by_env, by_file, by_assignment] {
            assert_eq!(loaded.config.models.token.as_ref().map(Secret::expose), Some(MARKER));
            let entries = loaded.entries();
            let serialised = toml::to_string(&loaded.config).unwrap();
            let mut all = format!("{loaded:?} {loaded:#?} {:?} {entries:?} {serialised}", loaded.config);
            for entry in &entries {
                all.push_str(&format!("{} = {} # {}\n", entry.key, entry.value, entry.origin));
            }
            assert!(!all.contains(MARKER), "{all}");
            assert!(all.contains("models.token = \"***\""), "{all}");
        }

        let wrong_key = format!("models.tokn={MARKER}");
        let wrong_type = format!("models.token=[\"{MARKER}\"]");
        let broken = fixture.write("broken.toml", &format!("[models]\ntoken = \"{MARKER}\n"));
        let not_a_text = fixture.write("type.toml", "[models]\ntoken = [\"marker-5d1c\"]\n");
        let wrong_section = fixture.write("section.toml", &format!("[modelz]\ntoken = \"{MARKER}\"\n"));
        let errors = [
            set(fixture.loader(&[]), &[&wrong_key]).unwrap_err(),
            fixture.loader(&[]).file(broken).load().unwrap_err(),
            fixture.loader(&[]).file(not_a_text).load().unwrap_err(),
            fixture.loader(&[]).file(wrong_section).load().unwrap_err(),
        ];
        for error in errors {
            assert!(!format!("{error} {error:?}").contains(MARKER), "{error:?}");
        }
        // As text any value is a string, so this one is accepted rather than quoted in an error.
        assert!(set(fixture.loader(&[]), &[&wrong_type]).is_ok());
    }

    #[test]
    fn no_layer_can_make_an_address_print_its_password() {
        let fixture = Fixture::new();
        let wrong = [
            format!("ampq://user:{MARKER}@host"),
            format!("user:{MARKER}@host"),
            format!("redis://host?password={MARKER}"),
            format!("[\"amqp://user:{MARKER}@host\"]"),
        ];
        for address in &wrong {
            let quoted = if address.starts_with('[') { address.clone() } else { format!("'{address}'") };
            let file = fixture.write("broken.toml", &format!("[bus]\nurl = {quoted}\n"));
            let mut flag = Overrides::default();
            flag.set("--bus", "bus.url", Some(address));
            let errors = [
                fixture.loader(&[]).file(file).load().unwrap_err(),
                fixture.loader(&[("RABBIT_URL", address)]).load().unwrap_err(),
                fixture.loader(&[("GODCTL__BUS__URL", address)]).load().unwrap_err(),
                set(fixture.loader(&[]), &[&format!("bus.url={address}")]).unwrap_err(),
                set(fixture.loader(&[]), &[&format!("bus.ulr={address}")]).unwrap_err(),
                set(fixture.loader(&[]), &[&format!("bus.prefetch={address}")]).unwrap_err(),
                fixture.loader(&[]).overrides(flag).load().unwrap_err(),
            ];
            for error in errors {
                let shown = format!("{error} {error:?}");
                // What has no scheme may be anything where no address is wanted.
                let is_anything = !address.contains("://") && shown.contains("bus.prefetch");
                assert!(is_anything || !shown.contains(MARKER), "{shown}");
            }
        }
    }

    #[test]
    fn a_home_directory_is_needed_only_for_the_default_places() {
        let error = Loader::new(Environment::default()).load().unwrap_err();
        assert!(matches!(error, ConfigError::NoHome), "{error}");
        let loaded = set(Loader::new(Environment::default()), &["data_dir=/data"]).unwrap();
        assert_eq!(loaded.paths.models_dir, Path::new("/data/models"));
    }

    #[test]
    fn addresses_to_listen_on() {
        for good in ["127.0.0.1:0", "localhost:8000", "[::1]:80", "0.0.0.0:65535"] {
            assert!(good.parse::<Listen>().is_ok(), "{good}");
        }
        for bad in ["", "8000", ":8000", "::1:80", "host:", "host:70000", "ho st:1", "http://a:1"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_loader_panic(text in "\\PC{0,40}") {
            let fixture = Fixture::new();
            drop(set(fixture.loader(&[("GODCTL__ASR__MODEL", &text)]), &[&text]));
            let file = fixture.write("any.toml", &text);
            drop(fixture.loader(&[]).file(file).load());
        }

        #[test]
        fn a_string_key_takes_any_text(text in "[^\\pC\\s\"'\\[{][^\\pC]{0,30}") {
            let fixture = Fixture::new();
            let loaded = fixture.loader(&[("GODCTL__AUDIO__INPUT", &text)]).load().unwrap();
            prop_assert_eq!(loaded.config.audio.input, Some(text));
        }
    }
}
