//! Which web pages may open websockets. Browsers let any page connect anywhere and say in `Origin` which page it is;
//! without this check every page that somebody visits could use the server on their own machine. Pure.

use std::net::IpAddr;

/// Schemes under which browsers run extensions. Those are installed by the user and are no web pages.
const EXTENSIONS: [&str; 3] = ["chrome-extension", "moz-extension", "safari-web-extension"];

/// The pages that are let in besides the server's own, those of this machine and browser extensions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// From origins such as `https://app.example`; `*` lets every page in.
    pub fn new<S: AsRef<str>>(list: impl IntoIterator<Item = S>) -> Self {
        Self(list.into_iter().map(|origin| normal(origin.as_ref())).collect())
    }

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this origin is on the list.
    #[must_use]
    pub fn lists(&self, origin: &str) -> bool {
        let origin = normal(origin);
        self.0.iter().any(|listed| listed == "*" || *listed == origin)
    }

    /// Whether a page of this origin may open a websocket to a server that it calls `host`.
    #[must_use]
    pub fn admits(&self, origin: &str, host: Option<&str>) -> bool {
        let origin = normal(origin);
        if self.lists(&origin) {
            return true;
        }
        let Some((scheme, authority)) = origin.split_once("://") else { return false };
        let own = host.is_some_and(|host| {
            normal(&format!("{scheme}://{host}")).split_once("://").is_some_and(|(_, host)| host == authority)
        });
        own || EXTENSIONS.contains(&scheme) || is_loopback(authority)
    }
}

/// In lower case, without the port that its scheme has anyway.
fn normal(origin: &str) -> String {
    let origin = origin.trim().to_ascii_lowercase();
    let default = match origin.split_once("://") {
        Some(("http" | "ws", _)) => ":80",
        Some(("https" | "wss", _)) => ":443",
        _ => return origin,
    };
    origin.strip_suffix(default).map_or_else(|| origin.clone(), str::to_owned)
}

/// Whether an authority is this machine: `localhost`, a name below it, or an address of the loopback.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(host, _)| host),
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strange_pages_are_kept_out_and_the_rest_gets_in() {
        let none = Origins::default();
        let host = Some("asr.example:8000");
        for good in [
            "http://asr.example:8000",
            "https://ASR.example:8000",
            "http://localhost:3000",
            "http://127.0.0.1",
            "http://127.9.9.9:1",
            "https://[::1]:8443",
            "http://app.localhost:5173",
            "chrome-extension://abcdef",
        ] {
            assert!(none.admits(good, host), "{good}");
        }
        for bad in [
            "",
            "null",
            "https://evil.example",
            "http://asr.example",
            "http://asr.example:8001",
            "http://localhost.evil.example",
            "http://evil.example/?http://localhost",
            "http://127.0.0.1.evil.example",
            "http://notlocalhost",
            "file://",
        ] {
            assert!(!none.admits(bad, host), "{bad}");
        }
        assert!(!none.admits("https://evil.example", None));
        assert!(none.admits("https://asr.example", Some("asr.example")));
        assert!(none.admits("https://asr.example", Some("asr.example:443")));
        assert!(none.admits("http://asr.example:80", Some("asr.example")));
    }

    #[test]
    fn the_list_adds_to_that() {
        let some = Origins::new(["https://App.example:443", "null"]);
        assert!(some.admits("https://app.example", None) && some.admits("null", None));
        assert!(!some.admits("http://app.example", None) && !some.admits("https://app.example:8443", None));
        assert!(Origins::new(["*"]).admits("https://evil.example", None));
        assert!(!some.lists("http://localhost") && some.lists("HTTPS://app.example"));
    }
}
