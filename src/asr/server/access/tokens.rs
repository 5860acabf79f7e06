//! Tokens: made here, kept as hashes, and found again in constant time. Pure but for [`NewToken::generate`].
//!
//! A token has 256 random bits, so its SHA-256 is enough to keep: there is nothing to guess that a slow hash would
//! protect, unlike with passwords, and a fast one can be computed for each request.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// What a token starts with, so that people and secret scanners know one when they see it.
const PREFIX: &str = "godctl_";
/// Random bytes of a token.
const RANDOM: usize = 32;
/// The longest name: it stands in logs and metrics.
const NAME_MAX: usize = 64;

/// Why a file of tokens is not used. No variant shows what may be a token.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The file is not TOML, or a key of it is not known.
    #[error("line {line}: {reason}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What the parser expected.
        reason: String,
    },
    /// A name that would not be fit for a log.
    #[error("a token's name has 1 to 64 letters, digits, dots, dashes or underscores; one of them has not")]
    Name,
    /// `sha256` is no hash.
    #[error(
        "tokens.{name}.sha256 is no SHA-256 in hexadecimal; make an entry with: godctl asr-serve token {name}"
    )]
    Hash {
        /// The token's name.
        name: String,
    },
    /// A limit that lets nothing through.
    #[error("tokens.{name}.{limit} is 0, so the token is good for nothing; leave it out for no limit")]
    Limit {
        /// The token's name.
        name: String,
        /// The key.
        limit: &'static str,
    },
    /// Two names for one token: nobody could say whose limits hold.
    #[error("{first} and {second} are the same token; give each its own")]
    Twice {
        /// A name.
        first: String,
        /// Another name.
        second: String,
    },
}

/// What a token may use. Nothing means no limit of the token's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Streams at once.
    pub sessions: Option<usize>,
    /// How long a session may last.
    pub session: Option<Duration>,
}

/// One token, without its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Who has it, in logs.
    pub name: String,
    /// What it may use.
    pub limits: Limits,
    hash: [u8; 32],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, limits, hash: _ } = self;
        f.debug_struct("Token").field("name", name).field("limits", limits).finish_non_exhaustive()
    }
}

/// All tokens that are good.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    known: Vec<Arc<Token>>,
    /// Ask for one even where none is good any more.
    always: bool,
}

/// The file, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    tokens: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    sha256: String,
    max_sessions: Option<u32>,
    max_session_s: Option<u32>,
}

impl Tokens {
    /// Reads a file of tokens: a table `[tokens.NAME]` each, with `sha256` (of the token, in hexadecimal) and
    /// optionally `max_sessions` and `max_session_s`.
    ///
    /// # Errors
    /// The first thing wrong with it.
    pub fn parse(text: &str) -> Result<Self, TokensError> {
        // The parser's own message would quote the line, which may hold a token by mistake.
        let file: File = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = text.get(..start).map_or(0, |before| before.matches('\n').count()) + 1;
            let reason = match error.message() {
                message if message.starts_with("unknown field") => {
                    "want tables [tokens.NAME] with sha256, max_sessions, max_session_s".to_owned()
                }
                message if message.starts_with("invalid type") => {
                    "a value of another type is wanted".to_owned()
                }
                message => message.trim().replace('\n', ", "),
            };
            TokensError::Syntax { line, reason }
        })?;
        let mut tokens = Self::default();
        for (name, Entry { sha256, max_sessions, max_session_s }) in file.tokens {
            let hash = unhex(&sha256).ok_or_else(|| TokensError::Hash { name: shown(&name) })?;
            for (limit, value) in [("max_sessions", max_sessions), ("max_session_s", max_session_s)] {
                if value == Some(0) {
                    return Err(TokensError::Limit { name: shown(&name), limit });
                }
            }
            let limits = Limits {
                sessions: max_sessions.and_then(|n| usize::try_from(n).ok()),
                session: max_session_s.map(|s| Duration::from_secs(u64::from(s))),
            };
            tokens.add(name, hash, limits)?;
        }
        Ok(tokens)
    }

    /// Adds a token whose text is known, without limits of its own.
    ///
    /// # Errors
    /// [`TokensError::Name`] or [`TokensError::Twice`].
    pub fn add_secret(&mut self, name: &str, secret: &str) -> Result<(), TokensError> {
        self.add(name.to_owned(), hash(secret.as_bytes()), Limits::default())
    }

    fn add(&mut self, name: String, hash: [u8; 32], limits: Limits) -> Result<(), TokensError> {
        if !is_name(&name) {
            return Err(TokensError::Name);
        }
        if let Some(same) = self.known.iter().find(|token| token.hash == hash || token.name == name) {
            return Err(TokensError::Twice { first: same.name.clone(), second: name });
        }
        self.known.push(Arc::new(Token { name, limits, hash }));
        Ok(())
    }

    /// Has everybody asked for a token even when there is none: the last one was revoked, and that opens no door.
    #[must_use]
    pub fn always_asked(self) -> Self {
        Self { always: true, ..self }
    }

    /// True when nobody is asked for a token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty() && !self.always
    }

    /// Whether one of them has this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.known.iter().any(|token| token.name == name)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// The token with this name.
    #[cfg(test)]
    pub(super) fn by_name(&self, name: &str) -> Option<Arc<Token>> {
        self.known.iter().find(|token| token.name == name).cloned()
    }

    /// True while this token is good, under whichever name.
    pub(super) fn holds(&self, token: &Token) -> bool {
        self.known.iter().any(|known| known.hash == token.hash)
    }

    /// The token with this text. Takes the same time whichever it is, and whether or not there is one.
    #[must_use]
    pub fn find(&self, presented: &str) -> Option<Arc<Token>> {
        let presented = hash(presented.as_bytes());
        let mut found = None;
        for token in &self.known {
            if bool::from(token.hash.ct_eq(&presented)) {
                found = Some(token);
            }
        }
        found.cloned()
    }
}

/// A token that was just made: the only time that its text is known.
pub struct NewToken {
    text: String,
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewToken(***)")
    }
}

impl NewToken {
    /// Makes one of 256 bits of the system's randomness; `None` where the system gives none.
    #[must_use]
    pub fn generate() -> Option<Self> {
        let mut random = [0; RANDOM];
        let provider = rustls::crypto::ring::default_provider();
        provider.secure_random.fill(&mut random).ok()?;
        Some(Self { text: format!("{PREFIX}{}", hex(&random)) })
    }

    /// The text that its owner sends. It is kept nowhere.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Its entry for the file of tokens.
    ///
    /// # Errors
    /// [`TokensError::Name`].
    pub fn entry(
        &self,
        name: &str,
        max_sessions: Option<u32>,
        max_session_s: Option<u32>,
    ) -> Result<String, TokensError> {
        if !is_name(name) {
            return Err(TokensError::Name);
        }
        let key = if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() };
        let mut entry = format!("[tokens.{key}]\nsha256 = \"{}\"\n", hex(&hash(self.text.as_bytes())));
        for (limit, value) in [("max_sessions", max_sessions), ("max_session_s", max_session_s)] {
            if let Some(value) = value {
                entry.push_str(&format!("{limit} = {value}\n"));
            }
        }
        Ok(entry)
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// A name for an error: what is no name may be a token.
fn shown(name: &str) -> String {
    if is_name(name) && !name.starts_with(PREFIX) { name.to_owned() } else { "***".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_token_is_found_by_its_text_and_by_nothing_else() {
        let (kiosk, phone) = (NewToken::generate().unwrap(), NewToken::generate().unwrap());
        assert!(kiosk.expose().starts_with(PREFIX) && kiosk.expose().len() == PREFIX.len() + 64);
        assert_ne!(kiosk.expose(), phone.expose());
        let entries =
            [kiosk.entry("kiosk", Some(2), Some(60)).unwrap(), phone.entry("my.phone", None, None).unwrap()];
        let file = entries.join("\n");
        assert!(!file.contains(kiosk.expose()) && !format!("{kiosk:?}").contains(kiosk.expose()));
        let tokens = Tokens::parse(&file).unwrap();
        assert_eq!(tokens.count(), 2);
        let found = tokens.find(kiosk.expose()).unwrap();
        assert_eq!(found.name, "kiosk");
        assert_eq!(found.limits, Limits { sessions: Some(2), session: Some(Duration::from_secs(60)) });
        assert_eq!(tokens.find(phone.expose()).unwrap().name, "my.phone");
        for wrong in ["", "godctl_", "x", kiosk.expose().get(..10).unwrap(), &format!("{} ", kiosk.expose())]
        {
            assert_eq!(tokens.find(wrong), None, "{wrong}");
        }
        // Nor is the hash as good as the token.
        assert_eq!(tokens.find(&hex(&hash(kiosk.expose().as_bytes()))), None);
    }

    #[test]
    fn a_token_of_the_configuration_stands_beside_those_of_the_file() {
        let mut tokens = Tokens::default();
        assert!(tokens.is_empty());
        tokens.add_secret("default", "abc").unwrap();
        // SHA-256 of "abc", FIPS 180-2 appendix B.1.
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&tokens.find("abc").unwrap().hash), known);
        assert!(Tokens::default().is_empty() && !Tokens::default().always_asked().is_empty());
        assert!(matches!(tokens.add_secret("other", "abc"), Err(TokensError::Twice { .. })));
        assert!(matches!(tokens.add_secret("", "x"), Err(TokensError::Name)));
    }

    #[test]
    fn mistakes_are_told_without_what_may_be_a_token() {
        const MARKER: &str = "godctl_marker91be";
        let hash = "0".repeat(64);
        let cases = [
            format!("[tokens.a]\nsha256 = \"{MARKER}\"\n"),
            format!("[tokens.a]\nsha256 = {MARKER}\n"),
            format!("[tokens.a]\nsha256 = [\"{MARKER}\"]\n"),
            format!("[tokens.a]\ntoken = \"{MARKER}\"\n"),
            format!("[tokens.{MARKER}]\nsha256 = \"no\"\n"),
            format!("{MARKER} = 1\n"),
            format!("[tokens.a]\nsha256 = \"{hash}\"\nmax_sessions = 0\n# {MARKER}\n"),
            format!("[tokens.a]\nsha256 = \"{hash}\"\nmax_sessions = \"{MARKER}\"\n"),
            format!("[tokens.\"a b {MARKER}\"]\nsha256 = \"{hash}\"\n"),
            format!("[tokens.a]\nsha256 = \"{hash}\"\n[tokens.b]\nsha256 = \"{hash}\"\n# {MARKER}"),
            format!("[tokens.a]\nsha256 = \"{hash}\"\n[tokens.a]\nsha256 = \"{MARKER}\"\n"),
        ];
        for text in cases {
            let error = Tokens::parse(&text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("marker91be"), "{text}{error}");
        }
        let error = Tokens::parse("\n[tokens.a]\nsha256 = 5\n").unwrap_err().to_string();
        assert_eq!(error, "line 3: a value of another type is wanted");
        assert_eq!(Tokens::parse("").unwrap(), Tokens::default());
    }
}
