//! Bytes cut into pieces whose sizes the bytes themselves say.

use std::io::Read;

/// Reads in pieces of 1 to 256 bytes, as unhelpful as a socket.
pub struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    reads: usize,
}

impl Pieces {
    /// From the beginning.
    pub fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), at: 0, reads: 0 }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let size = size(&self.bytes, self.reads).min(buffer.len());
        self.reads += 1;
        let n = (&self.bytes[self.at..]).read(&mut buffer[..size])?;
        self.at += n;
        Ok(n)
    }
}

/// The same pieces one after the other.
pub fn cut(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    (0..).map_while(move |count| {
        let (piece, behind) = rest.split_at(size(bytes, count).min(rest.len()));
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The size of one piece; 1 where there are no bytes.
fn size(bytes: &[u8], count: usize) -> usize {
    1 + bytes.get(count % bytes.len().max(1)).map_or(0, |byte| usize::from(*byte))
}
