//! How much memory the head of a Vorbis track asks for, told before a decoder is made of it. Pure.
//!
//! The decoder crate limits each codebook of the setup header (Vorbis I, 3.2.1), but not all of them together: a header of
//! 5 KB can have 256 books that take 150 MB each.

/// Entries of all codebooks together, which take a kilobyte each. What encoders write has 20,000 at most (six channels).
const MAX_ENTRIES: u64 = 1 << 16;

/// The identification header has a fixed length; the setup header stands behind it.
const IDENTIFICATION_BYTES: usize = 30;
const SETUP_MARK: &[u8] = b"\x05vorbis";
const CODEBOOK_SYNC: u64 = 0x56_4342;

/// True if the codebooks are larger than any encoder makes them. A header that cannot be read is left to the decoder,
/// which stops in the same place.
pub(super) fn is_oversized(extra_data: &[u8]) -> bool {
    let setup = extra_data.get(IDENTIFICATION_BYTES..).and_then(|setup| setup.strip_prefix(SETUP_MARK));
    let Some(bytes) = setup else { return false };
    let mut bits = Bits { bytes, at: 0 };
    let mut entries = 0;
    for _ in 0..=bits.take(8).unwrap_or(0) {
        let Some(book) = Codebook::read(&mut bits) else { return false };
        entries += book.entries;
        if entries > MAX_ENTRIES {
            return true;
        }
        if book.skip_rest(&mut bits).is_none() {
            return false;
        }
    }
    false
}

struct Codebook {
    dimensions: u32,
    entries: u64,
}

impl Codebook {
    fn read(bits: &mut Bits<'_>) -> Option<Self> {
        (bits.take(24)? == CODEBOOK_SYNC).then_some(())?;
        Some(Self { dimensions: u32::try_from(bits.take(16)?).ok()?, entries: bits.take(24)? })
    }

    /// What follows the two numbers: the lengths of the codewords, and a table of vectors.
    fn skip_rest(&self, bits: &mut Bits<'_>) -> Option<()> {
        let is_ordered = bits.take(1)? == 1;
        if is_ordered {
            bits.take(5)?;
            let mut known = 0;
            while known < self.entries {
                known += bits.take(64 - (self.entries - known).leading_zeros())?;
            }
        } else if bits.take(1)? == 1 {
            // Sparse: only those that are used have a length.
            for _ in 0..self.entries {
                let used = bits.take(1)?;
                bits.skip(used * 5)?;
            }
        } else {
            bits.skip(self.entries * 5)?;
        }
        let lookup = bits.take(4)?;
        if lookup == 0 {
            return Some(());
        }
        bits.skip(64)?;
        let value_bits = bits.take(4)? + 1;
        bits.skip(1)?;
        let values =
            if lookup == 1 { self.lattice_side() } else { self.entries * u64::from(self.dimensions) };
        bits.skip(values * value_bits)
    }

    /// The greatest number whose power by the dimensions is not above the entries (Vorbis I, 9.2.3).
    fn lattice_side(&self) -> u64 {
        let fits = |side: &u64| side.checked_pow(self.dimensions).is_some_and(|power| power <= self.entries);
        if self.dimensions == 0 { 0 } else { (1..).take_while(fits).last().unwrap_or(0) }
    }
}

/// Bits from the lowest of each byte on, as Vorbis packs them.
struct Bits<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl Bits<'_> {
    fn take(&mut self, count: u32) -> Option<u64> {
        let mut value = 0;
        for place in 0..count {
            let byte = self.bytes.get(usize::try_from(self.at / 8).ok()?)?;
            value |= u64::from(byte >> (self.at % 8) & 1) << place;
            self.at += 1;
        }
        Some(value)
    }

    fn skip(&mut self, count: u64) -> Option<()> {
        self.at += count;
        (self.at <= self.bytes.len() as u64 * 8).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers, each with how many bits it takes.
    fn packed(numbers: &[(u64, u32)]) -> Vec<u8> {
        let (mut bytes, mut at) = (Vec::new(), 0);
        for (number, count) in numbers {
            for place in 0..*count {
                if at % 8 == 0 {
                    bytes.push(0);
                }
                if let Some(last) = bytes.last_mut() {
                    *last |= u8::try_from(number >> place & 1).unwrap() << (at % 8);
                }
                at += 1;
            }
        }
        bytes
    }

    /// A head whose codebooks have so many entries of one length, and a table for 31 dimensions.
    fn head(books: &[u64]) -> Vec<u8> {
        let mut numbers = vec![(books.len() as u64 - 1, 8)];
        for entries in books {
            let length_bits = 64 - entries.leading_zeros();
            numbers.extend([(CODEBOOK_SYNC, 24), (31, 16), (*entries, 24), (1, 1), (16, 5)]);
            numbers.extend([(*entries, length_bits), (1, 4), (0, 64), (0, 4), (0, 1), (0, 1)]);
        }
        [vec![0; IDENTIFICATION_BYTES], SETUP_MARK.to_vec(), packed(&numbers)].concat()
    }

    #[test]
    fn all_codebooks_together_have_a_limit() {
        assert!(!is_oversized(&head(&[MAX_ENTRIES])));
        assert!(!is_oversized(&head(&[256; 256])));
        assert!(is_oversized(&head(&[MAX_ENTRIES + 1])));
        assert!(is_oversized(&head(&[257; 256])));
        assert!(is_oversized(&head(&[1 << 17; 256])));
    }

    #[test]
    fn every_way_to_write_a_codebook_is_understood() {
        let plain = [(CODEBOOK_SYNC, 24), (2, 16), (9, 24), (0, 1), (0, 1), (0, 45), (0, 4)];
        let sparse = [(CODEBOOK_SYNC, 24), (2, 16), (2, 24), (0, 1), (1, 1), (0, 1), (1, 1), (3, 5), (0, 4)];
        // Nine entries of two dimensions: a lattice of three by three, or eighteen numbers one by one.
        let lattice = [
            (CODEBOOK_SYNC, 24),
            (2, 16),
            (9, 24),
            (0, 1),
            (0, 1),
            (0, 45),
            (1, 4),
            (0, 64),
            (7, 4),
            (0, 25),
        ];
        let listed = [
            (CODEBOOK_SYNC, 24),
            (2, 16),
            (9, 24),
            (0, 1),
            (0, 1),
            (0, 45),
            (2, 4),
            (0, 64),
            (0, 4),
            (0, 19),
        ];
        let last = [(CODEBOOK_SYNC, 24), (1, 16), (MAX_ENTRIES, 24)];
        let books = [&plain[..], &sparse, &lattice, &listed, &last].concat();
        let head =
            [vec![0; IDENTIFICATION_BYTES], SETUP_MARK.to_vec(), packed(&[&[(4, 8)], &books[..]].concat())];
        assert!(is_oversized(&head.concat()), "the last one is found behind the others");
    }

    #[test]
    fn what_is_no_head_is_left_to_the_decoder() {
        let whole = head(&[100, 200]);
        for cut in 0..whole.len() {
            assert!(!is_oversized(&whole[..cut]));
        }
        assert!(!is_oversized(&[0xff; 4_096]));
    }
}
