//! Sizes and counts as people read them.

/// Bytes in decimal units with three digits, as hubs and disks are labelled.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => {
            let (whole, hundredths) = (bytes / unit, bytes % unit * 100 / unit);
            match whole {
                0..10 => format!("{whole}.{hundredths:02} {name}"),
                10..100 => format!("{whole}.{} {name}", hundredths / 10),
                _ => format!("{whole} {name}"),
            }
        }
        None => format!("{bytes} B"),
    }
}

pub(super) fn about(bytes: u64) -> String {
    format!("~{}", size(bytes))
}

pub(super) fn parameters(count: u64) -> String {
    match count {
        0..10_000_000 => format!("{}.{} M", count / 1_000_000, count % 1_000_000 / 100_000),
        _ => format!("{} M", (count + 500_000) / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [size(0), size(999), size(1_500), size(7_190_000), size(154_042_560), size(6_176_219_840)],
            ["0 B", "999 B", "1.50 kB", "7.19 MB", "154 MB", "6.17 GB"]
        );
        assert_eq!(
            [parameters(3_513_216), parameters(37_760_640), parameters(1_543_490_560)],
            ["3.5 M", "38 M", "1543 M"]
        );
    }
}
