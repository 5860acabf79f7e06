//! `godctl demo`: the live pipeline on recordings that ship inside the binary, and how well it did.
//!
//! Starts the server on a free port of this machine and talks to it over a real websocket, as any client would. All
//! recordings go through one session, with a second of silence after each. What is heard goes onto the event bus and is
//! read back from there at the end. Ends by itself; the first Ctrl-C ends it in order.

mod agent;
mod events;
mod measure;
mod play;
mod recordings;
mod screen;

pub(super) use play::run;

/// Flags of `godctl demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl demo                      watch words become final, at the pace of speech (35 s)
  godctl demo --fast               as fast as this machine can
  godctl demo --json | tail -n 1   the figures alone

Each utterance is left on the event bus and read back from there; the one that begins with
\"computer\" reaches an agent (echo, which repeats it) whose answer comes back over the bus. A bus
that can't be used is told of. Nothing is published with -c asr.publish=false.

Exits with 0 when the recordings were transcribed, whatever the figures, and with 1 when a part
failed.")]
pub(super) struct Args {
    /// Send the audio at once instead of at the pace of speech; latencies are not measured then
    #[arg(long)]
    fast: bool,
    /// Print the summary as one JSON object on the last line
    #[arg(long)]
    json: bool,
}
