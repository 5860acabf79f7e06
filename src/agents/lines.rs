//! Cuts a stream of bytes into lines, with a limit on how long one may be; and a line where it is too long to be shown.
//! Pure.

/// A line, or what is left of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A whole line, without its end (`\n` or `\r\n`).
    Whole(Vec<u8>),
    /// A line that was longer than the limit, and was not kept.
    TooLong {
        /// Its length, without its end.
        bytes: usize,
    },
}

/// Takes bytes, gives lines.
#[derive(Debug)]
pub struct Lines {
    limit: usize,
    kept: Vec<u8>,
    /// Length of a line that is too long, so far.
    skipped: Option<usize>,
}

impl Lines {
    /// No line is longer than `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, kept: Vec::new(), skipped: None }
    }

    /// Takes the next bytes; gives the lines that end in them.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (content, ends) = match piece.split_last() {
                Some((b'\n', content)) => (content, true),
                _ => (piece, false),
            };
            self.keep(content);
            if ends {
                lines.push(self.take());
            }
        }
        lines
    }

    /// The last line, if the stream did not end with the end of one.
    pub fn finish(&mut self) -> Option<Line> {
        (!self.kept.is_empty() || self.skipped.is_some()).then(|| self.take())
    }

    fn keep(&mut self, content: &[u8]) {
        match &mut self.skipped {
            Some(skipped) => *skipped = skipped.saturating_add(content.len()),
            // One more, for a carriage return at the end.
            None if self.kept.len() + content.len() > self.limit + 1 => {
                self.skipped = Some(self.kept.len() + content.len());
                self.kept = Vec::new();
            }
            None => self.kept.extend_from_slice(content),
        }
    }

    fn take(&mut self) -> Line {
        if let Some(bytes) = self.skipped.take() {
            return Line::TooLong { bytes };
        }
        let mut line = std::mem::take(&mut self.kept);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if line.len() > self.limit { Line::TooLong { bytes: line.len() } } else { Line::Whole(line) }
    }
}

/// The beginning of a text, and that there is more if it has more than `limit` characters.
#[must_use]
pub fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(limit: usize, chunks: &[&[u8]]) -> Vec<Line> {
        let mut reader = Lines::new(limit);
        let mut lines: Vec<_> = chunks.iter().flat_map(|chunk| reader.push(chunk)).collect();
        lines.extend(reader.finish());
        lines
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_the_next_is_read() {
        let whole = |text: &str| Line::Whole(text.as_bytes().to_vec());
        let got = lines(4, &[b"abcd\r\nab", b"cde\n\nxy"]);
        assert_eq!(got, [whole("abcd"), Line::TooLong { bytes: 5 }, whole(""), whole("xy")]);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_lines(
            bytes in prop::collection::vec(prop::sample::select(b"ab\r\n".to_vec()), 0..60),
            cuts in prop::collection::vec(0_usize..60, 0..6),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(lines(5, &chunks), lines(5, &[&bytes]));
        }
    }
}
