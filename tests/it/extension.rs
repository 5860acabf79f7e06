//! The browser extension: written out by `godctl extension export`, loaded and driven in a real browser.

use std::{fs, path::Path};

use crate::{
    browser::{recording, script, seen, serve},
    support::{Home, root},
    tools,
};

fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
                found.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn what_is_exported_is_all_of_the_extension() {
    let home = Home::new();
    let dir = home.path().join("new/captions");
    let ran = home.godctl(&["extension", "export", dir.to_str().unwrap()]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert!(ran.stdout.contains("chrome://extensions"), "{}", ran.stdout);
    assert_eq!(
        tree(&dir),
        tree(&root().join("assets/extension")),
        "a file is missing in the list, or changed"
    );
    // An earlier export is brought up to date.
    fs::write(dir.join("popup.js"), "old").unwrap();
    assert_eq!(home.godctl(&["extension", "export", dir.to_str().unwrap()]).code, Some(0));
    assert_ne!(fs::read_to_string(dir.join("popup.js")).unwrap(), "old");
}

#[test]
fn files_of_others_are_not_written_over() {
    let home = Home::new();
    home.write("mine/manifest.json", "{\"name\": \"another\"}");
    let dir = home.path().join("mine");
    let dir = dir.to_str().unwrap();
    let ran = home.godctl(&["extension", "export", dir]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("manifest.json") && ran.stderr.contains("--force"), "{}", ran.stderr);
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
    assert_eq!(home.godctl(&["extension", "export", dir, "--force"]).code, Some(0));
    assert!(fs::read_to_string(Path::new(dir).join("manifest.json")).unwrap().contains("godctl captions"));
    let file = home.write("file", "");
    let ran = home.godctl(&["extension", "export", file.to_str().unwrap()]);
    assert!(ran.code == Some(1) && ran.stderr.contains("give a directory"), "{}", ran.stderr);
}

#[test]
fn the_extension_captions_a_tab_and_the_microphone() {
    let Some(chromium) = tools::chromium() else { return };
    let home = Home::new();
    let dir = home.path().join("captions");
    assert_eq!(home.godctl(&["extension", "export", dir.to_str().unwrap()]).code, Some(0));
    let (_server, address) = serve(&home, &[]);
    let args = [
        ("server", Path::new(&address)),
        ("chromium", &chromium),
        ("extension", &dir),
        ("recording", &recording("demo1.wav")),
        ("played", &recording("demo4.wav")),
    ];
    let Some(ran) = script("extension.mjs", &args) else { return };
    let seen = seen(&ran);
    assert_eq!(seen["troubles"], serde_json::json!([]));
    assert!(seen["tried"].as_str().unwrap().contains("command-en"), "{}", seen["tried"]);
    assert_eq!(seen["microphone"], serde_json::json!(["hey tonny start a new claude session"]));
    // A tab is captured from some moment on; what it says after that is heard.
    let tab = seen["tab"].as_str().unwrap();
    assert!(tab.contains("open the dashboard in a new tab"), "{tab}");
    let overlay = seen["overlay"].as_str().unwrap();
    assert!(overlay.contains("open the dashboard in a new tab"), "{overlay}");
    assert_eq!(seen["evil"], 0, "captions became markup");
}
