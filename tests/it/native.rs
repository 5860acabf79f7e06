//! The websocket `/asr` beyond its first words (see `server`): the mode that sends only what is new, options that can
//! be set until there is audio, lines as the client likes them, and the lag.

use godctl::asr::{
    protocols::native::{
        Config, Line, ServerMessage, Tagged,
        diff::{Diff, Snapshot},
        parse_clock,
    },
    server::ServerOptions,
    stream::Policy,
};

use crate::{
    fake::{self, Model, pcm, silence, spoken, text_of},
    server::{Server, Session, say, texts},
};

/// A client of `mode=diff` that does what WhisperLiveKit documents, or what mends WhisperLiveKit.
#[derive(Default)]
struct Reader {
    robust: bool,
    seq: u64,
    lines: Vec<Line>,
    /// What may still change.
    buffer: String,
    running: Option<Line>,
}

impl Reader {
    fn snapshot(&mut self, snapshot: &Snapshot<'_>) {
        assert_eq!((snapshot.seq, self.seq), (1, 0), "one snapshot, and it is the first");
        self.seq = 1;
        self.lines = snapshot.state.lines.to_vec();
        self.buffer = snapshot.state.buffer_transcription.to_string();
    }

    fn diff(&mut self, diff: &Diff<'_>) {
        self.seq += 1;
        assert_eq!(diff.seq, self.seq, "nothing is left out");
        self.lines.drain(..diff.lines_pruned);
        if self.robust {
            self.lines.truncate(diff.n_lines - diff.new_lines.len());
        }
        self.lines.extend(diff.new_lines.iter().cloned());
        assert_eq!(self.lines.len(), diff.n_lines);
        self.buffer = diff.buffer_transcription.to_string();
        self.running = diff.running.clone().map(std::borrow::Cow::into_owned);
    }
}

#[tokio::test]
async fn the_mode_diff_tells_each_line_once_and_both_kinds_of_clients_understand_it() {
    let server = Server::ready(1, Model::Willing, ServerOptions::default()).await;
    let mut session = server.connect("?mode=diff&words=true&hop=100").await;
    assert_eq!(session.config.as_ref().unwrap().mode, "diff");
    // Long enough to be committed word by word.
    let long: Vec<u8> = (30..60).collect();
    let audio = [spoken(&[10, 20]), spoken(&long), silence(6.0), spoken(&[40, 50])].concat();
    let mut readers = [false, true].map(|robust| Reader { robust, ..Reader::default() });
    let mut finals: Vec<Line> = Vec::new();
    let mut grown = false;
    let mut sent = 0;
    let mut heard = true;
    loop {
        // One piece after another, each when the one before has been heard: so each state is seen.
        if heard && sent < audio.len() {
            let piece = &audio[sent..(sent + 4_000).min(audio.len())];
            session.sender.audio(piece).await.unwrap();
            sent += piece.len();
            session.sender.text(r#"{"type":"marker","name":"m"}"#).await.unwrap();
        } else if heard {
            session.sender.end().await.unwrap();
        }
        heard = false;
        let message = session.next().await;
        match &message {
            ServerMessage::Snapshot(snapshot) => {
                readers.iter_mut().for_each(|reader| reader.snapshot(snapshot))
            }
            ServerMessage::Diff(diff) => readers.iter_mut().for_each(|reader| reader.diff(diff)),
            ServerMessage::Tagged(Tagged::Marker { .. }) => heard = true,
            ServerMessage::Tagged(Tagged::ReadyToStop) => break,
            other => panic!("unexpected {other:?}"),
        }
        assert_eq!(readers[0].lines, readers[1].lines);
        assert_eq!(readers[0].lines[..finals.len()], finals, "what is final stays");
        finals.clone_from(&readers[0].lines);
        assert!(finals.iter().all(|line| line.last));
        if let Some(running) = &readers[0].running {
            grown = true;
            assert!(!running.last && running.id == finals.len() as u64);
            assert!(
                readers[0].buffer.trim_start().starts_with(&running.text),
                "old clients see it all the same"
            );
        }
    }
    let said: Vec<(i32, &str)> = finals.iter().map(|line| (line.speaker, line.text.as_str())).collect();
    assert_eq!(said, [(1, "w10 w20"), (1, text_of(&long).as_str()), (-2, ""), (1, "w40 w50")]);
    assert_eq!(finals[3].words.len(), 2);
    assert!(grown, "no line was ever seen growing");
    assert_eq!((readers[0].buffer.as_str(), &readers[0].running), ("", &None));
    session.sender.close().await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_diff_says_what_was_dropped() {
    let options = ServerOptions { retention_lines: 2, ..ServerOptions::default() };
    let server = Server::ready(1, Model::Willing, options).await;
    let mut session = server.connect("?mode=diff").await;
    let mut reader = Reader::default();
    for level in [10, 20, 30, 40, 50] {
        say(&mut session.sender, &spoken(&[level]), 1_600).await;
    }
    session.sender.end().await.unwrap();
    loop {
        match session.next().await {
            ServerMessage::Snapshot(snapshot) => reader.snapshot(&snapshot),
            ServerMessage::Diff(diff) => reader.diff(&diff),
            ServerMessage::Tagged(Tagged::ReadyToStop) => break,
            other => panic!("unexpected {other:?}"),
        }
    }
    let said: Vec<(u64, &str)> = reader.lines.iter().map(|line| (line.id, line.text.as_str())).collect();
    assert_eq!(said, [(3, "w40"), (4, "w50")]);
    session.sender.close().await.unwrap();
    server.stop().await.unwrap();
}

async fn configured(session: &mut Session, options: &str) -> Config {
    session.sender.text(format!(r#"{{"type":"config",{options}}}"#)).await.unwrap();
    match session.tagged().await {
        Tagged::Config(config) => *config,
        other => panic!("no config: {other:?}"),
    }
}

#[tokio::test]
async fn what_was_asked_for_is_in_force_and_echoed() {
    let server = Server::ready(2, Model::Willing, ServerOptions::default()).await;
    let query = "?language=fr,en&task=translate&prompt=Notes&hotwords=godctl&model=fake&policy=alignatt&hop=250\
                 &endpointing=400&segment=length&max_length=12&words=1&mode=full&unknown=1";
    let mut session = server.connect(query).await;
    let config = session.config.clone().unwrap();
    assert_eq!((config.language.as_str(), config.languages.join(",")), ("auto", "fr,en".to_owned()));
    assert_eq!((config.policy, config.hop, config.endpointing), (Policy::AlignAtt, 250, Some(400)));
    assert_eq!((config.max_length, config.words, config.retention_lines), (Some(12), true, 10_000));
    assert_eq!((config.prompt.as_deref(), config.hotwords.as_deref()), (Some("Notes"), Some("godctl")));
    assert_eq!(config.ignored, ["unknown"]);
    // 300 ms of silence are no pause now, and a line has 12 characters.
    let audio = [&spoken(&[10, 20, 30, 40])[..11_200], &spoken(&[50])].concat();
    say(&mut session.sender, &audio, 1_600).await;
    let last = session.finish().await;
    assert_eq!(texts(&last), ["w10 w20 w30", "w40 w50"]);
    let lines: Vec<(u64, bool, Option<&str>)> =
        last.lines.iter().map(|line| (line.id, line.last, line.detected_language.as_deref())).collect();
    assert_eq!(lines[1], (1, true, Some("fr")), "{lines:?}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_hop_decides_how_often_there_is_something_new() {
    let server = Server::ready(2, Model::Willing, ServerOptions::default()).await;
    let mut windows = Vec::new();
    for hop in [100, 1_000, 10_000] {
        let before = server.engine.stats().windows;
        let mut session = server.connect(&format!("?hop={hop}")).await;
        say(&mut session.sender, &spoken(&[10; 40]), 1_600).await;
        session.finish().await;
        windows.push(server.engine.stats().windows - before);
    }
    // Four seconds of speech, and one window at its end.
    assert!(windows[0] >= 39 && (4..=5).contains(&windows[1]) && windows[2] == 1, "{windows:?}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn options_can_be_set_until_there_is_audio() {
    let server = Server::ready(1, Model::Willing, ServerOptions::default()).await;
    let mut session = server.connect("?language=en&prompt=Notes").await;
    let config = configured(&mut session, r#""language":"fr","endpointing":400,"mode":"diff""#).await;
    assert_eq!(
        (config.language.as_str(), config.mode.as_ref(), config.endpointing),
        ("fr", "diff", Some(400))
    );
    assert_eq!(config.prompt.as_deref(), Some("Notes"), "what is not named stays");
    let ServerMessage::Snapshot(snapshot) = session.next().await else { panic!("no snapshot") };
    assert_eq!((snapshot.seq, snapshot.state.lines.len()), (1, 0));
    let config = configured(&mut session, r#""mode":"full","words":true,"hop":200"#).await;
    assert_eq!((config.language.as_str(), config.hop, config.words), ("fr", 200, true));

    // What cannot be had is said, what was in force stays, and the session goes on.
    for (options, code) in [
        (r#""language":"tlh""#, "bad_request"),
        (r#""hop":"soon""#, "bad_request"),
        (r#""model":"other""#, "bad_request"),
        (r#""language":{}"#, "bad_message"),
    ] {
        session.sender.text(format!(r#"{{"type":"config",{options}}}"#)).await.unwrap();
        let refused = session.tagged().await;
        assert!(
            matches!(&refused, Tagged::Error { code: said, .. } if said == code),
            "{options}: {refused:?}"
        );
    }
    let audio = [&spoken(&[10])[..6_400], &spoken(&[20])].concat();
    session.sender.audio(&audio[..1_600]).await.unwrap();
    session.sender.text(r#"{"type":"config","language":"en"}"#).await.unwrap();
    let refused = session.tagged().await;
    assert!(matches!(&refused, Tagged::Error { code, .. } if code == "too_late"), "{refused:?}");
    say(&mut session.sender, &audio[1_600..], 800).await;
    let last = session.finish().await;
    // One line, so the 300 ms in the middle are no pause: the first message is still in force.
    assert_eq!(texts(&last), ["w10 w20"]);
    assert_eq!((last.lines[0].detected_language.as_deref(), last.lines[0].words.len()), (Some("fr"), 2));
    server.active(0).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_change_of_options_takes_no_second_slot() {
    let server = Server::ready(1, Model::Willing, ServerOptions::default()).await;
    let mut session = server.connect("").await;
    for hop in 100..150 {
        assert_eq!(configured(&mut session, &format!(r#""hop":{hop}"#)).await.hop, hop);
    }
    assert_eq!(server.engine.stats().active, 1);
    session.sender.bytes(pcm(&spoken(&[10]))).await.unwrap();
    assert_eq!(texts(&session.finish().await), ["w10"]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_lag_is_what_waits_and_a_client_is_told_while_nothing_is_said() {
    let (release, model) = fake::held();
    let server = Server::ready(1, model, ServerOptions::default()).await;
    let mut session = server.connect("").await;
    // A long silence waits for nothing, however long ago the last word was.
    say(&mut session.sender, &silence(30.0), 16_000).await;
    session.sender.text(r#"{"type":"marker","name":"heard"}"#).await.unwrap();
    assert!(matches!(session.tagged().await, Tagged::Marker { .. }));
    // Half a second of speech is taken in, then the model is asked and does not answer.
    say(&mut session.sender, &spoken(&[10; 50]), 1_600).await;
    let told = loop {
        let state = session.state().await;
        if state.remaining_time_transcription_processing > 0.5 {
            break state;
        }
        assert_eq!(state.lines.len(), 0);
    };
    // Five and a half seconds were sent; how much of it waits depends on when the first window was asked for.
    assert!((4.0..5.5).contains(&told.remaining_time_transcription_processing), "{told:?}");
    drop(release);
    let last = session.finish().await;
    assert_eq!(texts(&last), ["w10"]);
    assert!(last.remaining_time_transcription_processing < 0.1, "{last:?}");
    assert!((parse_clock(&last.lines[0].start).unwrap() - 30.0).abs() < 0.01);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn odd_frames_make_no_noise() {
    let server = Server::ready(1, Model::Willing, ServerOptions::default()).await;
    let levels = [10, 20, 30, 40];
    let mut session = server.connect("").await;
    for frame in pcm(&spoken(&levels)).chunks(333) {
        session.sender.bytes(frame.to_vec()).await.unwrap();
    }
    assert_eq!(texts(&session.finish().await), [text_of(&levels)]);
    server.stop().await.unwrap();
}
