//! Kill tests: real processes publish and work off while they, and the broker, are killed with SIGKILL at random.
//!
//! `ledger` holds the laws, `actors` the processes and whoever kills them, and each other file one scenario. The seed
//! of a run is printed; it decides who is killed when, though not how far the victim had come. A run is repeated with
//! `GODCTL_KILL_SEED`, and made shorter with `GODCTL_KILL_SECONDS` and `GODCTL_KILL_EVENTS`.

mod actors;
mod agents;
mod amqp;
mod audit;
mod ledger;
mod sqlite;

use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard};

/// One at a time, also under `cargo test`: each wants the machine to itself, and they take turns at its ports.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock()
}

/// How long processes are killed, unless the developer says otherwise.
fn duration(usual: u64) -> Duration {
    Duration::from_secs(setting("GODCTL_KILL_SECONDS").unwrap_or(usual))
}

/// How many events there are, over all producers, unless the developer says otherwise.
fn events(usual: u64) -> u32 {
    u32::try_from(setting("GODCTL_KILL_EVENTS").map_or(usual, |events| events)).unwrap()
}

fn seed() -> u64 {
    setting("GODCTL_KILL_SEED").unwrap_or_else(|| fastrand::u64(..1 << 48))
}

#[allow(clippy::disallowed_methods, reason = "for the developer who runs this, not for the program")]
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// Milliseconds of the system's clock.
fn now() -> ledger::Ms {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}
