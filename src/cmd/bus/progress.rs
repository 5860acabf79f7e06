//! How a long run shows that it moves: a bar or a count on a terminal, nothing elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cmd::Context;

/// How often a count moves.
const TICK: Duration = Duration::from_millis(100);

/// A bar over the bytes of a file; hidden where nobody watches.
pub(super) fn bar(context: &Context, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), target(context));
    styled(bar, "[{wide_bar}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta} left")
}

/// A count of events, with words beside it; hidden where nobody watches.
pub(super) fn count(context: &Context) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, target(context));
    if !bar.is_hidden() {
        bar.enable_steady_tick(TICK);
    }
    styled(bar, "{spinner} {human_pos} events {per_sec} {msg}")
}

fn target(context: &Context) -> ProgressDrawTarget {
    match context.terminal.stderr.is_terminal {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    }
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    // A template that cannot be read would be a typing error here; the default bar serves as well.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
