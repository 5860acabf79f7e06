//! Sessions over sound whose words are known to the sample.

use proptest::prelude::*;

use super::*;
use crate::asr::stream::{
    StreamConfig,
    testkit::{FRAME, Loud},
};

/// The end is noticed after 200 ms of silence.
fn gate() -> Loud {
    Loud::new(samples_of_ms(300), 20)
}

/// A word is a run of one value: word 7 is 0.07, 0.07, ... A word cut off by the end of the window is misheard.
fn hear(samples: &[f32]) -> Hypothesis {
    let mut words = Vec::new();
    let mut i = 0;
    while i < samples.len() {
        let value = samples[i];
        let run = samples[i..].iter().take_while(|s| **s == value).count();
        if value != 0.0 {
            let cut_off = i + run == samples.len() && run < WORD;
            let text = if cut_off { " huh".to_owned() } else { format!(" w{}", (value * 1000.0).round()) };
            words.push(Word {
                text,
                start: seconds(i as Samples),
                end: seconds((i + run) as Samples),
                probability: 1.0,
            });
        }
        i += run;
    }
    Hypothesis { text: join(&words), words, ..Hypothesis::default() }
}

const WORD: usize = 3200;

/// `words[i]` milliseconds of silence, then the word `i`.
fn speak(gaps: &[u64]) -> Vec<f32> {
    let mut audio = Vec::new();
    for (i, gap) in gaps.iter().enumerate() {
        audio.extend(std::iter::repeat_n(0.0, samples_of_ms(*gap) as usize));
        audio.extend(std::iter::repeat_n((i + 1) as f32 / 1000.0, WORD));
    }
    audio
}

fn config() -> StreamConfig {
    StreamConfig { window: samples_of_ms(3_000), ..StreamConfig::for_window(3.0) }
}

fn run(audio: &[f32], chunks: &[usize], config: &StreamConfig) -> Vec<StreamEvent> {
    let mut session = Session::new(gate(), config.clone());
    let mut events = Vec::new();
    let mut sizes = chunks.iter().copied().cycle();
    let mut rest = audio;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
        rest = after;
        push_all(&mut session, chunk, &mut events);
        assert!(session.history.len() as Samples <= 2 * (config.window + IDLE_HISTORY), "memory is bounded");
    }
    session.finish();
    decode(&mut session, &mut events);
    assert!(session.is_finished());
    events
}

/// Pushes audio to its end, decoding whenever the session asks for it.
fn push_all(session: &mut Session<Loud>, audio: &[f32], events: &mut Vec<StreamEvent>) {
    let mut done = 0;
    while done < audio.len() {
        done += session.push(&audio[done..]);
        decode(session, events);
    }
}

fn decode(session: &mut Session<Loud>, events: &mut Vec<StreamEvent>) {
    while let Some(window) = session.next_job() {
        assert!(window.len() as Samples <= session.config.window);
        session.absorb(Ok(hear(&window)));
    }
    events.extend(std::iter::from_fn(|| session.pop_event()));
}

fn utterances(events: &[StreamEvent]) -> Vec<&Utterance> {
    events
        .iter()
        .filter_map(|e| if let StreamEvent::UtteranceEnded(u) = e { Some(u) } else { None })
        .collect()
}

fn committed(events: &[StreamEvent]) -> Vec<Word> {
    events
        .iter()
        .flat_map(
            |e| if let StreamEvent::Hypothesis { committed, .. } = e { committed.clone() } else { vec![] },
        )
        .collect()
}

fn text(events: &[StreamEvent]) -> String {
    join(&committed(events))
}

#[test]
fn a_pause_ends_an_utterance_and_its_words_are_the_committed_ones() {
    let events = run(&speak(&[500, 50, 900, 50]), &[1600], &config());
    let found: Vec<_> = utterances(&events).iter().map(|u| (u.text.as_str(), u.reason)).collect();
    assert_eq!(found, [("w1 w2", EndReason::Endpoint), ("w3 w4", EndReason::EndOfStream)]);
    assert_eq!(text(&events), "w1 w2 w3 w4");
    assert!(matches!(events.last(), Some(StreamEvent::Ended { heard }) if (*heard - 2.3).abs() < 1e-9));
}

#[test]
fn word_times_come_from_the_sample_counter_however_long_the_pauses() {
    let gaps: Vec<u64> = (0..50).map(|_| 6_000).collect();
    let events = run(&speak(&gaps), &[4_000], &config());
    let words = committed(&events);
    assert_eq!(words.len(), 50);
    for (i, word) in words.iter().enumerate() {
        let truth = (i + 1) as f64 * 6.0 + i as f64 * 0.2;
        assert!((word.start - truth).abs() < 0.02, "word {i} at {} instead of {truth}", word.start);
    }
}

#[test]
fn speech_without_a_pause_is_cut_between_words_and_none_is_lost() {
    let gaps = vec![90; 60];
    let events = run(&speak(&gaps), &[1600], &config());
    let expected: Vec<_> = (1..=60).map(|i| format!("w{i}")).collect();
    assert_eq!(text(&events), expected.join(" "));
    assert!(utterances(&events).iter().filter(|u| u.reason == EndReason::WindowFull).count() >= 5);
}

#[test]
fn a_flush_makes_everything_final_at_once_and_markers_come_after_it() {
    let audio = speak(&[100, 50, 50]);
    let mut session = Session::new(gate(), config());
    let mut events = Vec::new();
    push_all(&mut session, &audio, &mut events);
    session.flush();
    session.marker("m1".to_owned());
    assert!(session.pop_event().is_none(), "the marker waits for the decode");
    decode(&mut session, &mut events);
    assert_eq!(text(&events), "w1 w2 w3");
    assert_eq!(events.last(), Some(&StreamEvent::Marker("m1".to_owned())));
}

#[test]
fn a_failed_last_decode_says_so_and_keeps_what_was_heard_before() {
    let audio = speak(&[100, 50, 50, 50, 50]);
    let mut session = Session::new(gate(), config());
    let mut events = Vec::new();
    push_all(&mut session, &audio, &mut events);
    session.finish();
    assert!(session.next_job().is_some());
    session.absorb(Err("out of memory".to_owned()));
    events.extend(std::iter::from_fn(|| session.pop_event()));
    assert!(
        events.iter().any(|e| matches!(e, StreamEvent::Failed { message, .. } if message == "out of memory"))
    );
    assert!(text(&events).starts_with("w1 w2 w3"));
}

/// What is committed when every hypothesis is marked by `mark`, given how many words are final already.
fn said_when(mark: impl Fn(usize, &mut Hypothesis)) -> String {
    let mut session = Session::new(gate(), config());
    let mut said = Vec::new();
    let audio = speak(&[100, 50, 50, 50, 50, 50, 50, 50]);
    let mut done = 0;
    while done < audio.len() || !session.is_finished() {
        if done < audio.len() {
            done += session.push(&audio[done..]);
        } else {
            session.finish();
        }
        while let Some(window) = session.next_job() {
            let mut hypothesis = hear(&window);
            mark(said.len(), &mut hypothesis);
            session.absorb(Ok(hypothesis));
        }
        said.extend(committed(&std::iter::from_fn(|| session.pop_event()).collect::<Vec<_>>()));
    }
    join(&said)
}

#[test]
fn what_the_model_calls_no_speech_or_guesses_at_is_never_committed() {
    assert_eq!(said_when(|_, _| {}), "w1 w2 w3 w4 w5 w6 w7 w8");
    assert_eq!(said_when(|_, hypothesis| hypothesis.no_speech_prob = 0.9), "", "sure of its words");
    assert_eq!(said_when(|_, hypothesis| hypothesis.avg_logprob = -1.2), "", "sure that it is speech");
}

#[test]
fn doubts_after_the_first_final_words_cost_none_of_the_rest() {
    let late = |said: usize, hypothesis: &mut Hypothesis| {
        if said > 0 {
            (hypothesis.no_speech_prob, hypothesis.avg_logprob) = (0.9, -1.2);
        }
    };
    assert_eq!(said_when(late), "w1 w2 w3 w4 w5 w6 w7 w8");
}

#[test]
fn silence_says_nothing_and_keeps_nothing() {
    let mut session = Session::new(gate(), config());
    let minute = vec![0.0; 60 * 16_000];
    for _ in 0..30 {
        assert_eq!(session.push(&minute), minute.len());
    }
    assert!(session.pop_event().is_none());
    assert!(session.history.len() as Samples <= 2 * IDLE_HISTORY + FRAME as Samples);
    assert!(session.history.capacity() as Samples <= 8 * IDLE_HISTORY);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_chunking_of_the_same_audio_gives_the_same_events(
        gaps in prop::collection::vec(prop_oneof![30u64..150, 400u64..1_500], 1..16),
        chunks in prop::collection::vec(160usize..80_000, 1..8),
        tail in 0u64..500,
    ) {
        let mut audio = speak(&gaps);
        audio.extend(std::iter::repeat_n(0.0, samples_of_ms(tail) as usize + 7));
        let reference = run(&audio, &[audio.len()], &config());
        prop_assert_eq!(&run(&audio, &chunks, &config()), &reference);

        let words = committed(&reference);
        let expected: Vec<_> = (1..=gaps.len()).map(|i| format!("w{i}")).collect();
        prop_assert_eq!(join(&words), expected.join(" "), "no word is lost or said twice");
        prop_assert!(words.windows(2).all(|w| w[0].end <= w[1].start));
        let ended = utterances(&reference);
        prop_assert!(ended.windows(2).all(|u| u[0].end <= u[1].start));
        let joined: Vec<Word> = ended.iter().flat_map(|u| u.words.clone()).collect();
        prop_assert_eq!(joined, words, "an utterance is exactly what was committed in it");
    }
}
