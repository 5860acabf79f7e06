//! From the binary frames of a session to the samples of its stream.
//!
//! The first bytes decide: what has the mark of a container is decoded on a thread of its own, everything else is raw
//! PCM. The thread ends with the container, with the session (which closes its pipe), or with the engine's stream.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{runtime::Handle, sync::oneshot};
use tracing::{debug, warn};

use crate::{
    asr::{SttError, engine::StreamInput},
    audio::{
        AudioError, AudioSource as _,
        decode::Decoder,
        pipe::{PipeReader, PipeWriter, byte_pipe},
        sniff::{Sniffed, sniff},
    },
    shutdown::Shutdown,
};

/// Encoded bytes that wait for their decoder, then the sender waits: some seconds of what browsers send.
const PIPE_BYTES: usize = 64 << 10;
/// How the decoder calls a session's audio in its errors.
const NAME: &str = "the audio of this session";

/// Why audio could not be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum IntakeError {
    /// The engine ended the stream.
    #[error(transparent)]
    Stream(#[from] SttError),
    /// The bytes are not the audio that they seemed to be. What came before was handed over.
    #[error(transparent)]
    Audio(#[from] AudioError),
    /// The decoder gave up in a way that it should not: a bug of ours, not the sender's.
    #[error("the decoder failed; send raw PCM instead (16 kHz mono s16le)")]
    Decoder,
}

/// The way in of one session.
#[derive(Debug)]
pub(super) struct Intake {
    feed: Feed,
    shutdown: Shutdown,
    format: Format,
}

/// Where samples go, and how many went.
#[derive(Debug, Clone)]
struct Feed {
    input: Arc<StreamInput>,
    received: Arc<AtomicU64>,
}

impl Feed {
    async fn push(&self, samples: &[f32]) -> Result<(), SttError> {
        self.received.fetch_add(samples.len() as u64, Ordering::Relaxed);
        self.input.push(samples).await
    }
}

#[derive(Debug)]
enum Format {
    /// Too few bytes to tell.
    Unknown(Vec<u8>),
    Pcm(Pcm),
    Container(Container),
    /// The container has said its end; what follows it is no audio.
    Over,
}

/// A container that a thread decodes.
#[derive(Debug)]
struct Container {
    bytes: PipeWriter,
    /// The decoder's last word.
    verdict: oneshot::Receiver<Result<(), IntakeError>>,
}

impl Intake {
    /// Counts the samples it hands over in `received`.
    pub(super) fn new(input: StreamInput, received: Arc<AtomicU64>, shutdown: Shutdown) -> Self {
        let feed = Feed { input: Arc::new(input), received };
        Self { feed, shutdown, format: Format::Unknown(Vec::new()) }
    }

    /// Takes a frame; waits while the engine or the decoder has enough to do. Not cancel safe.
    pub(super) async fn push(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        if let Format::Unknown(head) = &mut self.format {
            head.extend_from_slice(bytes);
            let head = match sniff(head) {
                Sniffed::NeedMore => return Ok(()),
                Sniffed::RawPcm => {
                    let head = std::mem::take(head);
                    self.format = Format::Pcm(Pcm::default());
                    head
                }
                Sniffed::Container(container) => {
                    debug!(%container, "the session sends a container");
                    let head = std::mem::take(head);
                    self.format = Format::Container(self.decode()?);
                    head
                }
            };
            return self.take(&head).await;
        }
        self.take(bytes).await
    }

    async fn take(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        match &mut self.format {
            Format::Pcm(pcm) => Ok(self.feed.push(&pcm.decode(bytes)).await?),
            Format::Container(container) => {
                if container.bytes.write_all(bytes).await.is_ok() {
                    return Ok(());
                }
                // The decoder has gone: at the end of the container, or because it cannot go on.
                let Format::Container(container) = std::mem::replace(&mut self.format, Format::Over) else {
                    return Ok(());
                };
                container.verdict.await.unwrap_or(Err(IntakeError::Decoder))
            }
            Format::Over | Format::Unknown(_) => Ok(()),
        }
    }

    /// Makes what the engine has final. What a decoder still holds is not part of it.
    pub(super) async fn flush(&self) -> Result<(), SttError> {
        self.feed.input.flush().await
    }

    /// Marks what the engine has so far. What a decoder still holds comes after it.
    pub(super) async fn marker(&self, name: String) -> Result<(), SttError> {
        self.feed.input.marker(name).await
    }

    /// Ends the audio: everything taken so far is handed over first, also before an error is given.
    pub(super) async fn end(self) -> Result<(), IntakeError> {
        let Self { feed, format, shutdown: _ } = self;
        let decoded = match format {
            // Nothing followed that would make it a container.
            Format::Unknown(head) => {
                feed.push(&Pcm::default().decode(&head)).await.map_err(IntakeError::from)
            }
            Format::Pcm(_) | Format::Over => Ok(()),
            Format::Container(Container { bytes, verdict }) => {
                bytes.finish();
                verdict.await.unwrap_or(Err(IntakeError::Decoder))
            }
        };
        // The decoder let go of its half before it gave its verdict. If it died without one, its half is dropped with
        // it, which ends the stream as well.
        if let Some(input) = Arc::into_inner(feed.input) {
            input.end().await?;
        }
        decoded
    }

    /// Starts the thread that decodes a container.
    fn decode(&self) -> Result<Container, IntakeError> {
        let (bytes, reader) = byte_pipe(PIPE_BYTES);
        let (tell, verdict) = oneshot::channel();
        let (feed, runtime) = (self.feed.clone(), Handle::current());
        let body = move || {
            // A panic here is this session's trouble; without the catch it would end the server.
            let result = catch_unwind(AssertUnwindSafe(|| decode(reader, &feed, &runtime)));
            drop(feed);
            let result = result.unwrap_or_else(|_| {
                warn!("a decoder panicked");
                Err(IntakeError::Decoder)
            });
            // The session may be gone, and then nobody wants to know.
            drop(tell.send(result));
        };
        self.shutdown.thread("asr-decode", body).map_err(AudioError::Thread)?;
        Ok(Container { bytes, verdict })
    }
}

/// Hands over all samples of a container as they come. Runs on its own thread.
fn decode(bytes: PipeReader, feed: &Feed, runtime: &Handle) -> Result<(), IntakeError> {
    let mut decoder = Decoder::from_reader(NAME, bytes)?;
    while let Some(samples) = decoder.next_chunk()? {
        // Only a queue is waited for here; neither a timer nor a socket needs the runtime to run.
        runtime.block_on(feed.push(&samples))?;
    }
    Ok(())
}

/// Raw PCM: s16le, mono. A sample may straddle two frames, so the half of one is carried over.
#[derive(Debug, Default)]
pub(super) struct Pcm {
    half: Option<u8>,
}

impl Pcm {
    /// The whole samples that `bytes` complete, in [-1, 1].
    pub(super) fn decode(&mut self, bytes: &[u8]) -> Vec<f32> {
        let mut samples = Vec::with_capacity(bytes.len() / 2 + 1);
        let mut rest = bytes;
        if let (Some(low), Some((high, after))) = (self.half, bytes.split_first()) {
            samples.push(sample(low, *high));
            self.half = None;
            rest = after;
        }
        let (pairs, odd) = rest.as_chunks::<2>();
        samples.extend(pairs.iter().map(|[low, high]| sample(*low, *high)));
        if let [low] = odd {
            self.half = Some(*low);
        }
        samples
    }
}

fn sample(low: u8, high: u8) -> f32 {
    f32::from(i16::from_le_bytes([low, high])) / 32_768.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn samples_are_little_endian_and_inside_one() {
        let mut pcm = Pcm::default();
        assert_eq!(pcm.decode(&[0x00, 0x80, 0xff, 0x7f, 0x00]), [-1.0, 32_767.0 / 32_768.0]);
        assert_eq!(pcm.decode(&[]), Vec::<f32>::new());
        assert_eq!(pcm.decode(&[0x40]), [0.5]);
    }

    proptest! {
        #[test]
        fn the_sizes_of_frames_do_not_matter(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            cuts in prop::collection::vec(0_usize..400, 0..20),
        ) {
            let whole = Pcm::default().decode(&bytes);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut pcm = Pcm::default();
            let pieces: Vec<f32> = cuts.windows(2).flat_map(|cut| pcm.decode(&bytes[cut[0]..cut[1]])).collect();
            prop_assert_eq!(pieces, whole);
        }
    }
}
