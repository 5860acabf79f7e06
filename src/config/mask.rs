//! Passwords inside texts that are no secrets themselves: addresses and assignments on a command line. Pure.

use std::ops::Range;

use super::schema::{SCHEMA, is_secret};

/// The text with user, password and query of each address in it replaced by `***`, so that it is fit to print.
#[must_use]
pub fn mask_addresses(text: &str) -> String {
    let mut shown = text.to_owned();
    // From the back, so that the ranges before stay true.
    for address in addresses(text).into_iter().rev() {
        let hidden = address.user.into_iter().chain(address.query).rev();
        for range in hidden {
            shown.replace_range(range, "***");
        }
    }
    shown
}

/// The value of a key, fit to print. Where the key wants an address, one that lacks its scheme is masked too.
pub(super) fn mask_value(key: &str, value: &str) -> String {
    let shown = mask_addresses(value);
    // A mistyped key still carries an address.
    const ADDRESSES: [&str; 2] = ["bus.url", "store.url"];
    let is_address =
        || ADDRESSES.contains(&key) || SCHEMA.nearest(key).is_some_and(|near| ADDRESSES.contains(&near));
    match shown.rsplit_once('@') {
        Some((_, host)) if !shown.contains("://") && is_address() => {
            let opening: String = shown.chars().take_while(|c| ['"', '\'', '['].contains(c)).collect();
            format!("{opening}***@{host}")
        }
        _ => shown,
    }
}

/// Whether a word of a command line holds a password: in an address, or as an assignment to a secret key.
#[must_use]
pub fn holds_password(word: &str) -> bool {
    let within = |range: &Range<usize>| word.get(range.clone()).unwrap_or_default();
    let in_address = addresses(word).iter().any(|address| {
        let user = address.user.as_ref().is_some_and(|user| within(user).contains(':'));
        let query = address.query.as_ref().is_some_and(|query| {
            within(query).split('&').any(|pair| pair.split_once('=').is_some_and(|(key, _)| is_secret(key)))
        });
        user || query
    });
    // `-cKEY=VALUE` is one word too.
    let assigned = word.strip_prefix("-c").unwrap_or(word).trim_start().split_once('=');
    in_address || assigned.is_some_and(|(key, value)| !value.trim().is_empty() && is_secret(key.trim()))
}

/// Where an address holds what nobody should read, as ranges of bytes.
struct Address {
    /// Between `://` and the last `@`.
    user: Option<Range<usize>>,
    /// Behind the `?`.
    query: Option<Range<usize>>,
}

fn addresses(text: &str) -> Vec<Address> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(|rest| rest.find("://")) {
        let start = from + at + 3;
        let rest = text.get(start..).unwrap_or_default();
        let end = start + rest.find(char::is_whitespace).unwrap_or(rest.len());
        let address = text.get(start..end).unwrap_or_default();
        // A password that was not percent-encoded may hold a slash or a question mark, so only the last @ counts.
        let user = address.rfind('@').map(|at| start..start + at);
        let host = user.as_ref().map_or(start, |user| user.end);
        let query = text.get(host..end).and_then(|rest| rest.find('?')).map(|at| host + at + 1..end);
        found.push(Address { user, query: query.filter(|query| !query.is_empty()) });
        from = end;
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_password_is_left_alone() {
        for text in ["", "asr-serve --listen [::1]:80", "sqlite:///data/bus.db", "a@b", "https://host/path"] {
            assert_eq!(mask_addresses(text), text);
            assert!(!holds_password(text), "{text}");
        }
        // A user alone is shown to nobody, but is no password either.
        assert_eq!(mask_addresses("amqp://user@host"), "amqp://***@host");
        assert!(!holds_password("amqp://user@host") && !holds_password("amqp://host?heartbeat=10"));
        assert!(!holds_password("bus.password_file=/run/secrets/mq") && !holds_password("asr.threads=2"));
    }

    #[test]
    fn an_address_without_a_scheme_is_one_where_an_address_is_wanted() {
        assert_eq!(mask_value("bus.url", "\"guest:hun@ter2@host\""), "\"***@host\"");
        assert_eq!(mask_value("bus.url", "guest:hunter2@host/v"), "***@host/v");
        assert_eq!(mask_value("bus.url", "amqp://guest:hunter2@host"), "amqp://***@host");
        assert_eq!(mask_value("asr.model", "\"me/mine@v1\""), "\"me/mine@v1\"");
    }

    #[test]
    fn passwords_are_seen_wherever_they_stand() {
        assert_eq!(
            mask_addresses("--from amqp://u:p@a --to=amqps://u:p/@?@b/v?password=p x"),
            "--from amqp://***@a --to=amqps://***@b/v?*** x"
        );
        for word in [
            "amqp://u:p@host",
            "--to=amqp://:p@host",
            "amqp://host/v?password=p",
            "amqp://h?a=b&auth_token=x",
        ] {
            assert!(holds_password(word), "{word}");
        }
        for word in ["bus.password=x", "-cbus.password=x", "models.token=x", "-c models.tokn=x"] {
            assert!(holds_password(word), "{word}");
        }
    }

    proptest! {
        #[test]
        fn a_password_never_survives(
            before in "[ a-z]{0,9}", password in "[!-~]{1,20}", host in "[a-z]{1,9}", after in "( [a-z]{0,9})?",
        ) {
            let text = format!("{before}amqp://user:{password}@{host}{after}");
            prop_assert_eq!(mask_addresses(&text), format!("{before}amqp://***@{host}{after}"));
            prop_assert!(holds_password(&text));
        }
    }
}
