//! A checked door to the `gemm` crate: one product on the calling thread, operands as slices with strides.

/// A matrix inside a slice.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// The values; element (i, j) is at `i * row_stride + j * column_stride`.
    pub values: &'a [f32],
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub column_stride: usize,
}

/// Sizes of a product: `[rows, depth] x [depth, columns]`.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Rows of the left side and of the result.
    pub rows: usize,
    /// Columns of the left side, rows of the right.
    pub depth: usize,
    /// Columns of the right side and of the result.
    pub columns: usize,
}

/// `out = scale * left x right`, where row `i` of the result starts at `i * out_stride`.
///
/// Does nothing when an operand is too short for its sizes; a debug build panics.
pub fn product(
    out: &mut [f32],
    out_stride: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    sizes: Sizes,
    scale: f32,
) {
    let Sizes { rows, depth, columns } = sizes;
    if rows == 0 || columns == 0 || depth == 0 {
        return;
    }
    let last = |rows: usize, columns: usize, row_stride: usize, column_stride: usize| {
        (rows - 1) * row_stride + (columns - 1) * column_stride
    };
    let fits = last(rows, depth, left.row_stride, left.column_stride) < left.values.len()
        && last(depth, columns, right.row_stride, right.column_stride) < right.values.len()
        && last(rows, columns, out_stride, 1) < out.len()
        && (rows == 1 || out_stride >= columns);
    debug_assert!(fits, "operands shorter than their sizes: {sizes:?}");
    if !fits {
        return;
    }
    #[allow(unsafe_code, reason = "the gemm crate takes pointers")]
    // SAFETY: the largest index of each operand was compared with its slice's length above, rows of the result do
    // not overlap, and `out` is borrowed mutably, so nothing else reads or writes it during the call.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            false,
            left.values.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.values.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            0.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_are_respected() {
        // [[1, 2], [3, 4]] x transpose of [[5, 6], [7, 8]]
        let left = Matrix { values: &[1.0, 2.0, 0.0, 3.0, 4.0], row_stride: 3, column_stride: 1 };
        let right = Matrix { values: &[5.0, 6.0, 7.0, 8.0], row_stride: 1, column_stride: 2 };
        let mut out = [9.0; 5];
        product(&mut out, 3, left, right, Sizes { rows: 2, depth: 2, columns: 2 }, 2.0);
        assert_eq!(out, [34.0, 46.0, 9.0, 78.0, 106.0]);
    }

    #[test]
    #[should_panic(expected = "shorter than their sizes")]
    fn short_operands_are_refused() {
        let short = Matrix { values: &[1.0], row_stride: 1, column_stride: 1 };
        product(&mut [0.0], 1, short, short, Sizes { rows: 2, depth: 2, columns: 2 }, 1.0);
    }
}
