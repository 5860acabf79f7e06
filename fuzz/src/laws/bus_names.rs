//! What names things on the bus: addresses of brokers, topic patterns, event types.

use godctl::{
    bus::{EventType, Pattern, amqp::uri},
    config::{BusUrl, Secret},
};

/// The first line is a pattern and the second a key; the whole is an address.
pub fn hold(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (pattern, key) = text.split_once('\n').unwrap_or((text, ""));
    topic(pattern, key);
    if let Ok(url) = BusUrl::try_from(text.to_owned()) {
        address(&url);
    }
}

/// Holds: matching is as it is defined; what is taken is written as it came.
fn topic(pattern: &str, key: &str) {
    let plain = key.parse::<EventType>().is_ok_and(|key| key.is_plain());
    let Ok(parsed) = pattern.parse::<Pattern>() else { return };
    assert_eq!(parsed.as_str(), pattern);
    let words: Vec<&str> = if key.is_empty() { Vec::new() } else { key.split('.').collect() };
    assert_eq!(parsed.matches(key), matches(&pattern.split('.').collect::<Vec<_>>(), &words));
    assert!(Pattern::all().matches(key));
    assert!(!plain || key.parse::<Pattern>().unwrap().matches(key), "a plain type is a pattern for itself");
}

/// The definition: which beginnings of the key each word of the pattern can reach.
fn matches(pattern: &[&str], key: &[&str]) -> bool {
    let mut reached = vec![false; key.len() + 1];
    reached[0] = true;
    for word in pattern {
        let before = std::mem::replace(&mut reached, vec![false; key.len() + 1]);
        for at in 0..=key.len() {
            reached[at] = match *word {
                "#" => before[..=at].contains(&true),
                word => at > 0 && before[at - 1] && (word == "*" || word == key[at - 1]),
            };
        }
    }
    reached[key.len()]
}

/// Holds: an address that is read, written with all its parts and read again has the same parts; what is shown of it
/// is shown of that too.
fn address(url: &BusUrl) {
    let shown = url.to_string();
    if let Ok(again) = shown.parse::<BusUrl>() {
        assert_eq!(again.to_string(), shown);
    }
    let Ok(address) = uri::parse(url, Some("configured"), Some(&Secret::new("secret".to_owned()))) else {
        return;
    };
    assert_eq!(address.to_string(), shown);
    assert!(url.is_broker() && !address.host.is_empty() && address.port > 0 && address.vhost.len() <= 255);
    let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let scheme = if address.tls { "amqps" } else { "amqp" };
    let host = if address.host.contains(':') || address.host.starts_with('[') {
        format!("[{}]", address.host)
    } else {
        address.host.clone()
    };
    let (user, password) = (escaped(&address.username), escaped(address.password.expose()));
    let written = format!("{scheme}://{user}:{password}@{host}:{}/{}", address.port, escaped(&address.vhost));
    let Ok(written) = BusUrl::try_from(written) else { panic!("{address} cannot be written") };
    let again = uri::parse(&written, None, None).unwrap();
    assert_eq!((again.tls, &again.host, again.port), (address.tls, &address.host, address.port));
    assert_eq!((&again.vhost, &again.username), (&address.vhost, &address.username));
    assert_eq!(again.password.expose(), address.password.expose());
}
