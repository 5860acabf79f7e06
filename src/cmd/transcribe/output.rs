//! Where transcripts go: standard output, or a file for each recording and format.

use std::{
    collections::{HashMap, HashSet},
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{
    asr::captions::{self, Detail, Format, Transcript},
    cmd::{Exit, Failure, Stdout},
};

/// Writes transcripts in the formats asked for.
#[derive(Debug)]
pub(super) struct Output {
    formats: Vec<Format>,
    detail: Detail,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// `headings`: say which recording it is, because there are several.
    Stdout { headings: bool },
    /// The name without extension for each recording.
    Dir { dir: PathBuf, stems: HashMap<PathBuf, OsString> },
}

impl Output {
    /// Checks that the results can be written before hours are spent on them.
    pub(super) fn new(
        formats: &[Format],
        detail: Detail,
        dir: Option<&Path>,
        recordings: &[PathBuf],
    ) -> anyhow::Result<Self> {
        let mut formats = formats.to_vec();
        formats.sort_unstable();
        formats.dedup();
        let plain = |format: &Format| matches!(format, Format::Txt | Format::Json);
        let one = formats.len() == 1 && (recordings.len() == 1 || formats.iter().all(plain));
        let place = match dir {
            None if !one => {
                let reason =
                    "standard output takes one format, and captions of one recording; use --output-dir DIR";
                return Err(Failure::new(Exit::Usage, anyhow::anyhow!(reason)).into());
            }
            None => Place::Stdout { headings: recordings.len() > 1 },
            Some(dir) => {
                fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
                Place::Dir { dir: dir.to_owned(), stems: stems(recordings) }
            }
        };
        Ok(Self { formats, detail, place })
    }

    /// Writes one recording's transcript.
    pub(super) fn write(&self, recording: &Path, transcript: &Transcript) -> anyhow::Result<()> {
        match &self.place {
            Place::Stdout { headings } => {
                let mut out = Stdout::lock();
                let text_only = self.formats.iter().all(|format| *format != Format::Json);
                if *headings && text_only {
                    io::Write::write_fmt(&mut out, format_args!("==> {} <==\n", recording.display()))?;
                }
                for format in &self.formats {
                    captions::write(&mut out, *format, transcript, self.detail)?;
                }
                io::Write::flush(&mut out)?;
            }
            Place::Dir { dir, stems } => {
                let stem = stems.get(recording).map_or(OsStr::new("transcript"), OsString::as_os_str);
                for format in &self.formats {
                    let mut name = stem.to_owned();
                    name.push(".");
                    name.push(format.name());
                    let path = dir.join(name);
                    self.write_file(&path, *format, transcript)
                        .with_context(|| format!("cannot write {}", path.display()))?;
                }
            }
        }
        Ok(())
    }

    /// Whole or not at all: a full disk leaves no half transcript behind.
    fn write_file(&self, path: &Path, format: Format, transcript: &Transcript) -> io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().prefix(".godctl-").tempfile_in(dir)?;
        {
            let mut buffered = io::BufWriter::new(file.as_file_mut());
            captions::write(&mut buffered, format, transcript, self.detail)?;
            io::Write::flush(&mut buffered)?;
        }
        readable_as_usual(file.as_file())?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// Temporary files are private to their owner; a transcript is as readable as any file that a program writes.
#[cfg(unix)]
fn readable_as_usual(file: &fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable_as_usual(_file: &fs::File) -> io::Result<()> {
    Ok(())
}

/// `talk.wav` becomes `talk`, unless `talk.mp3` would too: then both keep their whole name, with a number where even
/// that is taken. A recording named twice has one name, and is written once more.
fn stems(recordings: &[PathBuf]) -> HashMap<PathBuf, OsString> {
    let short = |path: &Path| match path.file_stem() {
        Some(stem) if stem != "-" => stem.to_owned(),
        _ => OsString::from("stdin"),
    };
    let mut names: HashMap<PathBuf, OsString> = HashMap::new();
    let mut count: HashMap<OsString, usize> = HashMap::new();
    for path in recordings.iter().collect::<HashSet<_>>() {
        *count.entry(short(path)).or_default() += 1;
    }
    let mut taken: HashSet<OsString> = HashSet::new();
    for path in recordings {
        if names.contains_key(path) {
            continue;
        }
        let stem = short(path);
        let wanted = if count[&stem] > 1 { path.file_name().map_or(stem, OsStr::to_owned) } else { stem };
        let mut name = wanted.clone();
        let mut number = 1;
        while !taken.insert(name.clone()) {
            number += 1;
            name.clone_from(&wanted);
            name.push(format!("-{number}"));
        }
        names.insert(path.clone(), name);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_of_the_same_name_do_not_overwrite_each_other() {
        let paths: Vec<PathBuf> =
            ["a/talk.wav", "b/talk.mp3", "c/talk.wav", "note.ogg"].iter().map(PathBuf::from).collect();
        let stems = stems(&paths);
        let names: Vec<_> = paths.iter().map(|path| stems[path].to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["talk.wav", "talk.mp3", "talk.wav-2", "note"]);
    }

    #[test]
    fn a_name_that_looks_like_a_numbered_one_is_not_overwritten_either() {
        let paths: Vec<PathBuf> =
            ["a/t.wav", "b/t.wav", "t.wav-2.wav", "a/t.wav", "-"].iter().map(PathBuf::from).collect();
        let stems = stems(&paths);
        assert_eq!(stems.len(), 4);
        assert_eq!(stems.values().collect::<HashSet<_>>().len(), 4, "{stems:?}");
        assert_eq!(stems[Path::new("-")], "stdin");
    }
}
