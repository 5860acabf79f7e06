//! The bytes of the events in the buffer, in large pieces: little waste, nothing left behind in holes, quick to search.
//! Pure.

use std::collections::VecDeque;

/// Bytes of one piece. An event that is larger gets a piece of its own.
const PIECE: usize = 256 * 1024;

/// Where one event's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    piece: u64,
    start: u32,
    len: u32,
}

/// A queue of byte strings: added at one end, dropped at the other.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    pieces: VecDeque<Vec<u8>>,
    /// The number of the first piece that is still here.
    first: u64,
    /// Bytes that are allocated.
    allocated: usize,
}

impl Bodies {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Span {
        let fits = self.pieces.back().is_some_and(|piece| piece.capacity() - piece.len() >= bytes.len());
        if !fits {
            let capacity = bytes.len().max(PIECE);
            self.pieces.push_back(Vec::with_capacity(capacity));
            self.allocated += capacity;
        }
        let number = self.first + (self.pieces.len() as u64).saturating_sub(1);
        let Some(piece) = self.pieces.back_mut() else { return Span::default() };
        let as_u32 = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let span = Span { piece: number, start: as_u32(piece.len()), len: as_u32(bytes.len()) };
        piece.extend_from_slice(bytes);
        span
    }

    /// The bytes at a place; none where they were dropped.
    pub(super) fn get(&self, span: Span) -> &[u8] {
        let piece = span.piece.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let bytes = piece.and_then(|index| self.pieces.get(index));
        let end = span.start as usize + span.len as usize;
        bytes.and_then(|bytes| bytes.get(span.start as usize..end)).unwrap_or_default()
    }

    /// Drops the pieces before the one that holds `oldest`; all, where nothing is left.
    pub(super) fn drop_before(&mut self, oldest: Option<Span>) {
        let keep = oldest.map_or(self.first + self.pieces.len() as u64, |span| span.piece);
        while self.first < keep
            && let Some(piece) = self.pieces.pop_front()
        {
            self.allocated -= piece.capacity();
            self.first += 1;
        }
    }

    pub(super) const fn allocated(&self) -> usize {
        self.allocated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_is_there_until_it_is_dropped() {
        let mut bodies = Bodies::default();
        let large = vec![7; PIECE + 1];
        let spans: Vec<Span> =
            [b"one".as_slice(), b"", &large, b"two"].map(|bytes| bodies.push(bytes)).to_vec();
        assert_eq!(bodies.get(spans[0]), b"one");
        assert_eq!(bodies.get(spans[1]), b"");
        assert_eq!(bodies.get(spans[2]), large);
        assert_eq!(bodies.get(spans[3]), b"two");
        bodies.drop_before(Some(spans[3]));
        assert_eq!((bodies.get(spans[0]), bodies.get(spans[3])), (b"".as_slice(), b"two".as_slice()));
        assert_eq!(bodies.allocated(), PIECE);
        bodies.drop_before(None);
        assert_eq!((bodies.allocated(), bodies.get(spans[3])), (0, b"".as_slice()));
        let again = bodies.push(b"again");
        assert_eq!(bodies.get(again), b"again");
    }
}
