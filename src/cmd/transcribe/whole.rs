//! A recording on disk as a whole: cut where nobody speaks, its windows decoded together. See [`crate::asr::offline`].

use std::{path::Path, sync::Arc, time::Duration};

use uuid::Uuid;

use super::files::{Heard, Progress, Work, warn_of_repairs};
use crate::asr::{
    DecodeOptions,
    offline::{Job, JobOptions, OfflineError, Source, Utterances},
};

/// Hears a recording.
///
/// # Errors
/// When it is no audio, or the engine ended; what breaks off later, and windows that fail, are told in [`Heard`].
pub(super) async fn hear(recording: &Path, name: &str, work: &Work<'_>) -> anyhow::Result<Heard> {
    let (engine, shutdown) = (work.engine, &work.context.shutdown);
    let file = Source { path: recording.to_owned(), name: name.to_owned() };
    let options = JobOptions {
        // Captions are timed by words, whatever the model.
        decode: DecodeOptions { word_timestamps: true, ..work.options.decode.clone() },
        tuning: work.options.tuning,
        channels: Vec::new(),
    };
    let mut job = Job::start(engine, shutdown, engine.place()?, file, options).await?;
    let duration = job.duration_hint().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let progress = Progress::new(name, duration, work.context);
    let model = Arc::clone(job.model());
    let (mut utterances, session) = (Utterances::new(model.window_s), Uuid::now_v7().to_string());
    let mut heard = Heard::of(&model.name);
    loop {
        match job.next().await {
            Ok(None) => break,
            Ok(Some(passage)) => {
                progress.at(passage.end);
                for utterance in utterances.of(&passage) {
                    work.tell(&session, &model.name, &utterance).await;
                    heard.utterances.push(utterance);
                }
            }
            // The others are worth having.
            Err(failure @ OfflineError::Window { .. }) => heard.failures.push(failure.to_string()),
            Err(OfflineError::Audio(error)) if !heard.utterances.is_empty() => {
                heard.broke_off = Some(error);
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let told = job.heard();
    // Where reading failed nobody has counted.
    heard.duration = heard.utterances.last().map_or(0.0, |last| last.end).max(told.duration);
    heard.broke_off = heard.broke_off.or(told.damage);
    progress.finish(heard.duration);
    warn_of_repairs(name, told.stats);
    Ok(heard)
}
