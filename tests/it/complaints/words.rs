//! Complaints about what is written down, and when.

use futures_util::future::join_all;
use godctl::asr::{
    decode::guard,
    protocols::native::{SILENCE, SPEAKER, ServerMessage, Tagged, parse_clock},
    server::ServerOptions,
};

use super::{connect, post, ready, sound, transcribe, words};
use crate::{
    browser::serve,
    fake::{Model, silence, spoken},
    operate,
    server::{Server, Session, say, texts},
    support::Home,
    wav::{self, Encoding},
};

/// Endless phrases: noise makes none with either policy, what a speaker repeats is kept, and a loop of the decoder is
/// cut before it is said.
#[tokio::test(flavor = "multi_thread")]
async fn complaint_01_nothing_is_repeated_without_end() {
    let home = Home::new();
    let (_server, address) = serve(&home, &[]);
    let noise: Vec<f32> = sound("tests/fixtures/audio/command-en/noise.wav");
    let phrase = [sound("assets/demo/demo4.wav"), silence(1.0)].concat().repeat(2);
    for policy in ["localagreement", "alignatt"] {
        let mut session = connect(&address, &format!("?policy={policy}")).await;
        say(&mut session.sender, &noise, 8_000).await;
        let last = session.finish().await;
        assert_eq!(words(&last), "", "{policy}: noise is no speech");
        let mut session = connect(&address, &format!("?policy={policy}")).await;
        say(&mut session.sender, &phrase, 8_000).await;
        let last = session.finish().await;
        assert_eq!(texts(&last), ["open the dashboard in a new tab"; 2], "{policy}");
    }
    // What a decoder does that has lost its way, and what people say.
    let looped: Vec<u32> = [5, 6].into_iter().chain([7, 8, 9].into_iter().cycle().take(90)).collect();
    assert!(guard::find(&looped).is_some());
    assert!(guard::find(&[1, 2, 1, 2, 3, 3, 3]).is_none());
}

/// Timestamps that run away with each pause: there is one clock, and it counts samples.
#[tokio::test]
async fn complaint_04_timestamps_do_not_drift_after_pauses() {
    let server = ready(1).await;
    let mut session = server.connect("?words=true").await;
    let one = [spoken(&[10, 20]), silence(6.0)].concat();
    let length = one.len() as f64 / 16_000.0;
    for _ in 0..50 {
        say(&mut session.sender, &one, 16_000).await;
    }
    let last = session.finish().await;
    let said: Vec<_> = last.lines.iter().filter(|line| line.speaker == SPEAKER).collect();
    assert_eq!(said.len(), 50);
    for (i, line) in said.iter().enumerate() {
        let expected = i as f64 * length;
        assert!(
            (parse_clock(&line.start).unwrap() - expected).abs() < 0.02,
            "line {i} starts at {}",
            line.start
        );
        assert!((line.words[1].start - expected - 0.1).abs() < 0.02, "line {i}: {:?}", line.words);
    }
    // Speech and pauses together are the whole time: nothing is counted twice, nothing is left out.
    let mut at = 0.0;
    for line in last.lines.iter() {
        let (start, end) = (parse_clock(&line.start).unwrap(), parse_clock(&line.end).unwrap());
        assert!(start >= at - 0.005 && end >= start, "{line:?} after {at}");
        at = end;
    }
    server.stop().await.unwrap();
}

/// A language that was asked for and not used.
#[tokio::test]
async fn complaint_05_each_session_has_its_own_language() {
    let server = ready(3).await;
    let wishes = [("fr", "fr", "fr"), ("en", "en", "en"), ("fr,en", "auto", "fr")];
    let sessions = wishes.map(|(asked, echoed, heard)| {
        let server = &server;
        async move {
            let mut session = server.connect(&format!("?language={asked}")).await;
            let config = session.config.clone().unwrap();
            assert_eq!(config.language, echoed);
            assert_eq!(config.languages.join(","), if echoed == "auto" { asked } else { "" });
            say(&mut session.sender, &spoken(&[10, 20]), 800).await;
            let last = session.finish().await;
            assert_eq!(last.lines[0].detected_language.as_deref(), Some(heard), "{asked}");
        }
    });
    join_all(sessions).await;
    let (sender, receiver) = server.try_connect("?language=tlh").await.unwrap();
    let (error, _, close) = Session { sender, receiver, config: None }.refusal().await;
    assert!(close == 4400 && error.contains("tlh"), "{error}");
    server.stop().await.unwrap();
}

/// "Thank you for watching" before anybody speaks.
#[tokio::test(flavor = "multi_thread")]
async fn complaint_06_silence_and_noise_are_no_words() {
    let home = Home::new();
    let (_server, address) = serve(&home, &[]);
    let sounds = [
        silence(30.0),
        sound("tests/fixtures/audio/command-en/silence.wav"),
        sound("tests/fixtures/audio/command-en/noise.wav"),
    ];
    for (i, sound) in sounds.iter().enumerate() {
        let mut session = connect(&address, "").await;
        say(&mut session.sender, sound, 1_600).await;
        session.sender.end().await.unwrap();
        loop {
            match session.next().await {
                ServerMessage::State(state) => {
                    assert_eq!(
                        (words(&state).as_str(), state.buffer_transcription.as_ref()),
                        ("", ""),
                        "sound {i}"
                    );
                }
                ServerMessage::Tagged(Tagged::ReadyToStop) => break,
                other => panic!("unexpected {other:?}"),
            }
        }
    }
}

/// Speakers that are split, lag behind and are four at most. Here nobody is guessed at from the sound of a voice: who
/// speaks is known where each speaker has a channel, and there it is certain; within a channel everything is said by one.
/// So where there is one channel a line of speech is the first speaker's, a pause is nobody's, and no text waits for a
/// speaker.
#[tokio::test]
async fn complaint_11_speakers_are_stable_and_nothing_waits_for_them() {
    let server = ready(1).await;
    let mut session = server.connect("").await;
    let audio = [spoken(&[10]), silence(6.0), spoken(&[20]), spoken(&[30])].concat();
    say(&mut session.sender, &audio, 1_600).await;
    session.sender.end().await.unwrap();
    loop {
        match session.next().await {
            ServerMessage::State(state) => {
                assert_eq!((state.buffer_diarization.as_ref(), state.remaining_time_diarization), ("", 0.0));
                for line in state.lines.iter() {
                    let expected = if line.text.is_empty() { SILENCE } else { SPEAKER };
                    assert_eq!(line.speaker, expected, "{line:?}");
                }
            }
            ServerMessage::Tagged(Tagged::ReadyToStop) => break,
            other => panic!("unexpected {other:?}"),
        }
    }
    server.stop().await.unwrap();
}

/// Six people on six channels: each is told by the channel and never taken for another, times are those of the
/// recording, and nobody's words wait for somebody else to stop.
#[tokio::test]
async fn complaint_11_six_speakers_on_six_channels_are_never_mixed_up() {
    const SPEAKERS: usize = 6;
    let server = ready(SPEAKERS).await;
    // Everybody says a word of their own, one after the other, three times; the last time all speak at once.
    let turn = |speaker: usize| spoken(&[10 + 10 * speaker as u8]);
    let length = turn(0).len();
    let turns = 3 * SPEAKERS;
    let mut frames = vec![0.0; (turns + 1) * length * SPEAKERS];
    for speaker in 0..SPEAKERS {
        for at in (0..turns).filter(|at| at % SPEAKERS == speaker).chain([turns]) {
            for (i, sample) in turn(speaker).into_iter().enumerate() {
                frames[(at * length + i) * SPEAKERS + speaker] = sample;
            }
        }
    }
    let query = format!("encoding=linear16&sample_rate=16000&channels={SPEAKERS}&multichannel=true");
    let mut socket = operate::connect(&server.address, &format!("/v1/listen?{query}"), &[]).await.unwrap();
    for frame in frames.chunks(SPEAKERS * 1_600) {
        socket.audio(frame).await;
    }
    socket.send("{\"type\":\"CloseStream\"}").await;
    let mut heard: Vec<Vec<(String, f64)>> = vec![Vec::new(); SPEAKERS];
    let code = loop {
        match socket.next().await {
            Ok(message) if message["is_final"] == true => {
                assert_eq!(message["channel_index"][1], SPEAKERS);
                let channel = message["channel_index"][0].as_u64().unwrap() as usize;
                for word in message["channel"]["alternatives"][0]["words"].as_array().unwrap() {
                    heard[channel]
                        .push((word["word"].as_str().unwrap().to_owned(), word["start"].as_f64().unwrap()));
                }
            }
            Ok(_) => {}
            Err(code) => break code,
        }
    };
    assert_eq!(code, 1000);
    for (speaker, heard) in heard.iter().enumerate() {
        let expected = (0..3).map(|round| round * SPEAKERS + speaker).chain([turns]);
        let expected: Vec<f64> = expected.map(|at| (at * length) as f64 / 16_000.0).collect();
        assert_eq!(heard.len(), expected.len(), "speaker {speaker}: {heard:?}");
        for ((word, start), expected) in heard.iter().zip(expected) {
            assert_eq!(*word, format!("w{}", 10 + 10 * speaker), "speaker {speaker}");
            assert!((start - expected).abs() < 0.02, "speaker {speaker}: {start}, not {expected}");
        }
    }
    server.active(0).await;
    server.stop().await.unwrap();
}

/// Speakers of a recording of more than a minute: the same two from beginning to end, a segment for each turn.
#[tokio::test]
async fn complaint_11_a_long_call_is_split_at_the_turns_of_its_two_sides() {
    let server = ready(1).await;
    let one = |level: u8, rest: f64| [spoken(&[level]), silence(rest)].concat();
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for turn in 0..20_u8 {
        left.extend(one(10 + turn, 3.4));
        right.extend([silence(2.0), one(40 + turn, 1.4)].concat());
    }
    let frames: Vec<f32> = left.iter().zip(&right).flat_map(|(left, right)| [*left, *right]).collect();
    let call = wav::interleaved(&frames, 16_000, 2, Encoding::S16);
    let answer = transcribe(&server, &call, &[("response_format", "diarized_json")]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let segments = answer.json()["segments"].as_array().unwrap().clone();
    assert_eq!(segments.len(), 40, "{segments:?}");
    for (i, segment) in segments.iter().enumerate() {
        let (turn, is_right) = (i / 2, i % 2 == 1);
        let (speaker, word) = if is_right { ("B", 40 + turn) } else { ("A", 10 + turn) };
        let said = (segment["speaker"].as_str().unwrap(), segment["text"].as_str().unwrap().trim());
        assert_eq!(said, (speaker, format!("w{word}").as_str()), "segment {i}");
        let expected = 4.0 * turn as f64 + if is_right { 2.0 } else { 0.0 };
        let start = segment["start"].as_f64().unwrap();
        assert!((start - expected).abs() < 0.1, "segment {i} starts at {start}, not {expected}");
    }
    server.stop().await.unwrap();
}

/// Results cut at two minutes, and early lines that vanish: a long session keeps all its lines, and where there is a
/// limit the client is told it first and what was dropped later.
#[tokio::test]
async fn complaint_12_nothing_is_cut_short_in_silence() {
    let server = ready(1).await;
    let mut session = server.connect("").await;
    assert_eq!(session.config.as_ref().unwrap().retention_lines, 10_000);
    let levels: Vec<u8> = (0..200).map(|i| 10 + i % 80).collect();
    for level in &levels {
        say(&mut session.sender, &spoken(&[*level]), 9_600).await;
    }
    let last = session.finish().await;
    let expected: Vec<String> = levels.iter().map(|level| format!("w{level}")).collect();
    assert_eq!((texts(&last), last.lines_pruned), (expected.clone(), 0), "two minutes of audio");
    server.stop().await.unwrap();

    let options = ServerOptions { retention_lines: 50, ..ServerOptions::default() };
    let server = Server::ready(1, Model::Willing, options).await;
    let mut session = server.connect("").await;
    assert_eq!(session.config.as_ref().unwrap().retention_lines, 50);
    for level in &levels {
        say(&mut session.sender, &spoken(&[*level]), 9_600).await;
    }
    let last = session.finish().await;
    assert_eq!((texts(&last), last.lines_pruned), (expected[150..].to_vec(), 150));
    server.stop().await.unwrap();
}

/// The words of a transcript in any format.
fn words_of(text: &str) -> Vec<u8> {
    let tokens = text.split(|c: char| !c.is_ascii_alphanumeric());
    tokens.filter_map(|token| token.strip_prefix('w')?.parse().ok()).collect()
}

/// Results of recordings cut at two minutes, with status 200: all of it is there in every format and from both
/// protocols, and what is not there for a good reason is said.
#[tokio::test]
async fn complaint_12_a_recording_is_answered_whole_or_said_not_to_be() {
    let server = ready(1).await;
    let levels: Vec<u8> = (0..300_u32).map(|i| 10 + (i % 80) as u8).collect();
    let audio: Vec<f32> = levels.iter().flat_map(|level| spoken(&[*level])).collect();
    let recording = wav::wav(&audio, 16_000, 1, Encoding::S16);
    for format in ["json", "text", "srt", "vtt", "verbose_json", "diarized_json"] {
        let answer = transcribe(&server, &recording, &[("response_format", format)]).await;
        assert_eq!(answer.status, 200, "{format}: {answer:?}");
        assert!(!answer.head.contains("x-godctl-warning"), "{format}: {}", answer.head);
        let is_json = format.ends_with("json");
        let text =
            if is_json { answer.json()["text"].as_str().unwrap().to_owned() } else { answer.body.clone() };
        assert_eq!(words_of(&text), levels, "{format}: three minutes of audio");
        if format == "verbose_json" {
            let json = answer.json();
            assert!((json["duration"].as_f64().unwrap() - 180.0).abs() < 0.01, "{}", json["duration"]);
            let last = json["segments"].as_array().unwrap().last().unwrap()["end"].as_f64().unwrap();
            assert!((179.0..=180.0).contains(&last), "the last segment ends at {last}");
        }
    }
    let events = transcribe(&server, &recording, &[("stream", "true")]).await;
    let done = |line: &&str| line.starts_with("data:") && line.contains("transcript.text.done");
    let done = events.body.lines().rfind(done).unwrap_or_else(|| panic!("{events:?}"));
    assert_eq!(words_of(done), levels, "the last event has all of it");
    let answer = post(&server.address, "/v1/listen", "audio/wav", &recording).await;
    let channel = &answer.json()["results"]["channels"][0]["alternatives"][0];
    assert_eq!(words_of(channel["transcript"].as_str().unwrap()), levels);

    // The connection of whoever recorded it broke: what is there is transcribed, and that it is a part is said.
    let part = transcribe(&server, &recording[..recording.len() / 2], &[]).await;
    let heard = words_of(part.json()["text"].as_str().unwrap());
    assert!(part.status == 200 && heard.len() >= 149 && levels.starts_with(&heard), "{heard:?}");
    assert!(part.json()["warnings"][0].as_str().unwrap().contains("truncated"), "{part:?}");
    // What can't be heard is an error and no empty text; what is silent is an empty text and no error.
    let failed = transcribe(&server, &wav::wav(&spoken(&[99]), 16_000, 1, Encoding::S16), &[]).await;
    assert_eq!(failed.status, 500, "{failed:?}");
    assert!(failed.json()["error"]["message"].as_str().unwrap().contains("too loud"), "{failed:?}");
    let quiet = transcribe(&server, &wav::wav(&silence(3.0), 16_000, 1, Encoding::S16), &[]).await;
    assert_eq!((quiet.status, quiet.json()["text"].as_str()), (200, Some("")), "{quiet:?}");
    server.stop().await.unwrap();
}

/// One paragraph that grows and changes for ever: lines end where the client likes, have a number, say when they are
/// final, and never change after that.
#[tokio::test]
async fn complaint_13_lines_are_short_numbered_and_final() {
    let server = ready(1).await;
    for (query, expected) in [
        ("?segment=sentence", vec!["w10 w98.", "w20 w30 w98.", "w40", "w50"]),
        ("?segment=pause", vec!["w10 w98. w20 w30 w98. w40", "w50"]),
        ("?segment=length&max_length=12", vec!["w10 w98. w20", "w30 w98. w40", "w50"]),
    ] {
        let mut session = server.connect(&format!("{query}&hop=100")).await;
        let audio = [spoken(&[10, 98, 20, 30, 98, 40]), spoken(&[50])].concat();
        say(&mut session.sender, &audio, 800).await;
        session.sender.end().await.unwrap();
        let mut finals: Vec<(u64, String)> = Vec::new();
        loop {
            match session.next().await {
                ServerMessage::State(state) => {
                    let now = state.lines.iter().filter(|line| line.last);
                    let now: Vec<(u64, String)> = now.map(|line| (line.id, line.text.clone())).collect();
                    assert_eq!(now[..finals.len()], finals, "{query}: what was final has changed");
                    finals = now;
                }
                ServerMessage::Tagged(Tagged::ReadyToStop) => break,
                other => panic!("unexpected {other:?}"),
            }
        }
        let (ids, said): (Vec<u64>, Vec<String>) = finals.into_iter().unzip();
        assert_eq!(said, expected, "{query}");
        assert_eq!(ids, (0..ids.len() as u64).collect::<Vec<_>>());
        session.sender.close().await.unwrap();
        server.active(0).await;
    }
    server.stop().await.unwrap();
}
