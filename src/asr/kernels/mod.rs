//! The hot loops of the model on the CPU, as plain slices and as candle operations.
//!
//! They run on the thread that calls them and split large inputs over rayon's current pool; nothing blocks and
//! nothing has to be stopped. Each has one body in plain Rust, compiled once for every instruction set worth having
//! and chosen at run time. The bodies multiply and add separately (never fused), so every path gives the same bits.
//!
//! - [`gelu`]: the exact (erf) GELU that Whisper was trained with, alone and fused with a bias
//! - [`softmax`]: rows to probabilities
//! - [`attention`]: attention of the encoder (never holds a square of scores) and of the decoder (cached keys)
//! - [`linear`]: products with few rows, as in decoding
//! - [`gemm`]: a checked door to the matrix product

pub mod attention;
pub mod exp;
pub mod gelu;
pub mod gemm;
pub mod linear;
pub mod softmax;

/// Compiles `$body` for AVX-512, AVX2 and the baseline, and makes `$name` choose between them at run time.
macro_rules! dispatch {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $body:path) => {
        $(#[$doc])*
        $vis fn $name($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn wide($($arg: $type),*) {
                    $body($($arg),*);
                }
                #[target_feature(enable = "avx2")]
                fn middle($($arg: $type),*) {
                    $body($($arg),*);
                }
                if std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                {
                    #[allow(unsafe_code, reason = "calling a function compiled for more than the baseline")]
                    // SAFETY: the processor has been asked for every feature that `wide` is compiled with.
                    return unsafe { wide($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    #[allow(unsafe_code, reason = "calling a function compiled for more than the baseline")]
                    // SAFETY: the processor has been asked for the one feature that `middle` is compiled with.
                    return unsafe { middle($($arg),*) };
                }
            }
            $body($($arg),*);
        }
    };
}
pub(crate) use dispatch;
