//! Addresses of brokers, read tolerantly: what is missing is filled in, and a password that was not percent-encoded
//! still works. Pure.

use std::fmt;

use super::super::BusError;
use crate::config::{BusUrl, Secret};

/// The broker's ports (RabbitMQ's defaults, registered with IANA).
const PORT: u16 = 5672;
const TLS_PORT: u16 = 5671;

/// User and password of a RabbitMQ that was just installed; it lets them in from its own machine only.
const GUEST: &str = "guest";

/// Where a broker is and who we are.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// `amqps`.
    pub tls: bool,
    /// A name or an IP address, without the brackets of IPv6; not empty.
    pub host: String,
    /// Not 0.
    pub port: u16,
    /// The virtual host, at most 255 bytes.
    pub vhost: String,
    /// Who we are; may be empty if the address says so.
    pub username: String,
    /// May be empty.
    pub password: Secret,
    /// The address as it may be shown.
    shown: String,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown)
    }
}

/// Reads an address. User and password come from the address, else from the arguments, else they are `guest`.
///
/// # Errors
/// [`BusError::Invalid`] with what is wrong; no password is in it.
pub fn parse(url: &BusUrl, username: Option<&str>, password: Option<&Secret>) -> Result<Address, BusError> {
    let shown = url.to_string();
    let wrong = |what: &str| BusError::Invalid(format!("{shown} is no address of a broker: {what}"));
    let (scheme, rest) = url.expose().split_once("://").ok_or_else(|| wrong("want amqp://HOST"))?;
    let tls = match scheme {
        "amqp" => false,
        "amqps" => true,
        _ => return Err(wrong("want amqp:// or amqps://")),
    };
    // As in what is shown, the last @ ends the password, whatever it holds.
    let (userinfo, rest) =
        rest.rsplit_once('@').map_or((None, rest), |(userinfo, rest)| (Some(userinfo), rest));
    let rest = rest.split_once('?').map_or(rest, |(rest, _query)| rest);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = host_and_port(authority).ok_or_else(|| wrong("want HOST or HOST:PORT"))?;
    let vhost =
        match decode(path).ok_or_else(|| wrong("the part behind the host is not percent-encoded UTF-8"))? {
            vhost if vhost.is_empty() => "/".to_owned(),
            vhost => vhost,
        };
    if vhost.len() > 255 {
        return Err(wrong("the part behind the host is longer than 255 bytes"));
    }
    let (in_url, password_in_url) = match userinfo.map(|text| text.split_once(':').unwrap_or((text, ""))) {
        None | Some(("", "")) => (None, None),
        Some((user, password)) => {
            let decoded =
                |text| decode(text).ok_or_else(|| wrong("user or password are not percent-encoded UTF-8"));
            let password = if password.is_empty() { None } else { Some(decoded(password)?) };
            (Some(decoded(user)?), password)
        }
    };
    let user = in_url.or_else(|| username.map(str::to_owned)).unwrap_or_else(|| GUEST.to_owned());
    let password = match (password_in_url, password) {
        (Some(password), _) => Secret::new(password),
        (None, Some(password)) => password.clone(),
        (None, None) if user == GUEST => Secret::new(GUEST.to_owned()),
        (None, None) => Secret::new(String::new()),
    };
    Ok(Address {
        tls,
        host,
        port: port.unwrap_or(if tls { TLS_PORT } else { PORT }),
        vhost,
        username: user,
        password,
        shown,
    })
}

/// `HOST`, `HOST:PORT`, `[V6]` or `[V6]:PORT`.
fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return None;
    }
    match port {
        None | Some("") => Some((host.to_owned(), None)),
        Some(port) => port.parse().ok().filter(|port| *port > 0).map(|port| (host.to_owned(), Some(port))),
    }
}

/// Undoes percent-encoding (RFC 3986, 2.1). A `%` that starts no code stands for itself.
fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digit = |offset: usize| bytes.get(at + offset).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).ok()?);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(url: &str) -> Result<Address, BusError> {
        parse(&BusUrl::try_from(url.to_owned()).unwrap(), None, None)
    }

    fn parts(url: &str) -> (bool, String, u16, String, String, String) {
        let a = read(url).unwrap();
        (a.tls, a.host, a.port, a.vhost, a.username, a.password.expose().to_owned())
    }

    fn owned(
        tls: bool,
        host: &str,
        port: u16,
        vhost: &str,
        user: &str,
        password: &str,
    ) -> (bool, String, u16, String, String, String) {
        (tls, host.to_owned(), port, vhost.to_owned(), user.to_owned(), password.to_owned())
    }

    #[test]
    fn what_is_missing_is_filled_in() {
        let cases = [
            ("amqp://h", owned(false, "h", 5672, "/", "guest", "guest")),
            ("amqp://h/", owned(false, "h", 5672, "/", "guest", "guest")),
            ("amqp://h/%2f", owned(false, "h", 5672, "/", "guest", "guest")),
            ("amqp://h/%2F", owned(false, "h", 5672, "/", "guest", "guest")),
            ("amqp://h//", owned(false, "h", 5672, "/", "guest", "guest")),
            ("amqp://h//jelmore", owned(false, "h", 5672, "/jelmore", "guest", "guest")),
            ("amqp://h/jelmore", owned(false, "h", 5672, "jelmore", "guest", "guest")),
            ("amqps://h:1/a%20b", owned(true, "h", 1, "a b", "guest", "guest")),
            ("amqps://h", owned(true, "h", 5671, "/", "guest", "guest")),
            ("amqp://u:p@h:7/v?heartbeat=3", owned(false, "h", 7, "v", "u", "p")),
            ("amqp://u@h", owned(false, "h", 5672, "/", "u", "")),
            ("amqp://:@h", owned(false, "h", 5672, "/", "guest", "guest")),
            ("amqp://guest@h", owned(false, "h", 5672, "/", "guest", "guest")),
            ("amqp://u%40x:p%3A%2f%25@h", owned(false, "h", 5672, "/", "u@x", "p:/%")),
            ("amqp://u:p@ss/w?rd@h/v", owned(false, "h", 5672, "v", "u", "p@ss/w?rd")),
            ("amqp://u:100%@h", owned(false, "h", 5672, "/", "u", "100%")),
            ("amqp://[::1]:5673/v", owned(false, "::1", 5673, "v", "guest", "guest")),
            ("amqp://[::1]", owned(false, "::1", 5672, "/", "guest", "guest")),
        ];
        for (url, expected) in cases {
            assert_eq!(parts(url), expected, "{url}");
        }
    }

    #[test]
    fn credentials_of_the_configuration_stand_behind_those_of_the_address() {
        let with = |url: &str| {
            let url = BusUrl::try_from(url.to_owned()).unwrap();
            let a = parse(&url, Some("conf"), Some(&Secret::new("secret".to_owned()))).unwrap();
            (a.username, a.password.expose().to_owned())
        };
        assert_eq!(with("amqp://h"), ("conf".to_owned(), "secret".to_owned()));
        assert_eq!(with("amqp://u:p@h"), ("u".to_owned(), "p".to_owned()));
        assert_eq!(with("amqp://u@h"), ("u".to_owned(), "secret".to_owned()));
    }

    #[test]
    fn nonsense_is_refused_without_showing_the_password() {
        for url in [
            "amqp://u:hunter2@",
            "amqp://u:hunter2@:5672",
            "amqp://u:hunter2@h:port",
            "amqp://u:hunter2@h:0",
            "amqp://u:hunter2@h/%ff",
        ] {
            let error = read(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let shown = read("amqp://u:hunter2@h/v?password=hunter2").unwrap();
        assert_eq!(format!("{shown} {shown:?}"), "amqp://***@h/v \"amqp://***@h/v\"");
    }

    proptest! {
        #[test]
        fn any_password_comes_back_when_it_is_encoded(password in "\\PC{1,20}", vhost in "[a-z/ ]{1,10}") {
            let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
            let address = read(&format!("amqp://u:{}@h/{}", encode(&password), encode(&vhost))).unwrap();
            prop_assert_eq!(address.password.expose(), password.as_str());
            prop_assert_eq!(address.vhost, vhost);
        }
    }
}
