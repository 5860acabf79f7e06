//! A bounded pipe of bytes from an async task to a blocking thread: what feeds a decoder from a socket.
//!
//! The writer waits for room without holding a runtime thread; the reader blocks its own thread. The end and an
//! abort are told apart: [`PipeWriter::finish`] gives the reader a clean end, dropping the writer an error.

use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::Arc,
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

/// The reader is gone: nobody will take more bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the decoder has stopped reading")]
pub struct PipeClosed;

/// A pipe that holds at most `capacity` bytes (at least one).
#[must_use]
pub fn byte_pipe(capacity: usize) -> (PipeWriter, PipeReader) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            bytes: VecDeque::new(),
            writer: Writer::Open,
            hungry: false,
            reader_gone: false,
        }),
        capacity: capacity.max(1),
        readable: Condvar::new(),
        writable: Notify::new(),
    });
    (PipeWriter { shared: shared.clone() }, PipeReader { shared })
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Writer {
    Open,
    Finished,
    Gone,
}

#[derive(Debug)]
struct State {
    bytes: VecDeque<u8>,
    writer: Writer,
    /// The reader waits for more.
    hungry: bool,
    reader_gone: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    capacity: usize,
    readable: Condvar,
    writable: Notify,
}

impl Shared {
    fn close_writer(&self, how: Writer) {
        let mut state = self.state.lock();
        if state.writer == Writer::Open {
            state.writer = how;
        }
        self.readable.notify_all();
    }
}

/// The async end.
#[derive(Debug)]
pub struct PipeWriter {
    shared: Arc<Shared>,
}

impl PipeWriter {
    /// Appends all of `bytes`, waiting for room as often as needed.
    ///
    /// # Errors
    /// [`PipeClosed`] when the reader was dropped.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may have written a part. Drop the writer then, which aborts the stream.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), PipeClosed> {
        loop {
            // A permit that the reader left between the look and the wait is kept by `Notify`, so no wake-up is lost.
            {
                let mut state = self.shared.state.lock();
                if state.reader_gone {
                    return Err(PipeClosed);
                }
                let room = self.shared.capacity - state.bytes.len();
                let (now, later) = bytes.split_at(room.min(bytes.len()));
                state.bytes.extend(now);
                bytes = later;
                if !now.is_empty() {
                    self.shared.readable.notify_one();
                }
            }
            if bytes.is_empty() {
                return Ok(());
            }
            self.shared.writable.notified().await;
        }
    }

    /// Waits until the reader has taken everything and waits for more: it has then done all that it can do with what
    /// was written. Cancel safe.
    pub async fn drained(&mut self) {
        loop {
            {
                let state = self.shared.state.lock();
                if state.reader_gone || (state.hungry && state.bytes.is_empty()) {
                    return;
                }
            }
            self.shared.writable.notified().await;
        }
    }

    /// Says that the stream is complete.
    pub fn finish(self) {
        self.shared.close_writer(Writer::Finished);
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.shared.close_writer(Writer::Gone);
    }
}

/// The blocking end.
#[derive(Debug)]
pub struct PipeReader {
    shared: Arc<Shared>,
}

impl Read for PipeReader {
    /// Blocks until there is a byte or the stream is over; an abort is `ErrorKind::ConnectionAborted`.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut state = self.shared.state.lock();
        loop {
            if !state.bytes.is_empty() {
                state.hungry = false;
                let n = state.bytes.read(buffer)?;
                self.shared.writable.notify_one();
                return Ok(n);
            }
            match state.writer {
                Writer::Open => {
                    state.hungry = true;
                    self.shared.writable.notify_one();
                    self.shared.readable.wait(&mut state);
                }
                Writer::Finished => return Ok(0),
                Writer::Gone => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        self.shared.state.lock().reader_gone = true;
        self.shared.writable.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::shutdown::Shutdown;

    #[tokio::test]
    async fn a_full_pipe_makes_the_writer_wait_for_the_reader() {
        let (mut writer, mut reader) = byte_pipe(4);
        writer.write_all(b"abcd").await.unwrap();
        let waiting = writer.write_all(b"efgh");
        tokio::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        let mut four = [0; 4];
        reader.read_exact(&mut four).unwrap();
        assert_eq!(&four, b"abcd");
        waiting.await.unwrap();
        reader.read_exact(&mut four).unwrap();
        assert_eq!(&four, b"efgh");
    }

    #[tokio::test]
    async fn the_end_and_an_abort_are_told_apart() {
        let (mut writer, mut reader) = byte_pipe(16);
        writer.write_all(b"x").await.unwrap();
        writer.finish();
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"x");

        let (mut writer, mut reader) = byte_pipe(16);
        writer.write_all(b"x").await.unwrap();
        drop(writer);
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn a_dropped_reader_frees_a_waiting_writer() {
        let (mut writer, reader) = byte_pipe(1);
        let waiting = writer.write_all(b"xyz");
        tokio::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        drop(reader);
        assert_eq!(waiting.await, Err(PipeClosed));
    }

    #[tokio::test]
    async fn a_pipe_is_drained_when_its_reader_wants_more() {
        let shutdown = Shutdown::new();
        let (mut writer, mut reader) = byte_pipe(16);
        let (took, taken) = std::sync::mpsc::sync_channel(8);
        let body = move || {
            let mut byte = [0];
            while reader.read(&mut byte).is_ok_and(|n| n == 1) {
                took.send(byte[0]).unwrap();
            }
        };
        shutdown.thread("reader", body).unwrap();
        for text in [&b"abc"[..], b"d", b""] {
            writer.write_all(text).await.unwrap();
            writer.drained().await;
            // All of it has been dealt with by now.
            assert_eq!(taken.try_iter().collect::<Vec<u8>>(), text);
        }
        writer.finish();
        shutdown.finish(std::time::Duration::from_secs(5)).await.unwrap();
        // A reader that has gone wants nothing, and nobody waits for it.
        let (mut writer, reader) = byte_pipe(16);
        writer.write_all(b"x").await.unwrap();
        drop(reader);
        writer.drained().await;
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn bytes_arrive_in_order_whatever_the_sizes(
            capacity in 1_usize..64,
            writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
            read_size in 1_usize..100,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let sent: Vec<u8> = writes.concat();
            let got = runtime.block_on(async {
                let shutdown = Shutdown::new();
                let (mut writer, mut reader) = byte_pipe(capacity);
                let (tx, rx) = tokio::sync::oneshot::channel();
                shutdown.thread("reader", move || {
                    let (mut all, mut buffer) = (Vec::new(), vec![0; read_size]);
                    loop {
                        match reader.read(&mut buffer).unwrap() {
                            0 => break,
                            n => all.extend_from_slice(&buffer[..n]),
                        }
                    }
                    tx.send(all).unwrap();
                }).unwrap();
                for bytes in &writes {
                    writer.write_all(bytes).await.unwrap();
                }
                writer.finish();
                rx.await.unwrap()
            });
            prop_assert_eq!(got, sent);
        }
    }
}
