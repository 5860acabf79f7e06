//! Starts inputs: each gets its named thread and the channel that it speaks through.

use std::{io, time::Duration};

use tokio::sync::mpsc;
use tracing::debug;

use super::{
    Capture, CaptureEvent, CaptureOptions, InputDevice, device, device::CpalBackend, worker::Worker,
};
use crate::{
    audio::{
        AudioError, AudioSource,
        paced::{Clock, PacedFile, SystemClock},
    },
    shutdown::Shutdown,
};

/// Chunks that wait for a slow consumer: about ten seconds.
const QUEUED_CHUNKS: usize = 512;
/// How often the ring is emptied. It holds a hundred times as much.
const POLL_EVERY: Duration = Duration::from_millis(10);

/// The inputs of this machine.
///
/// # Errors
/// [`AudioError::Device`] when the audio system does not answer.
pub fn list_inputs() -> Result<Vec<InputDevice>, AudioError> {
    device::list()
}

/// Starts the microphone and returns once it records.
///
/// # Errors
/// [`AudioError::NoDevice`], [`AudioError::DeviceBusy`], [`AudioError::DeviceDenied`], [`AudioError::Device`],
/// [`AudioError::Thread`].
pub fn start_microphone(shutdown: &Shutdown, options: CaptureOptions) -> Result<Capture, AudioError> {
    let (tx, events) = mpsc::channel(QUEUED_CHUNKS);
    let (opened_tx, opened) = std::sync::mpsc::sync_channel(1);
    let token = shutdown.child_token();
    let thread = move || {
        let mut worker = Worker::new(CpalBackend, options, tx);
        // The stream cannot leave the thread that opened it, so the answer travels instead.
        let result = worker.open();
        let failed = result.is_err();
        if opened_tx.send(result).is_err() || failed {
            return;
        }
        let clock = SystemClock::default();
        while !token.is_cancelled() && worker.poll(clock.now()).is_continue() {
            clock.sleep_until(clock.now() + POLL_EVERY);
        }
        debug!("the microphone is closed");
    };
    shutdown.thread("microphone", thread).map_err(AudioError::Thread)?;
    let name = opened.recv().map_err(|_| AudioError::Thread(io::ErrorKind::Interrupted.into()))??;
    Ok(Capture { name, events })
}

/// Starts a decoded file as if it were a microphone: its samples come by the clock, and none is dropped, because
/// a file can wait.
///
/// # Errors
/// [`AudioError::Thread`].
pub fn start_paced<S, C>(
    shutdown: &Shutdown,
    name: impl Into<String>,
    mut source: PacedFile<S, C>,
) -> Result<Capture, AudioError>
where
    S: AudioSource + 'static,
    C: Clock + 'static,
{
    let (tx, events) = mpsc::channel(QUEUED_CHUNKS);
    let token = shutdown.child_token();
    let thread = move || {
        while !token.is_cancelled() {
            let (event, over) = match source.next_chunk() {
                Ok(Some(samples)) => (CaptureEvent::Samples(samples), false),
                Ok(None) => (CaptureEvent::Ended(Ok(())), true),
                Err(error) => (CaptureEvent::Ended(Err(error)), true),
            };
            if tx.blocking_send(event).is_err() || over {
                return;
            }
        }
    };
    shutdown.unjoined_thread("paced-file", thread).map_err(AudioError::Thread)?;
    Ok(Capture { name: name.into(), events })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::{AudioStats, SAMPLE_RATE_HZ};

    struct Ramp(u64);

    impl AudioSource for Ramp {
        fn next_chunk(&mut self) -> Result<Option<Vec<f32>>, AudioError> {
            if self.0 == 3 {
                self.0 += 1;
                return Err(AudioError::Truncated { name: "ramp".to_owned(), at_seconds: 0.3 });
            }
            self.0 += 1;
            Ok((self.0 <= 3).then(|| vec![0.25; SAMPLE_RATE_HZ as usize / 10]))
        }
        fn duration_hint(&self) -> Option<Duration> {
            None
        }
        fn stats(&self) -> AudioStats {
            AudioStats::default()
        }
    }

    struct NoWait;

    impl Clock for NoWait {
        fn now(&self) -> Duration {
            Duration::ZERO
        }
        fn sleep_until(&self, _: Duration) {}
    }

    #[tokio::test]
    async fn a_file_plays_as_a_microphone_and_says_how_it_ended() {
        let shutdown = Shutdown::new();
        let mut capture = start_paced(&shutdown, "ramp", PacedFile::new(Ramp(0), NoWait)).unwrap();
        assert_eq!(capture.name(), "ramp");
        let (mut samples, mut ended) = (0, None);
        while let Some(event) = capture.next().await {
            match event {
                CaptureEvent::Samples(chunk) => samples += chunk.len(),
                CaptureEvent::Ended(result) => ended = Some(result),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(samples, 4_800);
        assert!(matches!(ended, Some(Err(AudioError::Truncated { .. }))));
        shutdown.finish(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn a_dropped_capture_ends_its_thread() {
        struct Endless;
        impl AudioSource for Endless {
            fn next_chunk(&mut self) -> Result<Option<Vec<f32>>, AudioError> {
                Ok(Some(vec![0.0; 320]))
            }
            fn duration_hint(&self) -> Option<Duration> {
                None
            }
            fn stats(&self) -> AudioStats {
                AudioStats::default()
            }
        }
        let shutdown = Shutdown::new();
        let capture = start_paced(&shutdown, "endless", PacedFile::new(Endless, NoWait)).unwrap();
        drop(capture);
        shutdown.finish(Duration::from_secs(5)).await.unwrap();
    }
}
