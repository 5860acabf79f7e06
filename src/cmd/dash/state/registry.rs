//! The registry of services: a file that says which there are and what each of them listens to. Pure.
//!
//! TOML or JSON: `services` is a table by name, or a list whose members have a `name`; each may have `status`, `queue`,
//! `routing_keys` (or `consumes`) and `description`. What else is there is left alone.

use serde_json::{Map, Value};

use crate::{bus::Pattern, cmd::text::printable};

/// Services that are read; a screen shows fewer.
const SERVICES: usize = 500;

/// Types and patterns that a service may listen to.
const KEYS: usize = 64;

/// Letters of a text that are kept.
const TEXT: usize = 200;

/// A service, as the registry tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cmd::dash) struct Service {
    pub(in crate::cmd::dash) name: String,
    /// What somebody wrote, such as `active`; empty if nobody did.
    pub(in crate::cmd::dash) status: String,
    pub(in crate::cmd::dash) queue: String,
    pub(in crate::cmd::dash) description: String,
    /// What it listens to.
    pub(in crate::cmd::dash) keys: Vec<Pattern>,
}

/// Why a registry can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::cmd::dash) enum RegistryError {
    #[error("a registry in YAML is not read; convert it to JSON (yq -o json {0} > registry.json) or TOML")]
    Yaml(String),
    #[error("{file} is no {format}: {why}")]
    Syntax { file: String, format: &'static str, why: String },
    #[error(
        "{0} has no services; a registry has services.NAME.routing_keys, or a list 'services' whose members have a name"
    )]
    NoServices(String),
    #[error("the registry has more than {SERVICES} services; leave some out")]
    TooMany,
    #[error("the service '{service}': {why}")]
    Service { service: String, why: String },
}

/// Reads a registry; the file's name says whether it is JSON or TOML.
///
/// # Errors
/// What can't be read, and what to do about it.
pub(in crate::cmd::dash) fn parse(file: &str, text: &str) -> Result<Vec<Service>, RegistryError> {
    let ending = file.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let syntax = |format, why: String| RegistryError::Syntax { file: file.to_owned(), format, why };
    let is_json = match ending.as_str() {
        "yaml" | "yml" => return Err(RegistryError::Yaml(file.to_owned())),
        "json" => true,
        "toml" => false,
        _ => text.trim_start().starts_with(['{', '[']) && serde_json::from_str::<Value>(text).is_ok(),
    };
    let value: Value = if is_json {
        serde_json::from_str(text).map_err(|error| syntax("JSON", error.to_string()))?
    } else {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let line =
                error.span().map_or(0, |span| text.bytes().take(span.start).filter(|b| *b == b'\n').count());
            syntax("TOML", format!("line {}: {}", line + 1, error.message()))
        })?
    };
    let services = match value.get("services") {
        Some(Value::Object(map)) => map.iter().map(|(name, value)| (name.as_str(), value)).collect(),
        Some(Value::Array(items)) => named(items)?,
        _ => Vec::new(),
    };
    if services.is_empty() {
        return Err(RegistryError::NoServices(file.to_owned()));
    }
    if services.len() > SERVICES {
        return Err(RegistryError::TooMany);
    }
    services.into_iter().map(|(name, value)| service(name, value)).collect()
}

/// The members of a list, with their names.
fn named(items: &[Value]) -> Result<Vec<(&str, &Value)>, RegistryError> {
    let name = |(index, item): (usize, &'_ Value)| match item.get("name").and_then(Value::as_str) {
        Some(_) => Ok(()),
        None => Err(RegistryError::Service {
            service: format!("number {}", index + 1),
            why: "has no name".to_owned(),
        }),
    };
    items.iter().enumerate().try_for_each(name)?;
    Ok(items.iter().filter_map(|item| Some((item.get("name")?.as_str()?, item))).collect())
}

fn service(name: &str, value: &Value) -> Result<Service, RegistryError> {
    let fail = |why: String| RegistryError::Service { service: printable(name, TEXT), why };
    let Value::Object(map) = value else { return Err(fail("is no table".to_owned())) };
    let text = |names: &[&str]| {
        let text = names.iter().find_map(|name| map.get(*name)?.as_str()).unwrap_or_default();
        text.chars().take(TEXT).collect::<String>()
    };
    let keys = keys(map).map_err(fail)?;
    if keys.len() > KEYS {
        return Err(fail(format!(
            "listens to more than {KEYS} types; a pattern such as agent.# may stand for many"
        )));
    }
    Ok(Service {
        name: name.chars().take(TEXT).collect(),
        status: text(&["status"]),
        queue: text(&["queue", "queue_name"]),
        description: text(&["description"]),
        keys,
    })
}

/// What it listens to: a text or a list of them, under either name.
fn keys(map: &Map<String, Value>) -> Result<Vec<Pattern>, String> {
    let mut keys: Vec<Pattern> = Vec::new();
    for name in ["routing_keys", "consumes"] {
        let values = match map.get(name) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        for value in values {
            let Some(text) = value.as_str() else {
                return Err(format!("{name} must be a list of types, such as [\"agent.#\"]"));
            };
            let key: Pattern = text.parse().map_err(|error: crate::bus::PatternError| error.to_string())?;
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(services: &[Service]) -> Vec<String> {
        let one = |service: &Service| {
            let keys: Vec<&str> = service.keys.iter().map(Pattern::as_str).collect();
            format!("{} {} {} {}", service.name, service.status, service.queue, keys.join(","))
        };
        services.iter().map(one).collect()
    }

    #[test]
    fn a_registry_is_a_table_or_a_list_in_toml_or_json() {
        let toml = r##"
            version = 1
            [services.tonny]
            status = "active"
            queue = "tonny"
            routing_keys = ["voice.#", "transcription.voice.completed"]
            [services.candystore]
            consumes = "#"
        "##;
        let json = r##"{ "services": [
            { "name": "tonny", "status": "active", "queue_name": "tonny", "port": 80,
              "routing_keys": ["voice.#"], "consumes": ["transcription.voice.completed", "voice.#"] },
            { "name": "candystore", "routing_keys": null, "consumes": ["#"] }
        ] }"##;
        let expected = ["tonny active tonny voice.#,transcription.voice.completed", "candystore   #"];
        let mut read = shown(&parse("registry.toml", toml).unwrap());
        read.sort_by(|a, b| b.cmp(a));
        assert_eq!(read, expected);
        assert_eq!(shown(&parse("registry.JSON", json).unwrap()), expected);
        assert_eq!(shown(&parse("registry", json).unwrap()), expected);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_do() {
        let error = |file: &str, text: &str| parse(file, text).unwrap_err().to_string();
        insta::assert_snapshot!(error("services/registry.yaml", "services:"), @r"a registry in YAML is not read; convert it to JSON (yq -o json services/registry.yaml > registry.json) or TOML");
        insta::assert_snapshot!(error("r.toml", "a = 1\nb = = 2"), @r"r.toml is no TOML: line 2: extra `=`, expected nothing");
        insta::assert_snapshot!(error("r.json", "{"), @r"r.json is no JSON: EOF while parsing an object at line 1 column 1");
        insta::assert_snapshot!(error("r.json", "{}"), @r"r.json has no services; a registry has services.NAME.routing_keys, or a list 'services' whose members have a name");
        insta::assert_snapshot!(error("r.json", r#"{ "services": [{ "name": "a" }, {}] }"#), @r"the service 'number 2': has no name");
        insta::assert_snapshot!(error("r.json", r#"{ "services": { "a": { "consumes": [1] } } }"#), @r#"the service 'a': consumes must be a list of types, such as ["agent.#"]"#);
        insta::assert_snapshot!(error("r.json", r#"{ "services": { "a": 1 } }"#), @r"the service 'a': is no table");
        let many: Vec<String> = (0..501).map(|n| format!("[services.s{n}]")).collect();
        insta::assert_snapshot!(error("r.toml", &many.join("\n")), @r"the registry has more than 500 services; leave some out");
    }
}
