//! Which cross-attention heads follow the audio: the published tables, and what to do without one.
//!
//! Pure data. The tables are decoded from the `_ALIGNMENT_HEADS` of openai/whisper.

use serde::Deserialize;

/// One head of the decoder's cross-attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(from = "(usize, usize)")]
pub struct AlignmentHead {
    /// Decoder layer, from 0.
    pub layer: usize,
    /// Head within the layer, from 0.
    pub head: usize,
}

impl From<(usize, usize)> for AlignmentHead {
    fn from((layer, head): (usize, usize)) -> Self {
        Self { layer, head }
    }
}

impl AlignmentHead {
    /// True when a decoder of this shape has the head.
    #[must_use]
    pub const fn fits(self, layers: usize, heads: usize) -> bool {
        self.layer < layers && self.head < heads
    }
}

/// Kinds of published models that share a shape but not their heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// English only.
    English,
    /// Multilingual with 80 mel bins.
    Multilingual,
    /// Multilingual with 128 mel bins (large-v3 and later).
    Multilingual128,
}

type Heads = &'static [(usize, usize)];

/// (decoder layers, heads a layer, encoder layers, family, heads)
#[rustfmt::skip]
const PUBLISHED: &[(usize, usize, usize, Family, Heads)] = &[
    (4, 6, 4, Family::English, &[(1,0),(2,0),(2,5),(3,0),(3,1),(3,2),(3,3),(3,4)]),
    (4, 6, 4, Family::Multilingual, &[(2,2),(3,0),(3,2),(3,3),(3,4),(3,5)]),
    (6, 8, 6, Family::English, &[(3,3),(4,7),(5,1),(5,5),(5,7)]),
    (6, 8, 6, Family::Multilingual, &[(3,1),(4,2),(4,3),(4,7),(5,1),(5,2),(5,4),(5,6)]),
    (12, 12, 12, Family::English, &[(6,6),(7,0),(7,3),(7,8),(8,2),(8,5),(8,7),(9,0),(9,4),(9,8),(9,10),(10,0),(10,1),
        (10,2),(10,3),(10,6),(10,11),(11,2),(11,4)]),
    (12, 12, 12, Family::Multilingual, &[(5,3),(5,9),(8,0),(8,4),(8,7),(8,8),(9,0),(9,7),(9,9),(10,5)]),
    (24, 16, 24, Family::English, &[(11,4),(14,1),(14,12),(14,14),(15,4),(16,0),(16,4),(16,9),(17,12),(17,14),(18,7),
        (18,10),(18,15),(20,0),(20,3),(20,9),(20,14),(21,12)]),
    (24, 16, 24, Family::Multilingual, &[(13,15),(15,4),(15,15),(16,1),(20,0),(23,4)]),
    // large-v1 has the shape of large-v2; the later and far more common one is assumed.
    (32, 20, 32, Family::Multilingual, &[(10,12),(13,17),(16,11),(16,12),(16,13),(17,15),(17,16),(18,4),(18,11),(18,19),
        (19,11),(21,2),(21,3),(22,3),(22,9),(22,12),(23,5),(23,7),(23,13),(25,5),(26,1),(26,12),(27,15)]),
    (32, 20, 32, Family::Multilingual128, &[(7,0),(10,17),(12,18),(13,12),(16,1),(17,14),(19,11),(21,4),(24,1),(25,6)]),
    (4, 20, 32, Family::Multilingual128, &[(2,4),(2,11),(3,3),(3,6),(3,11),(3,14)]),
];

/// The heads for a model whose files list none: the published ones for its shape, else the upper half of the layers.
#[must_use]
pub fn fallback(
    decoder_layers: usize,
    heads: usize,
    encoder_layers: usize,
    family: Family,
) -> Vec<AlignmentHead> {
    let known = PUBLISHED
        .iter()
        .find(|row| (row.0, row.1, row.2, row.3) == (decoder_layers, heads, encoder_layers, family));
    if let Some(row) = known {
        return row.4.iter().copied().map(AlignmentHead::from).collect();
    }
    let upper = decoder_layers / 2..decoder_layers;
    upper.flat_map(|layer| (0..heads).map(move |head| AlignmentHead { layer, head })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_published_head_exists() {
        for &(layers, heads, _, _, list) in PUBLISHED {
            assert!(
                list.iter().all(|&pair| AlignmentHead::from(pair).fits(layers, heads)),
                "{layers} x {heads}"
            );
        }
    }

    #[test]
    fn shapes_are_told_apart_by_family() {
        assert_eq!(fallback(4, 6, 4, Family::English).len(), 8);
        assert_eq!(fallback(4, 6, 4, Family::Multilingual).len(), 6);
        assert_eq!(fallback(4, 20, 32, Family::Multilingual128).len(), 6);
    }

    #[test]
    fn an_unknown_shape_uses_the_upper_half() {
        let heads = fallback(2, 3, 9, Family::Multilingual);
        assert_eq!(heads, [(1, 0), (1, 1), (1, 2)].map(AlignmentHead::from));
        assert_eq!(fallback(1, 2, 1, Family::English).len(), 2);
    }
}
