//! Encrypts what a store keeps, each blob for one place.
//!
//! A blob is `1, length of the key's id, the id, nonce (24 bytes), ciphertext and tag` of XChaCha20-Poly1305, or a mark
//! and the text itself where encryption is off. The place (table, column, row) is authenticated with it, so that a blob that
//! is copied to another row does not open. Each table has a key of its own, derived with HKDF-SHA256, so that what one of
//! them lets slip says nothing about the others. Nonces are random, and long enough that none comes twice.

use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use ring::{
    hkdf::{self, HKDF_SHA256, Salt},
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::Zeroizing;

use super::keys::{KEY_BYTES, Key, KeyRing};

/// Bytes of a nonce.
const NONCE: usize = 24;
/// How a blob begins that is not encrypted: with more than one byte, so that no damage makes a sealed one look so.
const PLAIN: &[u8] = b"\0txt";
/// The first byte of one that is.
const SEALED: u8 = 1;
/// Salt of the derivation: what the keys are for.
const SALT: &[u8] = b"godctl sessions v1";

/// Where a blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Such as `turns`.
    pub table: &'static str,
    /// Such as `words`.
    pub column: &'static str,
    /// The keys of the row, joined.
    pub row: &'a str,
}

/// Why a blob does not open, or nothing can be sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// It was sealed with a key that is not here.
    #[error(
        "what is stored was encrypted with key '{0}', which is not here; give it in GODCTL_SESSION_KEYS or \
         store.keys_file"
    )]
    NoKey(String),
    /// It is not what was stored in this place with this key.
    #[error("{0} is damaged, or was encrypted with another key of the same id")]
    Damaged(String),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers to encrypt with")]
    NoRandomness,
}

/// Seals and opens.
#[derive(Debug)]
pub struct Vault {
    ring: Option<KeyRing>,
    seals: bool,
    random: SystemRandom,
}

impl Vault {
    /// Seals with the active key of this ring.
    #[must_use]
    pub fn new(ring: KeyRing) -> Self {
        Self { ring: Some(ring), seals: true, random: SystemRandom::new() }
    }

    /// Seals nothing; opens what was sealed with the keys of this ring, if there is one.
    #[must_use]
    pub fn open_only(ring: Option<KeyRing>) -> Self {
        Self { ring, seals: false, random: SystemRandom::new() }
    }

    /// Encrypts a text for a place.
    ///
    /// # Errors
    /// [`VaultError::NoRandomness`].
    pub fn seal(&self, place: Place<'_>, text: &[u8]) -> Result<Vec<u8>, VaultError> {
        let Some(ring) = self.ring.as_ref().filter(|_| self.seals) else {
            return Ok([PLAIN, text].concat());
        };
        let key = ring.active();
        let mut nonce = [0; NONCE];
        self.random.fill(&mut nonce).map_err(|_| VaultError::NoRandomness)?;
        let payload = Payload { msg: text, aad: &associated(place, key.id()) };
        let sealed = cipher(key, place.table)
            .and_then(|cipher| cipher.encrypt(&XNonce::from(nonce), payload).ok())
            // Only for texts of more than 256 GB.
            .ok_or_else(|| VaultError::Damaged(name(place)))?;
        let length = u8::try_from(key.id().len()).unwrap_or(u8::MAX);
        Ok([&[SEALED, length], key.id().as_bytes(), &nonce, &sealed].concat())
    }

    /// Decrypts what lies in a place.
    ///
    /// # Errors
    /// [`VaultError::NoKey`], [`VaultError::Damaged`].
    pub fn open(&self, place: Place<'_>, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let damaged = || VaultError::Damaged(name(place));
        if let Some(text) = blob.strip_prefix(PLAIN) {
            return Ok(Zeroizing::new(text.to_vec()));
        }
        let id = key_of(blob).ok_or_else(damaged)?;
        let key = self.ring.as_ref().and_then(|ring| ring.get(id));
        let key = key.ok_or_else(|| VaultError::NoKey(id.to_owned()))?;
        let rest = blob.get(2 + id.len()..).unwrap_or_default();
        let (nonce, sealed) = rest.split_at_checked(NONCE).ok_or_else(damaged)?;
        let nonce = <[u8; NONCE]>::try_from(nonce).map_err(|_| damaged())?;
        let payload = Payload { msg: sealed, aad: &associated(place, id) };
        let opened =
            cipher(key, place.table).and_then(|cipher| cipher.decrypt(&XNonce::from(nonce), payload).ok());
        opened.map(Zeroizing::new).ok_or_else(damaged)
    }

    /// Whether a blob is as this vault would write it today: under the active key, or not encrypted.
    #[must_use]
    pub fn is_current(&self, blob: &[u8]) -> bool {
        blob.starts_with(&self.current_header())
    }

    /// How all blobs begin that [`Vault::is_current`] is true of, and no others.
    #[must_use]
    pub fn current_header(&self) -> Vec<u8> {
        match self.ring.as_ref().filter(|_| self.seals) {
            Some(ring) => {
                let id = ring.active().id();
                [&[SEALED, u8::try_from(id.len()).unwrap_or(u8::MAX)], id.as_bytes()].concat()
            }
            None => PLAIN.to_vec(),
        }
    }

    /// The same text as this vault would write it today.
    ///
    /// # Errors
    /// As [`Vault::open`] and [`Vault::seal`].
    pub fn reseal(&self, place: Place<'_>, blob: &[u8]) -> Result<Vec<u8>, VaultError> {
        self.seal(place, &self.open(place, blob)?)
    }
}

/// The id of the key that a blob was sealed with; `None` for one that is not sealed.
#[must_use]
pub fn key_of(blob: &[u8]) -> Option<&str> {
    let (&[SEALED, length], rest) = blob.split_first_chunk::<2>()? else { return None };
    std::str::from_utf8(rest.get(..length.into())?).ok()
}

fn name(place: Place<'_>) -> String {
    format!("{} of {} {}", place.column, place.table, place.row)
}

/// What is authenticated with a blob: its place and its key, each with its length, so that no two are the same.
fn associated(place: Place<'_>, key: &str) -> Vec<u8> {
    let mut all = Vec::new();
    for part in [place.table, place.column, place.row, key] {
        all.extend((part.len() as u64).to_be_bytes());
        all.extend(part.as_bytes());
    }
    all
}

struct Length;

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

/// The cipher of a table.
fn cipher(key: &Key, table: &str) -> Option<XChaCha20Poly1305> {
    let mut derived = Zeroizing::new([0; KEY_BYTES]);
    let parent = Salt::new(HKDF_SHA256, SALT).extract(key.bytes());
    parent.expand(&[table.as_bytes()], Length).ok()?.fill(derived.as_mut_slice()).ok()?;
    XChaCha20Poly1305::new_from_slice(derived.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(row: &str) -> Place<'_> {
        Place { table: "turns", column: "words", row }
    }

    fn vault() -> Vault {
        Vault::new(KeyRing::generate().unwrap())
    }

    #[test]
    fn a_blob_opens_in_its_place_and_in_no_other() {
        let vault = vault();
        let blob = vault.seal(place("s-1/1"), b"a canary").unwrap();
        assert!(!blob.windows(6).any(|window| window == b"canary"));
        assert_eq!(vault.open(place("s-1/1"), &blob).unwrap().as_slice(), b"a canary");
        let others = [
            place("s-1/2"),
            Place { table: "sessions", ..place("s-1/1") },
            Place { column: "failure", ..place("s-1/1") },
        ];
        for other in others {
            assert!(matches!(vault.open(other, &blob), Err(VaultError::Damaged(_))), "{other:?}");
        }
        assert_ne!(vault.seal(place("s-1/1"), b"a canary").unwrap(), blob, "never the same twice");
    }

    #[test]
    fn without_its_key_a_blob_says_which_it_needs() {
        let one = vault();
        let blob = one.seal(place("r"), b"x").unwrap();
        let id = key_of(&blob).unwrap().to_owned();
        for other in [vault(), Vault::open_only(None)] {
            assert_eq!(other.open(place("r"), &blob), Err(VaultError::NoKey(id.clone())));
        }
        // A key of the same name that is another one.
        let same_name = format!("{id}:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=");
        let wrong = Vault::new(KeyRing::parse(&same_name, "here").unwrap());
        assert!(matches!(wrong.open(place("r"), &blob), Err(VaultError::Damaged(_))));
    }

    #[test]
    fn the_old_key_still_reads_and_what_is_sealed_again_needs_only_the_new_one() {
        let mut ring = KeyRing::generate().unwrap();
        let old = Vault::new(ring.clone()).seal(place("r"), b"x").unwrap();
        ring.renew().unwrap();
        let vault = Vault::new(ring.clone());
        assert!(!vault.is_current(&old));
        let new = vault.reseal(place("r"), &old).unwrap();
        assert!(vault.is_current(&new));
        ring.forget_older();
        assert_eq!(Vault::new(ring.clone()).open(place("r"), &new).unwrap().as_slice(), b"x");
        assert!(matches!(Vault::new(ring).open(place("r"), &old), Err(VaultError::NoKey(_))));
    }

    #[test]
    fn who_opts_out_still_reads_what_was_sealed() {
        let ring = KeyRing::generate().unwrap();
        let sealed = Vault::new(ring.clone()).seal(place("r"), b"x").unwrap();
        let out = Vault::open_only(Some(ring));
        let plain = out.seal(place("r"), b"y").unwrap();
        assert_eq!(plain, b"\0txty");
        assert!(out.is_current(&plain) && !out.is_current(&sealed));
        assert_eq!(out.open(place("r"), &sealed).unwrap().as_slice(), b"x");
        assert_eq!(out.open(place("r"), &plain).unwrap().as_slice(), b"y");
    }

    proptest! {
        #[test]
        fn any_text_comes_back_and_any_flipped_byte_is_noticed(
            text in prop::collection::vec(any::<u8>(), 0..100), at in any::<prop::sample::Index>(), flip in 1_u8..,
        ) {
            let vault = vault();
            let blob = vault.seal(place("r"), &text).unwrap();
            prop_assert_eq!(vault.open(place("r"), &blob).unwrap().to_vec(), text);
            let mut damaged = blob;
            let at = at.index(damaged.len());
            damaged[at] ^= flip;
            prop_assert!(vault.open(place("r"), &damaged).is_err());
        }
    }
}
