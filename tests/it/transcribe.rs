//! `godctl transcribe` as a user runs it: real recordings, the built-in model, and every kind of bad input.

use std::{
    fs,
    io::{BufRead as _, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use godctl::asr::wer::WordErrors;
use serde_json::Value;

use crate::{
    support::{Home, Ran, Running, root},
    wav::{self, Encoding},
};

fn demo(name: &str) -> PathBuf {
    root().join("assets/demo").join(name)
}

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/audio").join(name)
}

fn transcribe(home: &Home, files: &[&Path], flags: &[&str]) -> Ran {
    let mut command = home.command("godctl");
    command.arg("transcribe").args(files).args(flags);
    if !flags.contains(&"--model") {
        // Asked for by name, it does not say that it is only for commands.
        command.args(["--model", "command-en"]);
    }
    command.output().unwrap().into()
}

/// The reference library's figures for the same weights: `tools/reference_wer.py` made them.
fn reference() -> Value {
    serde_json::from_str(&crate::support::read("tests/fixtures/reference_wer.json")).unwrap()
}

/// The rows of a tab-separated file, without its heading.
fn rows(path: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().skip(1).map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

#[test]
fn the_recordings_are_transcribed_as_well_as_by_the_reference_library() {
    let home = Home::new();
    let out = home.path().join("out");
    let commands = root().join("tests/fixtures/audio/command-en");
    let mut expected: Vec<(PathBuf, String)> = Vec::new();
    expected.extend(rows(&demo("demo.tsv")).iter().map(|row| (demo(&row[0]), row[3].clone())));
    expected.extend(
        rows(&commands.join("digits.tsv")).iter().map(|row| (commands.join(&row[0]), row[3].clone())),
    );
    let long: Vec<_> = rows(&commands.join("long.tsv")).into_iter().map(|row| row[3].clone()).collect();
    expected.push((commands.join("long.wav"), long.join(" ")));

    let files: Vec<&Path> = expected.iter().map(|(path, _)| path.as_path()).collect();
    let ran = transcribe(&home, &files, &["--output-dir", out.to_str().unwrap()]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let mut errors = WordErrors::default();
    for (path, text) in &expected {
        let written = fs::read_to_string(out.join(path.file_name().unwrap()).with_extension("txt")).unwrap();
        errors += WordErrors::between(text, &written);
    }
    let reference = reference()["totals"]["all"]["wer_percent"].as_f64().unwrap() / 100.0;
    assert!(errors.rate() <= reference + 0.02, "{:.3} instead of {reference:.3}", errors.rate());
}

#[test]
fn silence_and_noise_give_no_words() {
    let home = Home::new();
    for name in ["command-en/silence.wav", "command-en/noise.wav"] {
        let ran = transcribe(&home, &[&fixture(name)], &[]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{name}: {}", ran.stderr);
    }
}

#[test]
fn every_container_and_every_sample_format_gives_the_words() {
    let home = Home::new();
    let (speech, rate) = wav::read(&demo("demo6.wav"));
    assert_eq!(rate, 16_000);
    let expected = transcribe(&home, &[&demo("demo6.wav")], &[]).stdout;
    assert_eq!(expected, "summarize the meeting and save the report\n");
    for (name, times, channels, encoding) in [
        ("8bit.wav", 1, 1, Encoding::U8),
        ("24bit-stereo.wav", 1, 2, Encoding::S24),
        ("96k-6ch.wav", 6, 6, Encoding::S16),
        ("48k-float.wav", 3, 1, Encoding::F32),
    ] {
        let path = home.path().join(name);
        fs::write(&path, wav::wav(&wav::repeat(&speech, times), rate * times as u32, channels, encoding))
            .unwrap();
        assert_eq!(transcribe(&home, &[&path], &[]).stdout, expected, "{name}");
    }
    let mut formats = 0;
    for path in crate::support::files("tests/fixtures/audio/formats", "") {
        if path.extension().is_some_and(|ending| ending != "md" && ending != "txt" && ending != "sh") {
            let ran = transcribe(&home, &[&path], &[]);
            assert_eq!(ran.code, Some(0), "{}: {}", path.display(), ran.stderr);
            let errors = WordErrors::between("hey tonny start a new claude session", &ran.stdout);
            assert!(errors.total() <= 1, "{}: {}", path.display(), ran.stdout);
            formats += 1;
        }
    }
    assert!(formats >= 4, "{formats} container formats");
}

#[test]
fn samples_that_are_no_numbers_become_silence_and_are_reported() {
    let home = Home::new();
    let (mut speech, rate) = wav::read(&demo("demo4.wav"));
    speech.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30].repeat(100));
    let path = home.path().join("nan.wav");
    // The helper clamps; these bytes must not be.
    let mut bytes = wav::header(rate, 1, Encoding::F32, speech.len() as u32 * 4);
    bytes.extend(speech.iter().flat_map(|sample| sample.to_le_bytes()));
    fs::write(&path, bytes).unwrap();
    let ran = transcribe(&home, &[&path], &[]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(0), "open the dashboard in a new tab\n"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("nan_samples=300"), "{}", ran.stderr);
}

#[test]
fn a_broken_file_fails_alone_with_its_reason_and_the_others_go_on() {
    let home = Home::new();
    let good = demo("demo4.wav");
    let empty = home.write("empty.wav", "");
    let text = home.write("text.mp3", "this is not music, this is a shopping list: bread, milk, eggs\n");
    let missing = home.path().join("missing.wav");
    let directory = home.path().to_owned();
    let whole = fs::read(demo("demo5.wav")).unwrap();
    let truncated = home.path().join("truncated.wav");
    fs::write(&truncated, &whole[..whole.len() / 2]).unwrap();

    for (path, reason) in [
        (&empty, "is empty"),
        (&text, "this is text, not audio"),
        (&missing, "no such file"),
        (&directory, "is a directory"),
    ] {
        let ran = transcribe(&home, &[path], &[]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", path.display());
        assert!(ran.stderr.contains(reason) && ran.stderr.lines().count() == 1, "{}", ran.stderr);
    }
    let ran = transcribe(&home, &[&truncated], &[]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stdout.starts_with("mute the microphone"),
        "what came before the cut is kept: {}",
        ran.stdout
    );
    assert!(ran.stderr.contains("truncated"), "{}", ran.stderr);

    let ran = transcribe(&home, &[&empty, &text, &good, &missing], &[]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stdout.contains("open the dashboard in a new tab"), "{}", ran.stdout);
    assert!(ran.stderr.contains("3 of 4 recordings failed"), "{}", ran.stderr);
}

#[test]
fn standard_input_and_every_output_format() {
    let home = Home::new();
    let mut child = home
        .command("godctl")
        .args(["transcribe", "--stdin", "--format", "json", "--words"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&fs::read(demo("demo1.wav")).unwrap()).unwrap();
    let json: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(json["text"], "hey tonny start a new claude session");
    assert_eq!(json["language"], "en");
    let words = json["utterances"][0]["words"].as_array().unwrap();
    assert_eq!(words.len(), 7);
    let times: Vec<f64> =
        words.iter().flat_map(|w| [&w["start"], &w["end"]]).map(|t| t.as_f64().unwrap()).collect();
    assert!(times.is_sorted() && times[13] <= 3.35, "{times:?}");

    let out = home.path().join("captions");
    let formats = "txt,json,srt,vtt,tsv,lrc";
    let ran = transcribe(
        &home,
        &[&demo("demo1.wav")],
        &["--format", formats, "--output-dir", out.to_str().unwrap()],
    );
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
    for format in formats.split(',') {
        let text = fs::read_to_string(out.join("demo1").with_extension(format)).unwrap();
        assert!(text.contains("hey tonny start a new claude session"), "{format}: {text}");
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 6, "no temporary file is left");
}

#[test]
fn a_model_that_can_not_be_loaded_is_named_with_what_is_wrong() {
    let home = Home::new();
    let source = root().join("assets/models/command-en");
    let broken = |name: &str, change: &dyn Fn(&Path)| {
        let dir = home.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        for file in ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"] {
            fs::copy(source.join(file), dir.join(file)).unwrap();
        }
        change(&dir);
        let ran = transcribe(&home, &[&demo("demo1.wav")], &["--model", dir.to_str().unwrap()]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{name}: {}", ran.stderr);
        ran.stderr
    };
    let missing = broken("missing", &|dir| fs::remove_file(dir.join("model.safetensors")).unwrap());
    assert!(missing.contains("model.safetensors"), "{missing}");
    let truncated = broken("truncated", &|dir| {
        let path = dir.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert!(truncated.contains("damaged or incomplete"), "{truncated}");
    let shape = broken("shape", &|dir| {
        let path = dir.join("config.json");
        let config = fs::read_to_string(&path)
            .unwrap()
            .replace("\"decoder_ffn_dim\": 768", "\"decoder_ffn_dim\": 512");
        fs::write(path, config).unwrap();
    });
    assert!(shape.contains("768") && shape.contains("512"), "{shape}");
    let tokenizer =
        broken("tokenizer", &|dir| fs::write(dir.join("tokenizer.json"), "{\"version\":").unwrap());
    assert!(tokenizer.contains("tokenizer.json"), "{tokenizer}");
    let unknown = transcribe(&home, &[&demo("demo1.wav")], &["--model", "bse"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("base"), "{}", unknown.stderr);
}

/// The largest resident size of any child that has ended.
#[cfg(target_os = "linux")]
fn peak_of_children_mb() -> i64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    #[allow(unsafe_code, reason = "the standard library does not tell what a child used")]
    // SAFETY: getrusage fills the structure it is given; all zeroes is a valid value of it in any case.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_maxrss / 1024
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_of_two_hours_does_not_need_its_size_in_memory() {
    let home = Home::new();
    let path = home.path().join("long.wav");
    let (speech, rate) = wav::read(&demo("demo4.wav"));
    let total = 2 * 3600 * rate as usize;
    let mut file = std::io::BufWriter::new(fs::File::create(&path).unwrap());
    file.write_all(&wav::header(rate, 1, Encoding::S16, total as u32 * 2)).unwrap();
    // Ten minutes of silence, a sentence, and so on; the last sentence ends close to the end.
    let (mut written, gap) = (0, 600 * rate as usize);
    while written < total {
        let silent = gap.min(total - written).saturating_sub(speech.len());
        for _ in 0..silent {
            file.write_all(&[0, 0]).unwrap();
        }
        for sample in speech.iter().take(total - written - silent) {
            file.write_all(&((sample * 32_767.0) as i16).to_le_bytes()).unwrap();
        }
        written += silent + speech.len().min(total - written - silent);
    }
    file.flush().unwrap();
    drop(file);
    let ran = transcribe(&home, &[&path], &["--format", "tsv"]);
    // The samples alone would be 460 MB.
    let peak_mb = peak_of_children_mb();
    assert!(peak_mb < 300, "{peak_mb} MB");
    assert_eq!(
        ran.stdout.matches("open the dashboard in a new tab").count(),
        12,
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    assert!(ran.stdout.lines().last().unwrap().starts_with("719"), "{}", ran.stdout);
}

#[test]
fn a_recording_at_the_pace_of_the_clock_gives_the_same_words() {
    let home = Home::new();
    let path = demo("demo4.wav");
    let input = format!("file:{}", path.display());
    let ran = home.godctl(&["transcribe", "--input", &input]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(0), "open the dashboard in a new tab\n"),
        "{}",
        ran.stderr
    );
}

#[cfg(unix)]
#[test]
fn one_interrupt_ends_a_command_that_waits_for_its_input() {
    let home = Home::new();
    for args in [&["--stdin"][..], &["--input", "file:/dev/stdin"]] {
        let mut child = home
            .command("godctl")
            .args(["transcribe", "--model", "command-en", "-vv"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It listens for signals before it loads the model, and says when that is done.
        let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("model loaded")), "{args:?}");
        let told =
            std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(told.success());
        let started = std::time::Instant::now();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{args:?}");
        // The pipe is still open: only the signal can have ended it. The deadline of a stop is 15 s.
        assert!(started.elapsed().as_secs() < 10, "{args:?} took {:?}", started.elapsed());
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let home = Home::new();
    let files =
        [demo("demo4.wav"), demo("demo6.wav"), demo("demo1.wav")].map(|path| path.display().to_string());
    let mut command = home.command("sh");
    command
        .arg("-c")
        .arg(format!("godctl transcribe --model command-en {} | head -n 1; exit 0", files.join(" ")));
    let ran: Ran = command.output().unwrap().into();
    assert_eq!((ran.stdout.lines().count(), ran.stderr.as_str()), (1, ""));
}

#[test]
fn captions_of_several_recordings_need_a_directory() {
    let home = Home::new();
    let ran = transcribe(&home, &[&demo("demo4.wav"), &demo("demo6.wav")], &["--format", "srt"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    assert!(ran.stderr.contains("--output-dir"), "{}", ran.stderr);
}

#[test]
fn nothing_to_do_is_said() {
    let home = Home::new();
    let ran = home.godctl(&["transcribe"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("--mic"), "{}", ran.stderr);
}

/// What a session over the real websocket commits, line by line.
async fn over_the_websocket(address: &str, samples: &[f32], paced: bool) -> String {
    use godctl::asr::{
        client::{self, Pacer},
        protocols::native::{ServerMessage, Tagged},
    };
    // A machine that is late with one stream refuses the next one for a while, as it should.
    let (mut sender, mut receiver) = loop {
        let (sender, mut receiver) = client::connect(&format!("ws://{address}/asr")).await.unwrap();
        match receiver.next().await.unwrap().unwrap() {
            ServerMessage::Tagged(Tagged::Error { code, retry_after: Some(seconds), .. })
                if code == "busy" =>
            {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            }
            ServerMessage::Tagged(Tagged::Config(_)) => break (sender, receiver),
            other => panic!("no configuration: {other:?}"),
        }
    };
    let sending = async {
        let pacer = Pacer::start();
        let mut sent = 0;
        for chunk in samples.chunks(if paced { 1_600 } else { 50_000 }) {
            sent += chunk.len() as u64;
            if paced {
                pacer.heard(sent).await;
            }
            sender.audio(chunk).await.unwrap();
        }
        sender.end().await.unwrap();
    };
    let receiving = async {
        let mut text = String::new();
        while let Ok(Some(message)) = receiver.next().await {
            match message {
                ServerMessage::State(state) => {
                    let lines = state.lines.iter().map(|line| line.text.as_str());
                    text =
                        lines.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
                }
                ServerMessage::Tagged(tagged) if format!("{tagged:?}").contains("ReadyToStop") => break,
                ServerMessage::Tagged(_) | ServerMessage::Snapshot(_) | ServerMessage::Diff(_) => {}
            }
        }
        text
    };
    tokio::join!(sending, receiving).1
}

#[tokio::test]
async fn the_file_the_websocket_in_real_time_and_the_websocket_at_once_say_the_same() {
    let home = Home::new();
    let mut server = home.command("godctl");
    server.args(["asr-serve", "--listen", "127.0.0.1:0", "--model", "command-en"]).stdout(Stdio::piped());
    let mut server = Running(server.spawn().unwrap());
    let mut first = String::new();
    std::io::BufReader::new(server.0.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    let address = first.split("http://").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    while !String::from_utf8_lossy(&http_get(&address, "/ready").await).starts_with("HTTP/1.1 200") {}

    // Ten seconds with three utterances in the vocabulary, and eleven of a president who is not.
    let (long, _) = wav::read(&fixture("command-en/long.wav"));
    let (jfk, _) = wav::read(&fixture("jfk.wav"));
    for (name, samples) in [("long", &long[..10 * 16_000]), ("jfk", &jfk[..])] {
        let path = home.path().join(name).with_extension("wav");
        fs::write(&path, wav::wav(samples, 16_000, 1, Encoding::S16)).unwrap();
        let file = transcribe(&home, &[&path], &[]);
        assert_eq!(file.code, Some(0), "{}", file.stderr);
        let (paced, at_once) = tokio::join!(
            over_the_websocket(&address, samples, true),
            over_the_websocket(&address, samples, false)
        );
        assert_eq!(at_once, file.stdout.trim(), "{name} at once");
        assert_eq!(paced, at_once, "{name} in real time");
        assert!(!at_once.is_empty());
    }
}

async fn http_get(address: &str, path: &str) -> Vec<u8> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    socket
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    answer
}
