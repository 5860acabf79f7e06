//! What the policies cost and give, on the clock of the samples: nothing here depends on the machine.

use godctl::{
    asr::{
        DecodeOptions, Transcriber as _, Window, Word,
        stream::{
            Policy, StreamConfig, StreamEvent, gate::ActivityGate, join, samples_of_ms, session::Session,
        },
        wer::WordErrors,
        whisper::WhisperTranscriber,
    },
    audio::vad::VadConfig,
};

use crate::sound::{self, Recording};

/// What came of all recordings with one policy.
#[derive(Default)]
struct Sum {
    transcript: WordErrors,
    promised: WordErrors,
    words: usize,
    /// Words committed before their utterance had ended.
    early: usize,
    /// Seconds from the end of a word to the audio that it was committed at.
    delays: Vec<f64>,
    windows: usize,
}

pub(crate) fn run(model: &mut WhisperTranscriber) {
    let recordings = sound::recordings();
    println!("\npolicies on {} recordings, by the clock of the samples", recordings.len());
    println!(
        "{:<34}{:>9}{:>10}{:>8}{:>10}{:>10}{:>9}",
        "", "WER", "promised", "early", "p50", "p95", "windows"
    );
    for (name, policy, hop, agreement) in [
        ("LocalAgreement-3, 500 ms (default)", Policy::LocalAgreement, 500, 3),
        ("LocalAgreement-2, 500 ms", Policy::LocalAgreement, 500, 2),
        ("AlignAtt, 500 ms", Policy::AlignAtt, 500, 0),
        ("AlignAtt, 1000 ms", Policy::AlignAtt, 1_000, 0),
        ("each utterance once", Policy::LocalAgreement, 0, 2),
    ] {
        let default = StreamConfig::for_window(model.info().window_s);
        let config = StreamConfig { policy, hop: samples_of_ms(hop), agreement, ..default };
        let mut sum = Sum::default();
        for recording in &recordings {
            hear(model, recording, &config, &mut sum);
        }
        sum.delays.sort_by(f64::total_cmp);
        println!(
            "{name:<34}{:>7.1} %{:>8.1} %{:>6.0} %{:>8.2} s{:>8.2} s{:>9}",
            sum.transcript.rate() * 100.0,
            sum.promised.rate() * 100.0,
            100.0 * sum.early as f64 / sum.words.max(1) as f64,
            sound::quantile(&sum.delays, 0.5),
            sound::quantile(&sum.delays, 0.95),
            sum.windows
        );
    }
}

fn hear(model: &mut WhisperTranscriber, recording: &Recording, config: &StreamConfig, sum: &mut Sum) {
    let mut session = Session::new(ActivityGate::new(VadConfig::default()), config.clone());
    let (mut done, mut is_last) = (0, false);
    let (mut transcript, mut promised): (Vec<Word>, Vec<Word>) = (Vec::new(), Vec::new());
    while !session.is_finished() {
        if done < recording.samples.len() {
            done += session.push(&recording.samples[done..]);
        } else {
            session.finish();
        }
        while let Some(job) = session.next_job() {
            is_last = job.is_last;
            let options = DecodeOptions { prefix: job.prefix, ..DecodeOptions::default() };
            let window = Window { samples: job.samples, options: options.into() };
            let hypothesis = model.transcribe(&[window]).remove(0);
            sum.windows += 1;
            session.absorb(hypothesis.map_err(|error| error.to_string()));
            // The end of an utterance is noticed later than it was; that is when its words come.
            let now = session.heard() as f64 / 16_000.0;
            while let Some(event) = session.pop_event() {
                match event {
                    StreamEvent::Hypothesis { committed, .. } => {
                        sum.early += if is_last { 0 } else { committed.len() };
                        sum.words += committed.len();
                        sum.delays.extend(committed.iter().map(|word| now - word.end));
                        promised.extend(committed);
                    }
                    StreamEvent::UtteranceEnded(utterance) => transcript.extend(utterance.words),
                    _ => {}
                }
            }
        }
    }
    let _ = is_last;
    sum.transcript += WordErrors::between(&recording.text, &join(&transcript));
    sum.promised += WordErrors::between(&recording.text, &join(&promised));
}
