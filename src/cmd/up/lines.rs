//! Bytes into lines with a cap on their length, whatever the pieces they come in. Pure.

use std::collections::VecDeque;

/// A longer line is cut, and says so.
pub(super) const MAX_LINE_BYTES: usize = 64 * 1024;

/// The part of a line that has come so far.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    /// Bytes of this line beyond the cap.
    cut: usize,
}

impl Lines {
    /// Takes a piece, and gives each line that it completes, without its end.
    pub(super) fn push(&mut self, piece: &[u8]) -> Vec<String> {
        let mut rest = piece;
        let mut lines = Vec::new();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (head, tail) = rest.split_at(end);
            self.add(head);
            lines.push(self.take());
            rest = tail.get(1..).unwrap_or_default();
        }
        self.add(rest);
        lines
    }

    /// What came after the last line end, if anything.
    pub(super) fn finish(&mut self) -> Option<String> {
        (!self.line.is_empty()).then(|| self.take())
    }

    fn add(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(MAX_LINE_BYTES - self.line.len());
        self.line.extend(bytes.iter().take(kept));
        self.cut += bytes.len() - kept;
    }

    fn take(&mut self) -> String {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        let mut text = String::from_utf8_lossy(line).into_owned();
        if self.cut > 0 {
            text.push_str(&format!(" … ({} bytes more)", self.cut));
        }
        self.line.clear();
        self.cut = 0;
        text
    }
}

/// The last lines that a part wrote to standard error.
#[derive(Debug, Default, Clone)]
pub(super) struct Tail(VecDeque<String>);

impl Tail {
    const LINES: usize = 10;
    const CHARS: usize = 500;

    pub(super) fn push(&mut self, line: &str) {
        if self.0.len() == Self::LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.chars().take(Self::CHARS).collect());
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_without_an_end_is_cut_and_does_not_grow() {
        let mut lines = Lines::default();
        for _ in 0..100 {
            assert!(lines.push(&[b'x'; 10_000]).is_empty());
        }
        assert!(lines.line.capacity() <= 2 * MAX_LINE_BYTES);
        let line = lines.push(b"\nnext").remove(0);
        assert!(line.ends_with("x … (934464 bytes more)") && line.len() < MAX_LINE_BYTES + 40);
        assert_eq!(lines.finish().as_deref(), Some("next"));
        assert_eq!(lines.finish(), None);
    }

    #[test]
    fn any_bytes_are_a_line() {
        assert_eq!(Lines::default().push(b"a\r\n\n\xff\xc3\xa9\n"), ["a", "", "\u{fffd}é"]);
    }

    #[test]
    fn the_tail_is_short() {
        let mut tail = Tail::default();
        (0..99).for_each(|n| tail.push(&format!("{n} {}", "é".repeat(999))));
        assert_eq!(tail.lines().count(), 10);
        assert!(tail.lines().all(|line| line.chars().count() == 500));
        assert!(tail.lines().next().is_some_and(|line| line.starts_with("89 ")));
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_the_pieces(
            text in prop::collection::vec(prop::sample::select(b"ab\r\n\xff".to_vec()), 0..200),
            cuts in prop::collection::vec(0_usize..200, 0..9),
        ) {
            let mut whole = Lines::default();
            let mut expected = whole.push(&text);
            expected.extend(whole.finish());
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut pieces = Lines::default();
            let mut lines: Vec<String> = cuts.windows(2).flat_map(|cut| pieces.push(&text[cut[0]..cut[1]])).collect();
            lines.extend(pieces.finish());
            prop_assert_eq!(lines, expected);
        }
    }
}
