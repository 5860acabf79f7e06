//! Tables for people: columns as wide as their widest cell. Pure.

use unicode_width::UnicodeWidthStr as _;

/// Where a column's cells are pushed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd) enum Side {
    Left,
    Right,
}

/// The rows below their headings; nothing is padded at the end of a line.
pub(in crate::cmd) fn table(columns: &[(&str, Side)], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(index, (heading, _))| {
            let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.width());
            cells.chain([heading.width()]).max().unwrap_or_default()
        })
        .collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).zip(columns).map(|((cell, width), (_, side))| {
            let space = " ".repeat(width.saturating_sub(cell.width()));
            match side {
                Side::Left => format!("{cell}{space}"),
                Side::Right => format!("{space}{cell}"),
            }
        });
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let headings = line(columns.iter().map(|(heading, _)| *heading).collect());
    rows.iter()
        .map(|row| line(row.iter().map(String::as_str).collect()))
        .fold(headings, |text, row| text + &row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            [["agent.prompt", "3", "漢字"], ["x", "12000", ""]].map(|row| row.map(str::to_owned).to_vec());
        let columns = [("QUEUE", Side::Left), ("READY", Side::Right), ("BINDINGS", Side::Left)];
        insta::assert_snapshot!(table(&columns, &rows), @"
        QUEUE         READY  BINDINGS
        agent.prompt      3  漢字
        x             12000
        ");
    }
}
