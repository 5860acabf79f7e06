//! Opening the bus for one command, closing it behind it, and what its errors mean for the exit code.

use std::{path::Path, time::Duration};

use anyhow::bail;
use tracing::warn;

use crate::{
    bus::{BusError, SharedBus, connect},
    cmd::{Context, Exit, Failure},
    config::{self, BusUrl},
    shutdown::Shutdown,
};

/// Opens the configured bus, hands it to `work`, and closes it.
///
/// The bus lives on after the first signal, so that work in hand can be settled; `work` watches
/// [`Context::shutdown`] and comes to its end.
///
/// # Errors
/// Those of the bus and of `work`, each with its exit code.
pub(in crate::cmd) async fn with_bus<T>(
    context: &Context,
    work: impl AsyncFnOnce(SharedBus) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    with_bus_at(context, Place::configured(context), work).await
}

/// A bus, and where it keeps what it keeps on this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) config: &'a config::Bus,
    pub(super) data_dir: &'a Path,
}

impl<'a> Place<'a> {
    /// The one of the configuration.
    pub(super) fn configured(context: &'a Context) -> Self {
        Self::of(&context.config.bus, context)
    }

    /// Another bus of the same user.
    pub(super) fn of(config: &'a config::Bus, context: &'a Context) -> Self {
        Self { config, data_dir: &context.paths.data_dir }
    }
}

/// As [`with_bus`], with another bus than the configured one.
///
/// # Errors
/// As [`with_bus`].
pub(super) async fn with_bus_at<T>(
    context: &Context,
    place: Place<'_>,
    work: impl AsyncFnOnce(SharedBus) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    // A root of its own: a signal stops the command first, and the bus when the command is done with it.
    let life = Shutdown::new();
    let bus = tokio::select! {
        biased;
        () = context.shutdown.cancelled() => bail!("interrupted"),
        bus = connect::connect(place.config, place.data_dir, &life) => bus?,
    };
    let result = work(bus.clone()).await;
    let deadline = drain_deadline(context);
    if tokio::time::timeout(deadline, bus.close()).await.is_err() {
        warn!(bus = %place.config.url, "the bus did not close in time");
    }
    drop(bus);
    life.finish(deadline).await?;
    result
}

/// The settings of another bus than the configured one, for the same user.
///
/// # Errors
/// What is wrong with the address, without the address: it may hold a password.
pub(in crate::cmd) fn other_bus(url: &str, context: &Context) -> anyhow::Result<config::Bus> {
    let url: BusUrl =
        url.parse().map_err(|reason: &str| Failure::new(Exit::Usage, anyhow::anyhow!("{reason}")))?;
    Ok(config::Bus { url, ..context.config.bus.clone() })
}

/// What a command may take for its last work after a signal; the rest of `shutdown.deadline_s` is for closing.
pub(super) fn drain_deadline(context: &Context) -> Duration {
    context.config.shutdown.deadline().mul_f32(0.7)
}

/// Gives an error its exit code.
pub(in crate::cmd) fn with_exit_code(error: anyhow::Error) -> anyhow::Error {
    if error.chain().any(|cause| cause.is::<Failure>()) {
        return error;
    }
    let exit = match error.chain().find_map(|cause| cause.downcast_ref::<BusError>()) {
        Some(BusError::Unreachable { .. } | BusError::Access { .. }) => Exit::Unavailable,
        Some(BusError::Invalid(_)) => Exit::Usage,
        _ => return error,
    };
    Failure::new(exit, error).into()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn each_error_of_a_bus_has_its_exit_code() {
        let bus = || "amqp://***@host".to_owned();
        let reason = || "no".to_owned();
        let cases = [
            (BusError::Unreachable { bus: bus(), reason: reason() }, "Unavailable"),
            (BusError::Access { bus: bus(), reason: reason() }, "Unavailable"),
            (BusError::Invalid(reason()), "Usage"),
        ];
        for (error, exit) in cases {
            let said = format!("{error}");
            let error = with_exit_code(Err::<(), _>(error).context("publishing").unwrap_err());
            let shown = format!("{error:#} {error:?}");
            assert!(
                error.is::<Failure>() && shown.contains(&said) && shown.contains("publishing"),
                "{shown}"
            );
            assert!(format!("{:?}", error.downcast_ref::<Failure>()).contains(exit), "{shown}");
        }
        assert!(!with_exit_code(BusError::Closed.into()).is::<Failure>());
    }
}
