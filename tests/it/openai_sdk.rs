//! OpenAI's own Python client against the binary, with the built-in model.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::Stdio,
};

use godctl::asr::wer::WordErrors;
use serde_json::{Value, json};

use crate::{
    support::{Home, Ran, Running, read, root},
    tools,
    wav::{self, Encoding},
};

/// A server of the binary; gives its address.
fn serve(home: &Home, args: &[&str]) -> (Running, String) {
    let mut command = home.command("godctl");
    command
        .args(["asr-serve", "--listen", "127.0.0.1:0", "--model", "command-en", "--no-publish"])
        .args(args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split_whitespace().find_map(|word| word.strip_prefix("http://")).unwrap().to_owned();
    (Running(child), address)
}

/// Recordings and what is said in them.
fn recordings() -> Vec<(PathBuf, String)> {
    let rows = |path: PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        text.lines().skip(1).map(|l| l.split('\t').map(str::to_owned).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let demo = root().join("assets/demo");
    let commands = root().join("tests/fixtures/audio/command-en");
    let mut all: Vec<(PathBuf, String)> = Vec::new();
    all.extend(rows(demo.join("demo.tsv")).iter().map(|row| (demo.join(&row[0]), row[3].clone())));
    all.extend(rows(commands.join("digits.tsv")).iter().map(|row| (commands.join(&row[0]), row[3].clone())));
    let long: Vec<_> = rows(commands.join("long.tsv")).into_iter().map(|row| row[3].clone()).collect();
    all.push((commands.join("long.wav"), long.join(" ")));
    all
}

/// Two recordings as the two sides of a call, one after the other.
fn call(home: &Home) -> PathBuf {
    let demo = |name: &str| wav::read(&root().join("assets/demo").join(name)).0;
    let (one, other) = (demo("demo1.wav"), demo("demo6.wav"));
    let pause = 8_000;
    let left = one.iter().copied().chain(std::iter::repeat_n(0.0, pause + other.len()));
    let right = std::iter::repeat_n(0.0, one.len() + pause).chain(other.iter().copied());
    let frames: Vec<f32> = left.zip(right).flat_map(|(left, right)| [left, right]).collect();
    let path = home.path().join("call.wav");
    fs::write(&path, wav::interleaved(&frames, 16_000, 2, Encoding::S16)).unwrap();
    path
}

#[test]
fn openai_s_own_client_gets_what_it_asks_for() {
    let Some(python) = tools::python() else { return };
    let home = Home::new();
    let (server, address) = serve(&home, &[]);
    // It answers from the first moment; the client does not wait for models.
    let ready = home
        .command("sh")
        .args(["-c", &format!("until curl -sf http://{address}/ready; do :; done")])
        .output();
    assert!(ready.unwrap().status.success());
    let expected = recordings();
    let mut client = home.command(python.to_str().unwrap());
    client.arg(root().join("tests/sdk/openai_client.py")).arg(format!("http://{address}/v1"));
    client.arg(call(&home)).arg(root().join("assets/demo/demo6.wav"));
    client.arg(root().join("tests/fixtures/audio/command-en/silence.wav"));
    client.args(expected.iter().map(|(path, _)| path));
    let ran: Ran = client.output().unwrap().into();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let out: Value = serde_json::from_str(&ran.stdout).unwrap();
    drop(server);

    let text = "summarize the meeting and save the report";
    assert_eq!((&out["models"], &out["model"]), (&json!(["command-en", "whisper-1"]), &json!("whisper-1")));
    assert_eq!(out["json"]["text"], text);
    assert_eq!(out["json"]["usage"]["type"], "duration");
    assert!(out["json"].get("warnings").is_none());
    assert_eq!(out["bytes"], text);
    assert_eq!(out["text"], format!("{text}\n"));
    assert!(out["srt"].as_str().unwrap().starts_with("1\n00:00:0"), "{}", out["srt"]);
    assert!(out["vtt"].as_str().unwrap().starts_with("WEBVTT\n\n00:00:0"), "{}", out["vtt"]);
    let logprobs = out["logprobs"]["logprobs"].as_array().unwrap();
    let tokens: String = logprobs.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    assert_eq!(tokens.trim(), text);
    assert!(logprobs.iter().all(|entry| (-5.0..=0.0).contains(&entry["logprob"].as_f64().unwrap())));
    assert_eq!(out["silence"], "");
    assert_eq!(out["prompt"]["text"], text);
    assert!(out["prompt"]["warnings"][0].as_str().unwrap().contains("the prompt was left out"));

    let verbose = &out["verbose"];
    assert_eq!(
        (&verbose["type"], &verbose["language"], &verbose["text"]),
        (&json!("TranscriptionVerbose"), &json!("english"), &json!(text))
    );
    let words = verbose["words"].as_array().unwrap();
    assert_eq!(words.len(), 7);
    let times: Vec<f64> =
        words.iter().flat_map(|word| [word[1].as_f64().unwrap(), word[2].as_f64().unwrap()]).collect();
    assert!(times.is_sorted() && times[13] <= verbose["duration"].as_f64().unwrap(), "{times:?}");
    let segment = &verbose["segments"][0];
    assert!(
        !segment["tokens"].as_array().unwrap().is_empty() && segment["avg_logprob"].as_f64().unwrap() < 0.0
    );

    assert_eq!(out["diarized"]["type"], "TranscriptionDiarized");
    assert_eq!(out["diarized"]["speakers"], json!(["A", "B"]), "{}", out["diarized"]);
    assert!(out["diarized"]["text"].as_str().unwrap().ends_with(&format!("\nB: {text}")));

    let events = out["stream"].as_array().unwrap();
    assert_eq!(events[0][0], "TranscriptionTextDeltaEvent");
    assert_eq!(events.last().unwrap()[0], "TranscriptionTextDoneEvent");
    assert_eq!(events.last().unwrap()[1]["text"], text);

    assert_eq!(
        out["errors"],
        json!({
            "translation": ["BadRequestError", 400, "bad_request", "model"],
            "format": ["BadRequestError", 400, "invalid_value", "response_format"],
            "language": ["BadRequestError", 400, "bad_request", "language"],
            "audio": ["BadRequestError", 400, "unsupported_format", "file"],
            "model": ["NotFoundError", 404, "model_not_found", "model"],
        })
    );

    // Over HTTP a recording is heard as well as by the reference library with the same weights.
    let mut errors = WordErrors::default();
    for ((_, text), heard) in expected.iter().zip(out["recordings"].as_array().unwrap()) {
        errors += WordErrors::between(text, heard.as_str().unwrap());
    }
    let reference: Value = serde_json::from_str(&read("tests/fixtures/reference_wer.json")).unwrap();
    let reference = reference["totals"]["all"]["wer_percent"].as_f64().unwrap() / 100.0;
    assert!(errors.rate() <= reference + 0.02, "{:.4} instead of {reference:.4}", errors.rate());
}
