//! Types of events from a folder of JSON schemas, as `properties.type.const` or `properties.event_type.const` says them.
//! Read once, at the start.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::Context as _;
use serde_json::Value;

/// Folders within folders that are looked into.
const DEPTH: usize = 8;

/// Files that are looked at, and the largest one.
const FILES: usize = 10_000;
const BYTES: u64 = 4 << 20;

/// The types that the schemas below a folder are about.
///
/// # Errors
/// A folder that can't be read. Files that are no schema are passed over.
pub(super) fn types(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut types = BTreeSet::new();
    let mut left = FILES;
    walk(root, DEPTH, &mut left, &mut types)
        .with_context(|| format!("cannot read the schemas in {}", root.display()))?;
    Ok(types.into_iter().collect())
}

fn walk(folder: &Path, depth: usize, left: &mut usize, types: &mut BTreeSet<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() && depth > 0 {
            walk(&path, depth - 1, left, types)?;
        } else if kind.is_file() && path.extension().is_some_and(|ending| ending == "json") {
            let Some(fewer) = left.checked_sub(1) else { return Ok(()) };
            *left = fewer;
            if entry.metadata()?.len() <= BYTES {
                types.extend(type_of(&fs::read(&path)?));
            }
        }
    }
    Ok(())
}

fn type_of(schema: &[u8]) -> Option<String> {
    let schema: Value = serde_json::from_slice(schema).ok()?;
    let properties = schema.get("properties")?;
    let named =
        ["type", "event_type"].into_iter().find_map(|name| properties.get(name)?.get("const")?.as_str());
    named.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_below_and_what_is_no_schema_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::write(
            deep.join("x.json"),
            r#"{ "properties": { "type": { "const": "bloodbank.v1.audio.file.received" } } }"#,
        )
        .unwrap();
        fs::write(
            root.path().join("y.json"),
            r#"{ "properties": { "event_type": { "const": "voice.x.y" } } }"#,
        )
        .unwrap();
        fs::write(root.path().join("z.json"), "{ broken").unwrap();
        fs::write(root.path().join("notes.txt"), "none").unwrap();
        assert_eq!(types(root.path()).unwrap(), ["bloodbank.v1.audio.file.received", "voice.x.y"]);
        let error = types(&root.path().join("absent")).unwrap_err();
        assert!(format!("{error:#}").contains("absent"), "{error:#}");
    }
}
