//! The keys that stored words are encrypted with. The first one encrypts, all of them decrypt, so that a new key can be
//! put in front while the old one still reads what it wrote.

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::rand::SecureRandom as _;
use zeroize::Zeroizing;

/// Bytes of a key of XChaCha20-Poly1305.
pub const KEY_BYTES: usize = 32;
/// Longest id of a key; its length is one byte of each blob.
const MAX_KEY_ID: usize = 32;
/// A longer file of keys is something else.
const MAX_FILE: u64 = 64 * 1024;

/// One key. It does not print, and its bytes are wiped when it goes.
#[derive(Clone)]
pub struct Key {
    id: String,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Key {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.bytes
    }
}

/// What is wrong with keys; each variant is something else to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not `id:base64,id:base64`.
    #[error("{place}: {reason}; write ID:BASE64 with a key of 32 bytes, more of them behind commas")]
    Malformed {
        /// Where the keys came from.
        place: String,
        /// What is wrong. It never holds a part of a key.
        reason: String,
    },
    /// Others could read the file.
    #[error("other users can read the keys in {}; `chmod 600` it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("cannot use the keys in {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers to make a key from")]
    NoRandomness,
}

/// Keys, the active one first. There is always one.
#[derive(Debug, Clone)]
pub struct KeyRing {
    active: Key,
    older: Vec<Key>,
}

impl KeyRing {
    /// Reads `id:base64,id2:base64`; lines do as well as commas, and what follows a `#` is a comment. `place` is where it
    /// came from, for messages.
    ///
    /// # Errors
    /// [`KeyError::Malformed`].
    pub fn parse(text: &str, place: &str) -> Result<Self, KeyError> {
        let wrong = |reason: String| KeyError::Malformed { place: place.to_owned(), reason };
        let mut keys: Vec<Key> = Vec::new();
        let entries = text.lines().map(|line| line.split('#').next().unwrap_or_default());
        for entry in entries.flat_map(|line| line.split(',')).map(str::trim).filter(|entry| !entry.is_empty())
        {
            let number = keys.len() + 1;
            let (id, encoded) =
                entry.split_once(':').ok_or_else(|| wrong(format!("key {number} has no id")))?;
            let fit = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if id.is_empty() || id.len() > MAX_KEY_ID || !id.chars().all(fit) {
                let reason = format!(
                    "the id of key {number} is not 1 to {MAX_KEY_ID} letters, digits, '.', '_' or '-'"
                );
                return Err(wrong(reason));
            }
            if keys.iter().any(|key| key.id == id) {
                return Err(wrong(format!("the id {id} is there twice")));
            }
            let decoded = Zeroizing::new(
                BASE64_STANDARD
                    .decode(encoded.trim())
                    .map_err(|_| wrong(format!("key {id} is not base64")))?,
            );
            let bytes = <[u8; KEY_BYTES]>::try_from(decoded.as_slice())
                .map_err(|_| wrong(format!("key {id} has {} bytes", decoded.len())))?;
            keys.push(Key { id: id.to_owned(), bytes: Zeroizing::new(bytes) });
        }
        let mut keys = keys.into_iter();
        let active = keys.next().ok_or_else(|| wrong("there is no key".to_owned()))?;
        Ok(Self { active, older: keys.collect() })
    }

    /// A ring with one new key.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`].
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self { active: new_key()?, older: Vec::new() })
    }

    /// Puts a new key in front.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`].
    pub fn renew(&mut self) -> Result<(), KeyError> {
        let old = std::mem::replace(&mut self.active, new_key()?);
        self.older.insert(0, old);
        Ok(())
    }

    /// Leaves out all keys but the active one.
    pub fn forget_older(&mut self) {
        self.older.clear();
    }

    /// The one that encrypts.
    #[must_use]
    pub const fn active(&self) -> &Key {
        &self.active
    }

    /// The one of this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Key> {
        self.iter().find(|key| key.id == id)
    }

    /// All of them, the active one first.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.active).chain(&self.older)
    }

    /// As [`KeyRing::parse`] reads it, a line for each key.
    fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(256 * (1 + self.older.len())));
        text.push_str("# Keys of godctl's sessions. The first one encrypts, all of them decrypt.\n");
        for key in self.iter() {
            let encoded = Zeroizing::new(BASE64_STANDARD.encode(key.bytes.as_slice()));
            text.push_str(&key.id);
            text.push(':');
            text.push_str(&encoded);
            text.push('\n');
        }
        text
    }

    /// Reads a file that only its owner may read. `None` if there is no such file.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn read(path: &Path) -> Result<Option<Self>, KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        let file = match fs::File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
                return Err(KeyError::Exposed { path: path.to_owned() });
            }
        }
        let mut text = Zeroizing::new(String::new());
        file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
        Self::parse(&text, &path.display().to_string()).map(Some)
    }

    /// Makes the file with a new key, unless somebody else has just done so; gives what is in it then.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        let ring = Self::generate()?;
        match ring.temporary(path).map_err(failed)?.persist_noclobber(path) {
            Ok(_) => Ok(ring),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                Self::read(path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
            }
            Err(error) => Err(failed(error.error)),
        }
    }

    /// Replaces the file; whoever reads it meanwhile sees the old one or the new one.
    ///
    /// # Errors
    /// [`KeyError::File`].
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        self.temporary(path).map_err(failed)?.persist(path).map_err(|error| failed(error.error))?;
        // The new name survives a power cut only with its folder.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        fs::File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// A file beside `path` that only we may read, with these keys in it, on the disk.
    fn temporary(&self, path: &Path) -> io::Result<tempfile::NamedTempFile> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder)?;
        let mut options = tempfile::Builder::new();
        // tempfile makes its files with mode 0600.
        let mut file = options.prefix(".keys-").tempfile_in(folder)?;
        file.write_all(self.to_text().as_bytes())?;
        file.as_file().sync_all()?;
        Ok(file)
    }
}

fn new_key() -> Result<Key, KeyError> {
    let random = ring::rand::SystemRandom::new();
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    random.fill(bytes.as_mut_slice()).map_err(|_| KeyError::NoRandomness)?;
    let mut name = [0; 4];
    random.fill(&mut name).map_err(|_| KeyError::NoRandomness)?;
    Ok(Key { id: format!("k{:08x}", u32::from_be_bytes(name)), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    #[test]
    fn the_first_key_is_the_active_one_and_nothing_prints_a_key() {
        let ring =
            KeyRing::parse(&format!("new:{ONE},old:{ONE}\n# a word\n x.1:{ONE} # more"), "here").unwrap();
        assert_eq!(ring.iter().map(Key::id).collect::<Vec<_>>(), ["new", "old", "x.1"]);
        assert_eq!(ring.active().id(), "new");
        assert_eq!(ring.get("old").unwrap().bytes(), &[1; KEY_BYTES]);
        let printed = format!("{ring:?}");
        assert!(!printed.contains("AQEB") && !printed.contains("1, 1"), "{printed}");
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        for text in
            ["", "#", "nokey", "a:AQEB", "a:not base64!", &format!("a:{ONE},a:{ONE}"), &format!("ä:{ONE}")]
        {
            let error = KeyRing::parse(text, "GODCTL_SESSION_KEYS").unwrap_err().to_string();
            assert!(error.starts_with("GODCTL_SESSION_KEYS: "), "{error}");
            assert!(!error.contains("AQEB") && !error.contains("not base64!"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_of_keys_is_made_once_for_its_owner_only_and_read_again() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/keys");
        assert!(KeyRing::read(&path).unwrap().is_none());
        let made = KeyRing::create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut again = KeyRing::create(&path).unwrap();
        assert_eq!(again.active().bytes(), made.active().bytes(), "who comes second takes what is there");
        again.renew().unwrap();
        again.write(&path).unwrap();
        let read = KeyRing::read(&path).unwrap().unwrap();
        assert_eq!(read.iter().count(), 2);
        assert_eq!(read.get(made.active().id()).unwrap().bytes(), made.active().bytes());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");

        let open = folder.path().join("open");
        fs::write(&open, format!("a:{ONE}\n")).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(KeyRing::read(&open), Err(KeyError::Exposed { .. })));
    }
}
