//! Lines that meet in a cell. Pure.

use super::look::Look;

/// The sign for a cell that lines enter from above, below, the left and the right.
pub(super) const fn joint([up, down, left, right]: [bool; 4], look: &Look) -> &'static str {
    if look.ascii {
        return match (up || down, left || right) {
            (true, true) => "+",
            (true, false) => "|",
            (false, true) => "-",
            (false, false) => " ",
        };
    }
    match (up, down, left, right) {
        (false, false, false, false) => " ",
        (false, false, _, _) => "─",
        (_, _, false, false) => "│",
        (true, true, true, true) => "┼",
        (true, true, true, false) => "┤",
        (true, true, false, true) => "├",
        (true, false, true, true) => "┴",
        (false, true, true, true) => "┬",
        (true, false, true, false) => "╯",
        (true, false, false, true) => "╰",
        (false, true, true, false) => "╮",
        (false, true, false, true) => "╭",
    }
}
