//! Live input: the microphone, or a file that is released by the clock, as one stream of [`CaptureEvent`]s.
//!
//! Each input has a named thread, started through [`crate::shutdown::Shutdown::thread`]; it ends when the root token is cancelled
//! or when the [`Capture`] is dropped. The sound card's own callback belongs to the operating system: it mixes
//! into a ring and touches nothing else, so it never allocates, locks or logs. Nothing is lost in silence: what
//! the ring or the consumer had no room for is counted and reported, in samples, at the place where it is missing.

mod device;
mod open;
mod worker;

pub use open::{list_inputs, start_microphone, start_paced};

use tokio::sync::mpsc;

use super::AudioError;

/// An input that can record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputDevice {
    /// Its name, any part of which chooses it.
    pub name: String,
    /// The one that is used when none is chosen.
    pub is_default: bool,
    /// The lowest and the highest rate in Hz.
    pub rates_hz: (u32, u32),
    /// The most channels.
    pub channels: u16,
}

/// Which microphone, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaptureOptions {
    /// A part of the device's name, in any case; `None` is the system's default input.
    pub device: Option<String>,
}

/// Why samples are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropCause {
    /// The capture thread did not run for seconds: the machine is overloaded.
    Overrun,
    /// The consumer did not take its chunks for ten seconds.
    SlowConsumer,
}

/// What an input says.
#[derive(Debug)]
pub enum CaptureEvent {
    /// The next samples: mono, 16 kHz.
    Samples(Vec<f32>),
    /// Here so many samples (at 16 kHz) are missing; fill them with silence to keep the clock.
    Dropped {
        /// How many.
        samples: u64,
        /// Why.
        cause: DropCause,
    },
    /// The device is gone. Said once; it is tried again, with growing pauses, until it is back.
    DeviceLost(AudioError),
    /// The device, or its successor, records again.
    DeviceBack {
        /// Its name.
        device: String,
    },
    /// The input is over: a file came to its end, or broke.
    Ended(Result<(), AudioError>),
}

/// A running input. Dropping it stops its thread.
#[derive(Debug)]
pub struct Capture {
    name: String,
    events: mpsc::Receiver<CaptureEvent>,
}

impl Capture {
    /// The device's or the file's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next event; `None` when the thread has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<CaptureEvent> {
        self.events.recv().await
    }
}
