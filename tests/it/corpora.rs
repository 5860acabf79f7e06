//! The committed corpora of the fuzz targets, held to the same laws without any fuzzing tool.

use std::collections::BTreeSet;

use crate::support::{files, read, root};

#[path = "../../fuzz/src/laws/mod.rs"]
#[allow(unreachable_pub, reason = "the fuzz targets reach it from another crate")]
mod laws;

/// All corpora together, in bytes: they are seeds, and what a fuzzer finds stays with who runs it.
const MAX_CORPORA: u64 = 300_000;
/// One file. A fuzzer makes no longer inputs than the longest seed, or 4 KB, and long ones are slow.
const MAX_SEED: u64 = 4_096;

fn replay(target: &str) {
    let (name, hold) = laws::TARGETS.into_iter().find(|(name, _)| *name == target).unwrap();
    for seed in files(&format!("fuzz/corpus/{name}"), "") {
        println!("{}", seed.display());
        hold(&std::fs::read(&seed).unwrap());
    }
}

#[test]
fn the_corpus_of_bus_names_keeps_its_laws() {
    replay("bus_names");
}

#[test]
fn the_corpus_of_container_file_keeps_its_laws() {
    replay("container_file");
}

#[test]
fn the_corpus_of_container_stream_keeps_its_laws() {
    replay("container_stream");
}

#[test]
fn the_corpus_of_deepgram_keeps_its_laws() {
    replay("deepgram");
}

#[test]
fn the_corpus_of_event_keeps_its_laws() {
    replay("event");
}

#[test]
fn the_corpus_of_native_keeps_its_laws() {
    replay("native");
}

#[test]
fn the_corpus_of_openai_keeps_its_laws() {
    replay("openai");
}

#[test]
fn the_corpus_of_raw_audio_keeps_its_laws() {
    replay("raw_audio");
}

#[test]
fn no_bytes_at_all_keep_every_law() {
    laws::TARGETS.into_iter().for_each(|(_, hold)| hold(b""));
}

#[test]
fn every_target_has_a_program_a_corpus_and_a_test() {
    let manifest: toml::Table = read("fuzz/Cargo.toml").parse().unwrap();
    let programs = manifest["bin"].as_array().unwrap().iter();
    let programs: BTreeSet<&str> = programs.map(|program| program["name"].as_str().unwrap()).collect();
    assert_eq!(programs, laws::TARGETS.map(|(name, _)| name).into());
    let here = read("tests/it/corpora.rs");
    let mut total = 0;
    for name in programs {
        assert!(read(format!("fuzz/fuzz_targets/{name}.rs")).contains(&format!("laws::{name}::hold")));
        assert!(here.contains(&format!("replay(\"{name}\")")), "{name} is not replayed");
        for seed in files(&format!("fuzz/corpus/{name}"), "") {
            let size = seed.metadata().unwrap().len();
            assert!(size <= MAX_SEED, "{} has {size} bytes", seed.display());
            total += size;
        }
    }
    let corpora = std::fs::read_dir(root().join("fuzz/corpus")).unwrap().count();
    assert_eq!(corpora, laws::TARGETS.len(), "a corpus without a target");
    assert!(total <= MAX_CORPORA, "{total} bytes of seeds");
}
