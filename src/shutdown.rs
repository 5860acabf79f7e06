//! How the program ends: one cancellation token, tracked tasks, named threads, the first fatal error.
//!
//! Everything that outlives a function call is started here, so that it has a name, stops when the root
//! token is cancelled, and is joined before the process exits. Signals never travel as data.

use std::{
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

/// Why a critical part ended the process.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{part} stopped: {reason}")]
pub struct FatalError {
    /// The part's name, as given to [`Shutdown::spawn_critical`] or [`Shutdown::thread`].
    pub part: &'static str,
    /// What it said.
    pub reason: String,
}

#[derive(Default)]
struct Inner {
    threads: Mutex<Vec<(&'static str, JoinHandle<()>)>>,
    fatal: Mutex<Option<FatalError>>,
    before_exit: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
    intercept: Mutex<Option<Box<dyn Fn() -> bool + Send>>>,
}

/// The handle that every long-lived part gets: cheap to clone, cancelled once, joined once.
#[derive(Clone)]
pub struct Shutdown {
    token: CancellationToken,
    tracker: TaskTracker,
    inner: Arc<Inner>,
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown")
            .field("cancelled", &self.token.is_cancelled())
            .field("tasks", &self.tracker.len())
            .finish_non_exhaustive()
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A root that nothing has cancelled yet.
    #[must_use]
    pub fn new() -> Self {
        Self { token: CancellationToken::new(), tracker: TaskTracker::new(), inner: Arc::default() }
    }

    /// The root token: cancelled by the first signal, by [`Shutdown::cancel`], or by a fatal error.
    #[must_use]
    pub const fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// A token that the root cancels and that can be cancelled alone.
    #[must_use]
    pub fn child_token(&self) -> CancellationToken {
        self.token.child_token()
    }

    /// Asks everything to stop.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// True once a stop was asked for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until a stop is asked for. Cancel safe.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Runs a task whose failure concerns only itself: a panic is logged, nothing else stops.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                error!(task = name, "a task panicked");
            }
        });
    }

    /// Runs a part that the process cannot live without: its error, its panic or its early end stops everything.
    pub fn spawn_critical<F, E>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        let this = self.clone();
        self.tracker.spawn(async move {
            match AssertUnwindSafe(task).catch_unwind().await {
                Ok(Ok(())) if this.is_cancelled() => {}
                Ok(Ok(())) => this.fail(name, "ended although nobody asked it to".to_owned()),
                Ok(Err(error)) => this.fail(name, format!("{error:#}")),
                Err(_) => this.fail(name, "panicked".to_owned()),
            }
        });
    }

    /// Starts a named OS thread that is joined at the end. A panic in it is fatal.
    ///
    /// The thread must stop by itself soon after the root token is cancelled (or when its channel closes).
    ///
    /// # Errors
    /// When the operating system refuses another thread.
    pub fn thread<F>(&self, name: &'static str, body: F) -> std::io::Result<()>
    where
        F: FnOnce() + Send + 'static,
    {
        let this = self.clone();
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            if std::panic::catch_unwind(AssertUnwindSafe(body)).is_err() {
                this.fail(name, "panicked".to_owned());
            }
        })?;
        let mut threads = self.inner.threads.lock();
        // A server starts threads for as long as it lives; one that has ended keeps its stack until it is joined.
        reap(&mut threads);
        threads.push((name, handle));
        Ok(())
    }

    /// Starts a named OS thread that nobody waits for at the end, because it may be blocked in a read that cannot be
    /// ended from outside (a pipe that says nothing, a file on a dead server). It must own nothing that needs an
    /// orderly end. A panic in it is fatal.
    ///
    /// # Errors
    /// When the operating system refuses another thread.
    pub fn unjoined_thread<F>(&self, name: &'static str, body: F) -> std::io::Result<()>
    where
        F: FnOnce() + Send + 'static,
    {
        let this = self.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            if std::panic::catch_unwind(AssertUnwindSafe(body)).is_err() {
                this.fail(name, "panicked".to_owned());
            }
        })?;
        Ok(())
    }

    /// Records a fatal error (the first one wins) and asks everything to stop.
    pub fn fail(&self, part: &'static str, reason: String) {
        error!(part, reason, "a critical part failed, stopping");
        self.inner.fatal.lock().get_or_insert(FatalError { part, reason });
        self.token.cancel();
    }

    /// Runs this when a second signal ends the process at once. For what would outlive the process, such as child
    /// processes; it must not wait for anything.
    pub fn before_exit<F>(&self, last: F)
    where
        F: FnOnce() + Send + 'static,
    {
        self.inner.before_exit.lock().push(Box::new(last));
    }

    /// Asks this first at each SIGINT, for commands in which it can mean less than the end. What answers true has dealt
    /// with it.
    pub fn intercept_interrupts<F>(&self, deal: F)
    where
        F: Fn() -> bool + Send + 'static,
    {
        *self.inner.intercept.lock() = Some(Box::new(deal));
    }

    /// Turns the first SIGINT or SIGTERM into a cancellation; a second one ends the process with code 130.
    pub fn listen_for_signals(&self) {
        let this = self.clone();
        // Not tracked: it waits for a second signal for as long as the process lives.
        #[allow(clippy::disallowed_methods, reason = "must outlive the tracker, holds nothing to clean up")]
        tokio::spawn(async move {
            while signal().await == Signal::Interrupt && this.is_intercepted() {}
            info!("stopping; a second signal ends the process at once");
            this.cancel();
            signal().await;
            let last = std::mem::take(&mut *this.inner.before_exit.lock());
            last.into_iter().for_each(|run| run());
            #[allow(clippy::exit, reason = "the user insists: the second signal skips the orderly stop")]
            std::process::exit(130);
        });
    }

    fn is_intercepted(&self) -> bool {
        self.inner.intercept.lock().as_ref().is_some_and(|deal| deal())
    }

    /// Cancels, waits for tasks and threads until `deadline` has passed, and gives the first fatal error.
    ///
    /// # Errors
    /// The first [`FatalError`] of a critical part.
    pub async fn finish(&self, deadline: Duration) -> Result<(), FatalError> {
        self.cancel();
        self.tracker.close();
        let until = Instant::now() + deadline;
        if tokio::time::timeout(deadline, self.tracker.wait()).await.is_err() {
            warn!(tasks = self.tracker.len(), "tasks did not stop in time");
        }
        loop {
            let running = {
                let mut threads = self.inner.threads.lock();
                reap(&mut threads);
                let names: Vec<_> = threads.iter().map(|(name, _)| *name).collect();
                names
            };
            if running.is_empty() {
                break;
            }
            if Instant::now() >= until {
                warn!(threads = ?running, "threads did not stop in time");
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.inner.fatal.lock().clone().map_or(Ok(()), Err)
    }
}

/// Joins the threads that have ended.
fn reap(threads: &mut Vec<(&'static str, JoinHandle<()>)>) {
    for (name, handle) in threads.extract_if(.., |(_, handle)| handle.is_finished()) {
        if handle.join().is_err() {
            error!(thread = name, "a thread panicked");
        }
    }
}

/// What asks the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    /// Somebody at the keyboard.
    Interrupt,
    /// Some other process.
    Terminate,
}

#[cfg(unix)]
async fn signal() -> Signal {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => Signal::Interrupt,
                _ = terminate.recv() => Signal::Terminate,
            }
        }
        (Err(error), _) | (_, Err(error)) => {
            warn!(%error, "cannot listen for signals");
            std::future::pending().await
        }
    }
}

#[cfg(not(unix))]
async fn signal() -> Signal {
    if let Err(error) = tokio::signal::ctrl_c().await {
        warn!(%error, "cannot listen for signals");
        std::future::pending::<()>().await;
    }
    Signal::Interrupt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_critical_part_that_ends_early_is_fatal() {
        let shutdown = Shutdown::new();
        shutdown.spawn_critical("listener", async { Ok::<(), std::io::Error>(()) });
        shutdown.cancelled().await;
        let error = shutdown.finish(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.part, "listener");
    }

    #[tokio::test]
    async fn the_first_fatal_error_wins_and_panics_are_noticed() {
        let shutdown = Shutdown::new();
        shutdown.thread("engine", || panic!("boom")).unwrap();
        shutdown.cancelled().await;
        shutdown.fail("later", "something else".to_owned());
        let error = shutdown.finish(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!((error.part, error.reason.as_str()), ("engine", "panicked"));
    }

    #[tokio::test]
    async fn threads_that_have_ended_are_let_go() {
        let shutdown = Shutdown::new();
        for _ in 0..100 {
            let (tx, rx) = tokio::sync::oneshot::channel();
            shutdown.thread("short", move || tx.send(()).unwrap()).unwrap();
            rx.await.unwrap();
        }
        assert!(shutdown.inner.threads.lock().len() < 50);
        shutdown.finish(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn tasks_and_threads_are_joined_after_a_clean_stop() {
        let shutdown = Shutdown::new();
        let token = shutdown.child_token();
        shutdown.spawn("worker", async move { token.cancelled().await });
        let (tx, rx) = std::sync::mpsc::sync_channel::<()>(1);
        shutdown.thread("reader", move || while rx.recv().is_ok() {}).unwrap();
        drop(tx);
        shutdown.finish(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn a_thread_that_is_stuck_in_a_read_is_not_waited_for() {
        let shutdown = Shutdown::new();
        let (stuck, never) = std::sync::mpsc::sync_channel::<()>(0);
        shutdown.unjoined_thread("stuck", move || assert!(never.recv().is_err())).unwrap();
        let started = Instant::now();
        shutdown.finish(Duration::from_secs(60)).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(30));
        drop(stuck);
    }
}
