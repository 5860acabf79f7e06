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
    // Looked for in its middle.
    let attended = words.iter().map(|word| f64::midpoint(word.start, word.end)).collect();
    Hypothesis { text: join(&words), words, attended, ..Hypothesis::default() }
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
        assert!(window.samples.len() as Samples <= session.config.window);
        session.absorb(Ok(hear(&window.samples)));
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

/// What is said when the model hears eight words as `answer` has it, given how many words are final already.
fn played(answer: impl Fn(&Decode, usize, Hypothesis) -> Hypothesis) -> Vec<StreamEvent> {
    let audio = speak(&[100, 50, 50, 50, 50, 50, 50, 50]);
    let mut session = Session::new(gate(), config());
    let mut events = Vec::new();
    let mut done = 0;
    while done < audio.len() || !session.is_finished() {
        if done < audio.len() {
            done += session.push(&audio[done..]);
        } else {
            session.finish();
        }
        while let Some(window) = session.next_job() {
            let hypothesis = answer(&window, committed(&events).len(), hear(&window.samples));
            session.absorb(Ok(hypothesis));
            events.extend(std::iter::from_fn(|| session.pop_event()));
        }
        events.extend(std::iter::from_fn(|| session.pop_event()));
    }
    events
}

/// What is committed when every hypothesis is marked by `mark`.
fn said_when(mark: impl Fn(&mut Hypothesis)) -> String {
    let events = played(|_, _, mut hypothesis| {
        mark(&mut hypothesis);
        hypothesis
    });
    join(&committed(&events))
}

#[test]
fn what_the_model_calls_no_speech_or_guesses_at_is_never_committed() {
    assert_eq!(said_when(|_| {}), "w1 w2 w3 w4 w5 w6 w7 w8");
    assert_eq!(said_when(|hypothesis| hypothesis.no_speech_prob = 0.9), "", "sure of its words");
    assert_eq!(said_when(|hypothesis| hypothesis.avg_logprob = -1.2), "", "sure that it is speech");
}

#[test]
fn doubts_on_the_way_are_overruled_by_words_that_are_final_already() {
    let events = played(|window, said, hypothesis| {
        if said > 0 && !window.is_last {
            Hypothesis { no_speech_prob: 0.9, avg_logprob: -1.2, ..hypothesis }
        } else {
            hypothesis
        }
    });
    assert_eq!(text(&events), "w1 w2 w3 w4 w5 w6 w7 w8");
}

/// The last decode of every utterance is `last`; the others hear what was said.
fn ended_with(last: impl Fn(Hypothesis) -> Hypothesis) -> Vec<StreamEvent> {
    played(|window, _, hypothesis| if window.is_last { last(hypothesis) } else { hypothesis })
}

#[test]
fn the_transcript_is_the_last_decode_and_what_was_promised_stays_promised() {
    let events = ended_with(|mut hypothesis| {
        hypothesis.words[0].text = " x1".to_owned();
        hypothesis
    });
    assert!(text(&events).starts_with("w1 w2"), "never taken back: {}", text(&events));
    assert!(text(&events).ends_with("w7 w8"), "and what follows is not lost: {}", text(&events));
    let [utterance] = utterances(&events)[..] else { panic!("one utterance") };
    assert_eq!((utterance.text.as_str(), utterance.revised), ("x1 w2 w3 w4 w5 w6 w7 w8", true));
}

#[test]
fn an_utterance_that_the_last_decode_agrees_with_is_not_revised() {
    let events = ended_with(|hypothesis| hypothesis);
    let [utterance] = utterances(&events)[..] else { panic!("one utterance") };
    assert_eq!((utterance.text.as_str(), utterance.revised), ("w1 w2 w3 w4 w5 w6 w7 w8", false));
}

#[test]
fn what_the_last_decode_calls_no_speech_is_no_transcript_whatever_was_promised() {
    let events = ended_with(|hypothesis| Hypothesis { no_speech_prob: 0.9, ..hypothesis });
    let [utterance] = utterances(&events)[..] else { panic!("one utterance") };
    assert_eq!((utterance.text.as_str(), utterance.revised), ("", true));
    assert!(text(&events).starts_with("w1"));
}

#[test]
fn alignatt_commits_with_one_hypothesis_and_goes_on_after_its_prefix() {
    let config = StreamConfig { policy: Policy::AlignAtt, ..config() };
    let mut session = Session::new(gate(), config);
    let audio = speak(&[100, 50, 50, 50, 50, 50, 50, 50]);
    let mut done = 0;
    let mut prefixes = Vec::new();
    let mut events = Vec::new();
    while done < audio.len() {
        done += session.push(&audio[done..]);
        while let Some(window) = session.next_job() {
            prefixes.push(window.prefix.clone().unwrap_or_default());
            session.absorb(Ok(hear(&window.samples)));
            events.extend(std::iter::from_fn(|| session.pop_event()));
            let committed = text(&events);
            if let Some(last) = prefixes.last() {
                assert!(committed.starts_with(last.as_str()), "{last} / {committed}");
            }
        }
    }
    assert_eq!(prefixes[..3], ["", "", "w1 w2"]);
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
        prop_assert_eq!(joined, words, "nothing is revised where the model never changes its mind");
    }

    #[test]
    fn the_same_audio_gives_the_same_transcript_at_any_hop_policy_chunking_and_load(
        gaps in prop::collection::vec(prop_oneof![30u64..150, 400u64..1_500], 1..24),
        chunks in prop::collection::vec(160usize..80_000, 1..8),
        hop in prop_oneof![Just(0), 100u64..4_000],
        agreement in 1usize..5,
        align in any::<bool>(),
        stretches in prop::collection::vec(1u32..9, 1..5),
        moody in any::<bool>(),
    ) {
        let audio = speak(&gaps);
        let policy = if align { Policy::AlignAtt } else { Policy::LocalAgreement };
        let other = StreamConfig { hop: samples_of_ms(hop), agreement, policy, ..config() };
        let transcript = |config: &StreamConfig, chunks: &[usize], stretches: &[u32]| {
            let mut session = Session::new(gate(), config.clone());
            let (mut events, mut done, mut round) = (Vec::new(), 0, 0);
            while done < audio.len() || !session.is_finished() {
                let size = chunks[round % chunks.len()].min(audio.len() - done);
                if done < audio.len() {
                    done += session.push(&audio[done..done + size]);
                } else {
                    session.finish();
                }
                round += 1;
                while let Some(window) = session.next_job() {
                    let mut hypothesis = hear(&window.samples);
                    // Whether it is believed, and what its first word is, changes with every look.
                    if moody {
                        let mood = window.samples.len() / FRAME % 3;
                        hypothesis.avg_logprob = if mood == 0 { -2.0 } else { -0.1 };
                        if let (1, Some(word)) = (mood, hypothesis.words.first_mut()) {
                            word.text = " maybe".to_owned();
                        }
                    }
                    session.absorb(Ok(hypothesis));
                    session.stretch_hop(stretches[round % stretches.len()]);
                }
                events.extend(std::iter::from_fn(|| session.pop_event()));
            }
            let mut transcript: Vec<Utterance> = utterances(&events).into_iter().cloned().collect();
            // What was promised on the way may differ.
            transcript.iter_mut().for_each(|utterance| utterance.revised = false);
            transcript
        };
        let reference = transcript(&config(), &[audio.len()], &[1]);
        prop_assert_eq!(transcript(&other, &chunks, &stretches), reference);
    }
}
