//! Lines from a file or a pipe, as they become available.
//!
//! A thread of its own reads, because a read of a pipe can't be cancelled; nobody waits for it at the end. It stops at
//! the end of its input, at an error, or when [`Lines`] is dropped and its next batch finds nobody.

use std::io::{self, BufRead, BufReader, Read};

use tokio::sync::mpsc;

use crate::shutdown::Shutdown;

/// Lines of one batch.
pub(super) const BATCH_LINES: usize = 256;

/// Bytes after which a batch is handed over, full or not.
const BATCH_BYTES: usize = 1 << 20;

/// Batches that wait for the reader of this.
const BATCHES: usize = 2;

/// What one read of the system may give.
const BUFFER: usize = 1 << 16;

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1, empty lines included.
    pub(super) number: u64,
    /// Without its end. Empty where it was too long.
    pub(super) text: Vec<u8>,
    /// Its length, if that is more than was allowed; the rest was skipped.
    pub(super) too_long: Option<u64>,
    /// Bytes of the input up to its end.
    pub(super) offset: u64,
}

/// Lines that a thread reads.
#[derive(Debug)]
pub(super) struct Lines(mpsc::Receiver<io::Result<Vec<Line>>>);

impl Lines {
    /// Reads `source` to its end; a line of more than `max_line` bytes comes as [`Line::too_long`].
    ///
    /// # Errors
    /// When the system refuses another thread.
    pub(super) fn read<R>(shutdown: &Shutdown, source: R, max_line: usize) -> io::Result<Self>
    where
        R: Read + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(BATCHES);
        shutdown.unjoined_thread("lines", move || {
            let mut reader =
                Reader { source: BufReader::with_capacity(BUFFER, source), max_line, number: 0, offset: 0 };
            loop {
                let batch = reader.batch();
                let last = !matches!(&batch, Ok(lines) if !lines.is_empty());
                // An empty batch is the end, which the closed channel says as well.
                if matches!(&batch, Ok(lines) if lines.is_empty())
                    || sender.blocking_send(batch).is_err()
                    || last
                {
                    return;
                }
            }
        })?;
        Ok(Self(receiver))
    }

    /// What is available, but at least one line; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// What the system says; nothing follows.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<Line>>> {
        self.0.recv().await.transpose()
    }
}

struct Reader<R> {
    source: BufReader<R>,
    max_line: usize,
    number: u64,
    offset: u64,
}

impl<R: Read> Reader<R> {
    /// Waits for one line, and takes those with it that need no waiting. Empty at the end.
    fn batch(&mut self) -> io::Result<Vec<Line>> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(line) = self.line()? {
            bytes += line.text.len();
            if line.too_long.is_some() || !line.text.trim_ascii().is_empty() {
                batch.push(line);
            }
            let full = batch.len() >= BATCH_LINES || bytes >= BATCH_BYTES;
            if full || (!batch.is_empty() && !self.source.buffer().contains(&b'\n')) {
                break;
            }
        }
        Ok(batch)
    }

    fn line(&mut self) -> io::Result<Option<Line>> {
        let mut text = Vec::new();
        let cap = u64::try_from(self.max_line).unwrap_or(u64::MAX).saturating_add(1);
        let mut length = io::Read::take(&mut self.source, cap).read_until(b'\n', &mut text)? as u64;
        if length == 0 {
            return Ok(None);
        }
        let mut too_long = None;
        if text.last() == Some(&b'\n') {
            text.pop();
        } else if length == cap {
            length += self.skip_line()?;
            too_long = Some(length);
            text = Vec::new();
        }
        if text.last() == Some(&b'\r') {
            text.pop();
        }
        self.number += 1;
        self.offset += length;
        Ok(Some(Line { number: self.number, text, too_long, offset: self.offset }))
    }

    /// Reads to the end of the line without keeping it.
    fn skip_line(&mut self) -> io::Result<u64> {
        let mut skipped = 0;
        loop {
            let buffer = match self.source.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                buffer => buffer?,
            };
            let (used, done) = match buffer.iter().position(|&byte| byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            self.source.consume(used);
            skipped += used as u64;
            if done {
                return Ok(skipped);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn batches(text: &[u8], max_line: usize) -> Vec<Vec<Line>> {
        let source = BufReader::with_capacity(BUFFER, text);
        let mut reader = Reader { source, max_line, number: 0, offset: 0 };
        std::iter::from_fn(|| Some(reader.batch().unwrap()).filter(|batch| !batch.is_empty())).collect()
    }

    fn texts(batches: &[Vec<Line>]) -> Vec<(u64, &str)> {
        batches.iter().flatten().map(|line| (line.number, std::str::from_utf8(&line.text).unwrap())).collect()
    }

    #[test]
    fn lines_keep_their_numbers_and_lose_their_ends() {
        let read = batches(b"a\n\n  \r\nb\r\nc", 100);
        assert_eq!(texts(&read), [(1, "a"), (4, "b"), (5, "c")]);
        assert_eq!(read.last().unwrap().last().unwrap().offset, 11);
        assert!(batches(b"\n\n", 100).is_empty());
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_told() {
        let long = [vec![b'x'; 200_000], b"\nnext\n".to_vec()].concat();
        let read = batches(&long, 100);
        let lines: Vec<&Line> = read.iter().flatten().collect();
        assert_eq!((lines[0].too_long, lines[0].text.len()), (Some(200_001), 0));
        assert_eq!((lines[1].number, lines[1].text.as_slice()), (2, b"next".as_slice()));
        assert_eq!(texts(&batches(b"1234\n12345", 4))[0], (1, "1234"), "just as long as allowed");
    }

    #[test]
    fn a_batch_has_a_limit() {
        let many = "x\n".repeat(BATCH_LINES * 2 + 1);
        let sizes: Vec<usize> = batches(many.as_bytes(), 100).iter().map(Vec::len).collect();
        assert_eq!(sizes, [BATCH_LINES, BATCH_LINES, 1]);
    }

    #[tokio::test]
    async fn a_line_is_handed_over_before_the_next_one_is_written() {
        let shutdown = Shutdown::new();
        let (reader, mut writer) = io::pipe().unwrap();
        let mut lines = Lines::read(&shutdown, reader, 100).unwrap();
        for text in ["one", "two"] {
            io::Write::write_all(&mut writer, format!("{text}\n").as_bytes()).unwrap();
            let batch = tokio::time::timeout(Duration::from_secs(30), lines.next()).await.unwrap().unwrap();
            assert_eq!(texts(&[batch.unwrap()]).iter().map(|(_, text)| *text).collect::<Vec<_>>(), [text]);
        }
        drop(writer);
        assert_eq!(lines.next().await.unwrap(), None);
    }
}
