//! Sizes and counts as people read them.

/// Decimal units, as hubs and disks are labelled.
const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];

/// Bytes with about three digits.
pub(in crate::cmd) fn size(bytes: u64) -> String {
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => {
            let hundredths = rounded(bytes, unit / 100);
            match hundredths {
                0..1000 => format!("{}.{:02} {name}", hundredths / 100, hundredths % 100),
                1000..10_000 => format!("{}.{} {name}", hundredths / 100, hundredths % 100 / 10),
                _ => format!("{} {name}", hundredths / 100),
            }
        }
        None => format!("{bytes} B"),
    }
}

/// Bytes with the digits that an estimate deserves.
pub(super) fn about(bytes: u64) -> String {
    match bytes {
        1_000_000_000.. => {
            let tenths = rounded(bytes, 100_000_000);
            format!("~{}.{} GB", tenths / 10, tenths % 10)
        }
        _ => format!("~{} MB", rounded(bytes, 1_000_000)),
    }
}

const fn rounded(bytes: u64, unit: u64) -> u64 {
    (bytes + unit / 2) / unit
}

/// A number of weights.
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
            ["0 B", "999 B", "1.50 kB", "7.19 MB", "154 MB", "6.18 GB"]
        );
        assert_eq!([about(81_960_000), about(3_089_981_120)], ["~82 MB", "~3.1 GB"]);
        assert_eq!(
            [parameters(3_513_216), parameters(37_760_640), parameters(1_543_490_560)],
            ["3.5 M", "38 M", "1543 M"]
        );
    }
}
