//! `asr`: what holds for a server that strangers can reach. The keys themselves are in [`Asr`]; here are their rules.

use std::path::PathBuf;

use super::{Asr, Violation};

impl Asr {
    /// Checks what types can't.
    pub(super) fn validate_serving(&self) -> Result<(), Violation> {
        let rule = |holds: bool, key: &'static str, reason: &str| {
            if holds { Ok(()) } else { Err(Violation { key, reason: reason.to_owned() }) }
        };
        let paths: [(&Option<PathBuf>, &'static str); 4] = [
            (&self.token_file, "asr.token_file"),
            (&self.tokens_file, "asr.tokens_file"),
            (&self.tls_cert, "asr.tls_cert"),
            (&self.tls_key, "asr.tls_key"),
        ];
        for (path, key) in paths {
            let plain = path.as_ref().is_none_or(|path| !path.starts_with("~"));
            rule(plain, key, "only a shell expands ~; write the directory out")?;
        }
        rule(
            self.token.as_ref().is_none_or(|token| !token.expose().trim().is_empty()),
            "asr.token",
            "an empty token keeps nobody out; leave it out for none",
        )?;
        let together = "TLS needs both asr.tls_cert and asr.tls_key";
        rule(self.tls_key.is_none() || self.tls_cert.is_some(), "asr.tls_key", together)?;
        rule(self.tls_cert.is_none() || self.tls_key.is_some(), "asr.tls_cert", together)?;
        let origins: [(&[String], &'static str); 2] =
            [(&self.allow_origins, "asr.allow_origins"), (&self.cors_origins, "asr.cors_origins")];
        for (list, key) in origins {
            rule(
                list.iter().all(|origin| is_origin(origin)),
                key,
                "want origins such as https://app.example or http://10.0.0.5:3000, without a path, or *",
            )?;
        }

        let some = |value: Option<u32>| value.is_none_or(|value| value > 0);
        rule(
            some(self.max_sessions_per_token),
            "asr.max_sessions_per_token",
            "want 1 or more; leave it out for no limit",
        )?;
        rule(some(self.max_session_s), "asr.max_session_s", "want 1 or more; leave it out for no limit")?;
        rule((1..=86_400).contains(&self.idle_timeout_s), "asr.idle_timeout_s", "want 1 to 86400 (a day)")?;
        rule((1..=3_600).contains(&self.send_timeout_s), "asr.send_timeout_s", "want 1 to 3600")?;
        rule((1..=600).contains(&self.header_timeout_s), "asr.header_timeout_s", "want 1 to 600")?;
        rule((1..=3_600).contains(&self.body_timeout_s), "asr.body_timeout_s", "want 1 to 3600")?;
        rule(self.max_connections > 0, "asr.max_connections", "want 1 or more, or nobody can connect")?;
        rule(
            (16..=1 << 20).contains(&self.max_message_kb),
            "asr.max_message_kb",
            "want 16 to 1048576 (a GB); audio of any length fits in several messages",
        )?;
        rule((1..=1 << 20).contains(&self.max_upload_mb), "asr.max_upload_mb", "want 1 to 1048576 (a TB)")
    }
}

/// What a browser writes into `Origin`, or `*` for all of them.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return ["*", "null"].contains(&text) };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    !scheme.is_empty()
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        && !host.is_empty()
        && host.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_a_scheme_and_a_host_and_nothing_behind_it() {
        for good in ["*", "null", "https://app.example", "http://[::1]:3000", "chrome-extension://abc"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in
            ["", "app.example", "https://", "https://app.example/", "https://a b", "://x", "https://a?b"]
        {
            assert!(!is_origin(bad), "{bad}");
        }
    }

    #[test]
    fn the_defaults_hold_and_half_of_tls_does_not() {
        assert_eq!(Asr::default().validate_serving(), Ok(()));
        let half = Asr { tls_cert: Some("cert.pem".into()), ..Asr::default() };
        assert_eq!(half.validate_serving().unwrap_err().key, "asr.tls_cert");
        let half = Asr { tls_key: Some("key.pem".into()), ..Asr::default() };
        assert_eq!(half.validate_serving().unwrap_err().key, "asr.tls_key");
        let tilde = Asr { tokens_file: Some("~/tokens.toml".into()), ..Asr::default() };
        assert_eq!(tilde.validate_serving().unwrap_err().key, "asr.tokens_file");
    }
}
