//! The tree of keys, taken from the types themselves, and the nearest known key to a mistyped one.

use std::sync::LazyLock;

use serde::{
    Deserialize,
    de::{Deserializer, Error as _, Visitor},
    forward_to_deserialize_any,
};

use super::{AgentListen, Agents, Asr, Audio, Bus, Config, Log, Models, Stop, Store, Up, Vad};

/// Every key, dotted, and the names of the sections.
#[derive(Debug)]
pub(super) struct Schema {
    sections: Vec<String>,
    /// Those without a section first, then by section, as declared.
    keys: Vec<String>,
}

/// Keys that hold a secret: never shown, and masked in errors.
pub(super) const SECRET_KEYS: &[&str] =
    &["models.token", "bus.password", "asr.token", "store.password", "store.keys"];

pub(super) static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    Schema::new(&[
        ("log", fields_of::<Log>()),
        ("audio", fields_of::<Audio>()),
        ("vad", fields_of::<Vad>()),
        ("asr", fields_of::<Asr>()),
        ("models", fields_of::<Models>()),
        ("bus", fields_of::<Bus>()),
        ("agents", fields_of::<Agents>()),
        ("listen", fields_of::<AgentListen>()),
        ("store", fields_of::<Store>()),
        ("up", fields_of::<Up>()),
        ("shutdown", fields_of::<Stop>()),
    ])
});

impl Schema {
    fn new(sections: &[(&str, &[&str])]) -> Self {
        let names: Vec<String> = sections.iter().map(|(name, _)| (*name).to_owned()).collect();
        let top =
            fields_of::<Config>().iter().map(|key| (*key).to_owned()).filter(|key| !names.contains(key));
        let nested =
            sections.iter().flat_map(|(name, keys)| keys.iter().map(move |key| format!("{name}.{key}")));
        let keys = top.chain(nested).collect();
        Self { sections: names, keys }
    }

    /// True for a table that holds keys, such as `asr`.
    pub(super) fn is_section(&self, path: &str) -> bool {
        self.sections.iter().any(|section| section == path)
    }

    /// True for a key that has a value, such as `asr.listen`.
    pub(super) fn is_key(&self, path: &str) -> bool {
        self.keys.iter().any(|key| key == path)
    }

    /// All keys: those without a section first, then by section.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(String::as_str)
    }

    /// The known key that a wrong one was most likely meant to be.
    pub(super) fn nearest(&self, wrong: &str) -> Option<&str> {
        let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
        let in_another_section = || {
            let mut same = self.keys.iter().filter(|key| last(key) == last(wrong));
            same.next().filter(|_| same.next().is_none()).map(String::as_str)
        };
        let close = self
            .keys
            .iter()
            .chain(&self.sections)
            .map(|key| (distance(key, wrong), key.as_str()))
            .min()
            .filter(|(distance, key)| *distance <= 1 + key.len().min(wrong.len()) / 5)
            .map(|(_, key)| key);
        close.or_else(in_another_section)
    }
}

/// Looks like something that should not be printed, known key or not.
pub(super) fn is_secret(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let tells = ["token", "secret", "passw", "api_key", "apikey", "credential"];
    SECRET_KEYS.contains(&key)
        || (!SCHEMA.is_key(key) && (tells.iter().any(|tell| last.contains(tell)) || near_secret(key)))
}

/// A mistyped secret key still carries a secret.
fn near_secret(key: &str) -> bool {
    SCHEMA.nearest(key).is_some_and(|nearest| SECRET_KEYS.contains(&nearest))
}

/// Edit distance where swapping two neighbours counts once.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// The field names that a struct's `Deserialize` asks for.
fn fields_of<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // The recorder always answers with an error: there is no value to build, only names to note.
    drop(T::deserialize(FieldRecorder(&mut fields)));
    fields
}

struct FieldRecorder<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldRecorder<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(Self::Error::custom("noted"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_of_keys_follows_the_types() {
        assert!(SCHEMA.is_key("asr.listen") && SCHEMA.is_key("data_dir") && SCHEMA.is_key("models.token"));
        assert!(SCHEMA.is_section("vad") && !SCHEMA.is_key("vad"));
        let defaults = toml::Table::try_from(Config::default()).unwrap();
        for (name, value) in &defaults {
            assert_eq!(SCHEMA.is_section(name), value.is_table(), "list the section {name} in SCHEMA");
        }
        assert_eq!(SCHEMA.keys().next(), Some("data_dir"));
    }

    #[test]
    fn a_mistyped_key_finds_its_neighbour() {
        let cases = [
            ("asr.lisetn", Some("asr.listen")),
            ("asr.treads", Some("asr.threads")),
            ("aasr.listen", Some("asr.listen")),
            ("asr.threshold", Some("vad.threshold")),
            ("modles", Some("models")),
            ("completely.different", None),
        ];
        for (wrong, right) in cases {
            assert_eq!(SCHEMA.nearest(wrong), right, "{wrong}");
        }
    }

    #[test]
    fn what_may_be_a_secret_is_treated_as_one() {
        for key in [
            "models.token",
            "models.tokn",
            "models.api_key",
            "hub.Password",
            "models.tken",
            "asr.token",
            "asr.tokn",
        ] {
            assert!(is_secret(key), "{key}");
        }
        for key in ["models.token_file", "models.endpoint", "asr.listn", "asr.tokens_file"] {
            assert!(!is_secret(key), "{key}");
        }
    }

    #[test]
    fn a_swap_counts_once() {
        assert_eq!((distance("abc", "abc"), distance("abc", "acb"), distance("", "abc")), (0, 1, 3));
    }
}
