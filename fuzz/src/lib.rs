//! What the fuzz targets share beside their [`laws`]: a limit of memory, and which panics may be caught.

pub mod laws;

use std::{
    alloc::System,
    collections::HashSet,
    panic,
    sync::{LazyLock, Mutex},
};

use cap::Cap;

/// Bytes that all of the program may hold at a time. Inputs have a few KB; what makes more than this of them would let a
/// few strangers take a server's memory. It counts what is asked for, not only what is touched.
const MAX_HELD: usize = 256 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MAX_HELD);

/// Where third parties panicked, to tell each place once.
static TOLD: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

/// Runs once before the first input.
///
/// The fuzzer's own hook ends the process at every panic. A third party's decoder may panic where godctl catches that, as
/// the server does; a panic of godctl itself ends the process even there, and one that nobody catches does in any case.
pub fn start() {
    panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        if !at.contains("/registry/src/") && !at.contains("/rustc/") {
            eprintln!("{panic}");
            std::process::abort();
        }
        if TOLD.lock().is_ok_and(|mut told| told.insert(at)) {
            eprintln!("{panic}");
        }
    }));
}
