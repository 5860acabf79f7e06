//! Bars made of several parts, one above the other, in eighths of a line. Pure.

/// One cell of a bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    /// Eighths of the cell, from below, that are `part`.
    pub(super) eighths: usize,
    pub(super) part: usize,
    /// What the rest of a cell is that is full.
    pub(super) above: Option<usize>,
    /// The part that has most of it.
    pub(super) main: usize,
    /// Eighths that are anything.
    pub(super) filled: usize,
}

/// The cells of a bar from below, so many at most; `most` would be as high as that. What is not nothing can be seen.
pub(super) fn bar(parts: &[u64], most: u64, height: usize) -> Vec<Cell> {
    let total: u64 = parts.iter().sum();
    if total == 0 || height == 0 {
        return Vec::new();
    }
    let room = height as u64 * 8;
    let high = (u128::from(total) * u128::from(room)).div_ceil(u128::from(most.max(total)));
    // The eighth at which each part ends.
    let mut sum = 0;
    let ends: Vec<u128> = parts
        .iter()
        .map(|part| {
            sum += u128::from(*part);
            (sum * high + u128::from(total) / 2) / u128::from(total)
        })
        .collect();
    let mut cells = Vec::new();
    let mut from = 0;
    while from < high {
        let to = (from + 8).min(high);
        let mut start = 0;
        let mut pieces = Vec::new();
        for (part, end) in ends.iter().enumerate() {
            let eighths = (*end).min(to).saturating_sub(start.max(from));
            if eighths > 0 {
                pieces.push((part, usize::try_from(eighths).unwrap_or(8)));
            }
            start = *end;
        }
        cells.extend(cell(&pieces));
        from += 8;
    }
    cells
}

/// A cell has two colours: that of the sign and the one behind it. Where it is not full the latter is nothing's, and
/// the part that has most of it stands for all.
fn cell(pieces: &[(usize, usize)]) -> Option<Cell> {
    let filled = pieces.iter().map(|(_, eighths)| eighths).sum();
    // Of two as large, the lower one.
    let largest = |pieces: &[(usize, usize)]| {
        pieces.iter().rev().max_by_key(|(_, eighths)| *eighths).map(|(part, _)| *part)
    };
    let main = largest(pieces)?;
    let ((first, eighths), rest) = pieces.split_first()?;
    if filled < 8 || rest.is_empty() {
        return Some(Cell { eighths: filled, part: main, above: None, main, filled });
    }
    Some(Cell { eighths: *eighths, part: *first, above: largest(rest), main, filled })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bar_is_as_high_as_its_sum_and_never_higher_than_there_is_room(
            parts in proptest::collection::vec(0_u64..50, 1..6), more in 0_u64..100, height in 1_usize..20,
        ) {
            let total: u64 = parts.iter().sum();
            let most = total + more;
            let cells = bar(&parts, most, height);
            let filled: usize = cells.iter().map(|cell| cell.filled).sum();
            prop_assert!(cells.len() <= height);
            prop_assert_eq!(filled > 0, total > 0);
            if total > 0 {
                prop_assert_eq!(filled as u64, (total * height as u64 * 8).div_ceil(most));
            }
            for cell in cells {
                prop_assert!(parts[cell.main] > 0 && parts[cell.part] > 0 && cell.eighths <= 8);
            }
        }
    }

    #[test]
    fn two_parts_share_a_cell() {
        let cells = bar(&[3, 0, 5], 8, 1);
        assert_eq!(cells, [Cell { eighths: 3, part: 0, above: Some(2), main: 2, filled: 8 }]);
        let cells = bar(&[3, 1], 8, 1);
        assert_eq!(cells, [Cell { eighths: 4, part: 0, above: None, main: 0, filled: 4 }]);
    }
}
