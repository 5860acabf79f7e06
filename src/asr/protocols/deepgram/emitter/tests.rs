//! What is said of a channel, by example and by law.

use proptest::prelude::*;

use super::*;
use crate::asr::stream::samples_of_seconds;

const ALL: Rules =
    Rules { interim_results: true, vad_events: true, endpointing: true, utterance_end_s: Some(1.0) };

fn word(text: &str, start: f64) -> Word {
    Word { text: text.to_owned(), start, end: start + 0.25, probability: 0.75 }
}

fn hypothesis(committed: &[Word], tail: &[Word], heard: f64) -> StreamEvent {
    StreamEvent::Hypothesis { committed: committed.to_vec(), tail: tail.to_vec(), heard }
}

fn ended(end: f64, reason: EndReason) -> StreamEvent {
    StreamEvent::UtteranceEnded(Utterance {
        index: 0,
        start: 0.0,
        end,
        text: String::new(),
        words: Vec::new(),
        language: None,
        language_probability: 1.0,
        avg_logprob: -0.1,
        no_speech_prob: 0.0,
        reason,
        revised: false,
    })
}

fn clock(at: f64) -> StreamEvent {
    StreamEvent::Marker(Mark::Clock(samples_of_seconds(at)).name())
}

fn finalize() -> StreamEvent {
    StreamEvent::Marker(Mark::Finalize.name())
}

/// What is said, one line each: `kind flags [start-end] transcript`.
fn told(rules: Rules, events: &[StreamEvent]) -> Vec<String> {
    let (mut emitter, mut out) = (Emitter::new(rules), Vec::new());
    for event in events {
        emitter.apply(event, &mut out);
    }
    out.iter()
        .map(|said| match said {
            Said::SpeechStarted { at } => format!("started {at}"),
            Said::UtteranceEnd { last_word_end } => format!("utterance end {last_word_end}"),
            Said::Failed { message, .. } => format!("failed {message}"),
            Said::Results(heard) => {
                let kind = match (heard.is_final, heard.speech_final, heard.from_finalize) {
                    (false, false, false) => "interim",
                    (true, false, false) => "final",
                    (true, true, false) => "speech final",
                    (true, false, true) => "finalized",
                    other => panic!("never {other:?}"),
                };
                let Heard { start, end, alternative, .. } = heard;
                format!("{kind} [{start}-{end}] {}", alternative.transcript)
            }
        })
        .collect()
}

#[test]
fn the_last_words_and_the_end_of_their_utterance_are_one_result() {
    let said = told(
        ALL,
        &[
            StreamEvent::SpeechStarted { at: 0.5 },
            hypothesis(&[], &[word(" Turn", 0.75)], 1.0),
            hypothesis(&[], &[word(" Turn", 0.75)], 1.25),
            hypothesis(&[word(" turn", 0.75)], &[word(" off", 1.0)], 1.5),
            hypothesis(&[word(" on.", 1.25)], &[], 1.75),
            ended(1.75, EndReason::Endpoint),
            StreamEvent::Ended { heard: 2.0 },
        ],
    );
    assert_eq!(
        said,
        [
            "started 0.5",
            "interim [0.5-1] Turn",
            "final [0.5-1] turn",
            "interim [1-1.5] off",
            "speech final [1-1.75] on."
        ]
    );
}

#[test]
fn an_utterance_whose_words_are_final_already_still_ends_once() {
    let said = told(
        Rules { interim_results: false, ..ALL },
        &[
            StreamEvent::SpeechStarted { at: 0.0 },
            hypothesis(&[word(" yes", 0.25)], &[word(" or", 0.75)], 1.0),
            hypothesis(&[], &[], 1.25),
            ended(1.25, EndReason::Endpoint),
        ],
    );
    assert_eq!(said, ["started 0", "final [0-0.5] yes", "speech final [0.5-1.25] "]);
}

#[test]
fn who_wants_no_endpoints_hears_of_none() {
    let rules = Rules { endpointing: false, ..Rules::default() };
    let events = [
        hypothesis(&[word(" yes", 0.25)], &[], 1.0),
        ended(1.0, EndReason::Endpoint),
        ended(2.0, EndReason::Endpoint),
    ];
    assert_eq!(told(rules, &events), ["final [0-1] yes"]);
    // What was shown and turned out to be nothing is taken off the screen.
    let rules = Rules { interim_results: true, ..rules };
    let events = [hypothesis(&[], &[word(" hm", 0.25)], 1.0), ended(1.0, EndReason::Endpoint)];
    assert_eq!(told(rules, &events), ["interim [0-1] hm", "final [0-1] "]);
}

#[test]
fn interim_words_that_vanish_are_taken_back_once() {
    let events = [
        hypothesis(&[], &[word(" hm", 0.25)], 1.0),
        hypothesis(&[], &[], 1.5),
        hypothesis(&[], &[], 2.0),
        clock(2.0),
    ];
    assert_eq!(told(ALL, &events), ["interim [0-1] hm", "interim [0-1.5] "]);
}

#[test]
fn a_finalize_is_answered_exactly_once_and_is_no_endpoint() {
    let said = told(
        ALL,
        &[
            finalize(),
            StreamEvent::SpeechStarted { at: 0.5 },
            hypothesis(&[word(" go", 0.5)], &[], 1.0),
            ended(1.0, EndReason::Flush),
            finalize(),
            finalize(),
            ended(1.5, EndReason::Endpoint),
        ],
    );
    assert_eq!(
        said,
        [
            "finalized [0-0] ",
            "started 0.5",
            "finalized [0.5-1] go",
            "finalized [1-1] ",
            "speech final [1-1.5] "
        ]
    );
}

#[test]
fn a_cut_in_the_middle_of_speech_is_no_endpoint() {
    let said = told(
        ALL,
        &[
            hypothesis(&[word(" one", 0.5)], &[], 10.0),
            ended(9.0, EndReason::WindowFull),
            clock(12.0),
            hypothesis(&[word(" two", 9.25)], &[], 10.0),
            ended(10.0, EndReason::EndOfStream),
        ],
    );
    assert_eq!(said, ["final [0-9] one", "utterance end 0.75", "speech final [9-10] two"]);
}

#[test]
fn an_utterance_end_comes_once_per_last_word_and_before_the_next() {
    let utterance = |at: f64, text: &str| {
        [
            StreamEvent::SpeechStarted { at },
            hypothesis(&[word(text, at)], &[], at + 0.5),
            ended(at + 0.5, EndReason::Endpoint),
        ]
    };
    let events = [
        &utterance(0.0, " a")[..],
        &[clock(1.0), clock(1.25), clock(2.0)],
        // Without a mark in between, speech itself tells that there was silence.
        &utterance(3.0, " b"),
        &utterance(4.5, " c"),
        &utterance(5.25, " d"),
        &[StreamEvent::Ended { heard: 9.0 }],
    ]
    .concat();
    let said = told(Rules { vad_events: false, ..ALL }, &events);
    assert_eq!(
        said,
        [
            "speech final [0-0.5] a",
            "utterance end 0.25",
            "speech final [3-3.5] b",
            "utterance end 3.25",
            "speech final [4.5-5] c",
            "speech final [5.25-5.75] d",
            "utterance end 5.5"
        ]
    );
}

#[test]
fn nobody_is_done_while_words_are_pending() {
    let said = told(
        ALL,
        &[
            StreamEvent::SpeechStarted { at: 0.0 },
            hypothesis(&[word(" a", 0.0)], &[word(" b", 0.5)], 1.0),
            clock(5.0),
            hypothesis(&[], &[word(" b", 0.5)], 4.0),
            clock(6.0),
        ],
    );
    assert_eq!(said, ["started 0", "final [0-0.25] a", "interim [0.25-1] b"]);
}

#[test]
fn late_punctuation_is_said_without_words() {
    let events = [
        hypothesis(&[word(" Hm", 0.0)], &[word(" x", 1.0)], 1.0),
        hypothesis(&[word(",", 0.5), word(" no", 0.75)], &[word(" x", 1.0)], 1.5),
        hypothesis(&[word(" (", 1.0)], &[word(" x", 1.25)], 2.0),
        hypothesis(&[word(" x", 1.25), word(".", 1.5)], &[], 2.5),
        ended(2.5, EndReason::Endpoint),
    ];
    let rules = Rules { endpointing: true, ..Rules::default() };
    let said = told(rules, &events);
    assert_eq!(
        said,
        ["final [0-0.25] Hm", "final [0.25-0.25] ,", "final [0.25-1] no", "speech final [1-2.5] (x."]
    );
}

/// A step of an engine: what it commits, what it still doubts, and what happens then.
#[derive(Debug, Clone)]
enum Step {
    Hear { commit: usize, tail: usize },
    Pause,
    Cut,
    Finalize,
    Clock,
    Fail,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..4, 0_usize..4).prop_map(|(commit, tail)| Step::Hear { commit, tail }),
        2 => Just(Step::Pause),
        1 => Just(Step::Cut),
        1 => Just(Step::Finalize),
        2 => Just(Step::Clock),
        1 => Just(Step::Fail),
    ]
}

/// Events of an engine that keeps its promises: committed words move on in time and are never taken back.
fn play(steps: &[Step]) -> (Vec<StreamEvent>, Vec<String>) {
    let (mut at, mut spoken, mut events, mut open) = (0.0, Vec::new(), Vec::new(), false);
    let mut name = 0;
    for step in steps {
        match step {
            Step::Hear { commit, tail } => {
                if !open {
                    at += 0.5;
                    events.push(StreamEvent::SpeechStarted { at });
                    open = true;
                }
                let mut fresh = |n: usize, at: &mut f64| -> Vec<Word> {
                    (0..n)
                        .map(|_| {
                            name += 1;
                            let word = word(&format!(" w{name}"), *at);
                            *at += 0.25;
                            word
                        })
                        .collect()
                };
                let committed = fresh(*commit, &mut at);
                spoken.extend(committed.iter().map(|word| word.text.trim().to_owned()));
                let tail = fresh(*tail, &mut at.clone());
                events.push(hypothesis(&committed, &tail, at + 1.0));
            }
            Step::Pause | Step::Cut | Step::Finalize if open => {
                at += 1.0;
                let reason = match step {
                    Step::Pause => EndReason::Endpoint,
                    Step::Cut => EndReason::WindowFull,
                    _ => EndReason::Flush,
                };
                events.push(hypothesis(&[], &[], at));
                events.push(ended(at, reason));
                if reason == EndReason::Flush {
                    events.push(finalize());
                }
                open = reason != EndReason::Endpoint;
            }
            Step::Finalize => events.push(finalize()),
            Step::Pause | Step::Cut => {}
            Step::Clock => {
                at += if open { 0.0 } else { 0.75 };
                events.push(clock(at));
            }
            Step::Fail => {
                events.push(StreamEvent::Failed { message: "x".to_owned(), start: at, end: at });
            }
        }
    }
    if open {
        events.push(hypothesis(&[], &[], at + 2.0));
        events.push(ended(at + 2.0, EndReason::EndOfStream));
    }
    events.push(StreamEvent::Ended { heard: at + 2.0 });
    (events, spoken)
}

proptest! {
    #[test]
    fn every_word_is_final_once_and_in_order(
        steps in prop::collection::vec(step(), 0..60),
        interim_results in any::<bool>(),
        vad_events in any::<bool>(),
        endpointing in any::<bool>(),
        utterance_end in any::<bool>(),
    ) {
        let rules = Rules {
            interim_results,
            vad_events,
            endpointing,
            utterance_end_s: utterance_end.then_some(1.0),
        };
        let (events, spoken) = play(&steps);
        let (mut emitter, mut out) = (Emitter::new(rules), Vec::new());
        events.iter().for_each(|event| emitter.apply(event, &mut out));

        let mut heard: Vec<String> = Vec::new();
        let (mut end, mut shown, mut anchor) = (0.0_f64, None::<String>, None);
        let (mut answers, mut failures) = (0, 0);
        for said in &out {
            match said {
                Said::Results(result) => {
                    prop_assert!(result.start >= end && result.end >= result.start, "{out:?}");
                    prop_assert!(result.is_final || interim_results);
                    prop_assert!(!result.speech_final || endpointing);
                    prop_assert!(result.is_final || !(result.speech_final || result.from_finalize));
                    let words = &result.alternative.words;
                    prop_assert!(words.iter().all(|w| w.start >= result.start && w.end <= result.end || !result.is_final));
                    if result.is_final {
                        heard.extend(words.iter().map(|word| word.word.clone()));
                        end = result.end;
                        shown = None;
                        anchor = words.last().map(|word| word.end).or(anchor);
                        answers += usize::from(result.from_finalize);
                    } else {
                        prop_assert_ne!(Some(&result.alternative.transcript), shown.as_ref());
                        shown = Some(result.alternative.transcript.clone());
                    }
                }
                Said::UtteranceEnd { last_word_end } => {
                    prop_assert!(utterance_end);
                    prop_assert_eq!(Some(*last_word_end), anchor.take(), "once per last word");
                }
                Said::SpeechStarted { .. } => prop_assert!(vad_events),
                Said::Failed { .. } => failures += 1,
            }
        }
        prop_assert_eq!(heard, spoken);
        prop_assert_eq!(shown.unwrap_or_default(), "", "nothing is left in doubt");
        let asked = events.iter().filter(|event| **event == finalize()).count();
        prop_assert_eq!(answers, asked);
        let failed = events.iter().filter(|event| matches!(event, StreamEvent::Failed { .. })).count();
        prop_assert_eq!(failures, failed);
    }

    #[test]
    fn any_order_of_events_is_survived(
        events in prop::collection::vec(
            prop_oneof![
                (0.0..9.0_f64).prop_map(|at| StreamEvent::SpeechStarted { at }),
                (prop::collection::vec(("[ ]?[a-b.,(]{0,2}", 0.0..9.0_f64), 0..4), 0..3_usize, 0.0..9.0_f64).prop_map(
                    |(words, tail, heard)| {
                        let words: Vec<Word> = words.iter().map(|(text, at)| word(text, *at)).collect();
                        let (committed, rest) = words.split_at(words.len().saturating_sub(tail));
                        hypothesis(committed, rest, heard)
                    }
                ),
                (0.0..9.0_f64).prop_map(|at| ended(at, EndReason::Endpoint)),
                (0.0..9.0_f64).prop_map(|at| ended(at, EndReason::Flush)),
                (0.0..9.0_f64).prop_map(clock),
                Just(finalize()),
                "[0-9a-z]{0,30}".prop_map(StreamEvent::Marker),
            ],
            0..40,
        ),
    ) {
        let (mut emitter, mut out) = (Emitter::new(ALL), Vec::new());
        events.iter().for_each(|event| emitter.apply(event, &mut out));
        let mut end = 0.0_f64;
        for said in &out {
            if let Said::Results(result) = said {
                prop_assert!(result.end >= result.start);
                prop_assert!(!result.is_final || result.start >= end);
                end = if result.is_final { result.end } else { end };
            }
        }
    }
}
