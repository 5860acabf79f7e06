//! One live stream of a session, as every protocol uses it: the engine's stream with who speaks, what is measured, and
//! where finished utterances go besides. Runs on the session's task.

use std::{
    future::pending,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

use super::{Access, Token, access::Quota, listen::App, meter::Tally};
pub(super) use super::{access::Caller, meter::Meter};
use crate::{
    asr::{
        ModelInfo, SttError,
        engine::{Stream, StreamGauge, StreamInput, StreamOptions, StreamOutput},
        stream::StreamEvent,
        tap::{Spoken, Tap},
    },
    shutdown::Shutdown,
};

/// Which protocol a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// WhisperLiveKit's `/asr`.
    Native,
    /// Deepgram's `/v1/listen`.
    Deepgram,
}

impl Protocol {
    /// In logs and metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Native => "asr",
            Self::Deepgram => "listen",
        }
    }
}

/// A stream that has its slot. Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) input: LiveInput,
    pub(super) output: LiveOutput,
    pub(super) meter: Arc<Meter>,
    pub(super) model: Arc<ModelInfo>,
    /// When the server wants the session to end.
    pub(super) ending: Ending,
    /// How the stream keeps up.
    pub(super) gauge: StreamGauge,
}

/// A slot, and what it counts for.
type Opened = (Option<Quota>, Stream);

/// Where audio goes in; see [`StreamInput`].
#[derive(Debug)]
pub(super) struct LiveInput {
    /// Taken out when the audio ends.
    stream: Option<Arc<StreamInput>>,
    meter: Arc<Meter>,
}

/// Where events come out; see [`StreamOutput`].
#[derive(Debug)]
pub(super) struct LiveOutput {
    stream: StreamOutput,
    session: String,
    model: Arc<ModelInfo>,
    tap: Option<Tap>,
    meter: Arc<Meter>,
    /// Of a session that has several streams: which of them this is, and the index of their next utterance.
    channel: Option<(usize, Arc<AtomicU64>)>,
    /// Counted until nothing can come out any more.
    _quota: Option<Quota>,
}

/// Tells a session when to end its audio, say its last words and close, although its client goes on.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    shutdown: Shutdown,
    until: Option<Instant>,
    /// The caller's, and where it is seen that it is good no more.
    token: Option<(Arc<Token>, Access)>,
    /// What has been answered: a token that was revoked may come back, but not the session's time to end.
    answered: Arc<OnceLock<Due>>,
}

/// Why a session shall end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The server stops.
    Stopping,
    /// The session has lasted as long as it may.
    TooLong,
    /// The token that it was opened with is not good any more.
    Revoked,
}

impl Ending {
    fn new(app: &App, caller: &Caller) -> Self {
        let limits = [app.options.max_session, caller.token().and_then(|token| token.limits.session)];
        let limit = limits.into_iter().flatten().min();
        Self {
            shutdown: app.shutdown.clone(),
            until: limit.and_then(|limit| Instant::now().checked_add(limit)),
            token: caller.token().map(|token| (Arc::clone(token), app.options.access.clone())),
            answered: Arc::default(),
        }
    }

    /// Waits until the session shall end. Cancel safe; once it has answered it always gives that answer, at once.
    pub(super) async fn due(&self) -> Due {
        if let Some(due) = self.answered.get() {
            return *due;
        }
        let too_long = async {
            match self.until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => pending().await,
            }
        };
        let revoked = async {
            match &self.token {
                Some((token, access)) => access.revoked(token).await,
                None => pending().await,
            }
        };
        let due = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Due::Stopping,
            () = revoked => Due::Revoked,
            () = too_long => Due::TooLong,
        };
        *self.answered.get_or_init(|| due)
    }
}

impl App {
    /// Takes a slot for the stream of a session.
    ///
    /// # Errors
    /// As [`crate::asr::engine::Engine::open`]; [`SttError::TokenBusy`] when the caller's token has used up its share.
    pub(super) fn open(
        &self,
        session: &str,
        protocol: Protocol,
        caller: &Caller,
        options: StreamOptions,
    ) -> Result<Live, SttError> {
        let opened = self.take(caller, options)?;
        let tally = self.tally(session, protocol, caller);
        Ok(self.live(session, caller, &tally, opened))
    }

    /// Takes a slot for each of the streams of a session that has several.
    ///
    /// # Errors
    /// As [`App::open`]; then none is taken.
    pub(super) fn open_all(
        &self,
        session: &str,
        protocol: Protocol,
        caller: &Caller,
        options: &StreamOptions,
        streams: usize,
    ) -> Result<Vec<Live>, SttError> {
        let opened: Vec<Opened> =
            (0..streams).map(|_| self.take(caller, options.clone())).collect::<Result<_, _>>()?;
        let tally = self.tally(session, protocol, caller);
        let several = opened.len() > 1;
        let next = Arc::new(AtomicU64::new(0));
        let lives = opened.into_iter().enumerate().map(|(channel, opened)| {
            let mut live = self.live(session, caller, &tally, opened);
            live.output.channel = several.then(|| (channel, Arc::clone(&next)));
            live
        });
        Ok(lives.collect())
    }

    fn take(&self, caller: &Caller, options: StreamOptions) -> Result<Opened, SttError> {
        let opened = self.share(caller).and_then(|quota| Ok((quota, self.engine.open(options)?)));
        opened.inspect_err(|error| self.metrics.stream_error(error.code()))
    }

    fn tally(&self, session: &str, protocol: Protocol, caller: &Caller) -> Arc<Tally> {
        let token = caller.token().map(|token| token.name.as_str());
        Arc::new(Tally::new(session, protocol, token, self.metrics.clone()))
    }

    fn live(&self, session: &str, caller: &Caller, tally: &Arc<Tally>, opened: Opened) -> Live {
        let (quota, Stream { input, output, model }) = opened;
        let meter = Arc::new(Meter::new(Arc::clone(tally)));
        let gauge = input.gauge();
        let input = Arc::new(input);
        self.metrics.watch(Arc::downgrade(&input));
        let ending = Ending::new(self, caller);
        let output = LiveOutput {
            stream: output,
            session: session.to_owned(),
            model: Arc::clone(&model),
            tap: self.options.tap.clone(),
            meter: Arc::clone(&meter),
            channel: None,
            _quota: quota,
        };
        let input = LiveInput { stream: Some(input), meter: Arc::clone(&meter) };
        Live { input, output, meter, model, ending, gauge }
    }

    /// Counts one stream (or one upload) more for the caller's token, until what it gives is dropped.
    ///
    /// # Errors
    /// [`SttError::TokenBusy`] when the token has used up its share.
    pub(super) fn share(&self, caller: &Caller) -> Result<Option<Quota>, SttError> {
        let Some(token) = caller.token() else { return Ok(None) };
        let quota = self.quotas.take(token, self.options.max_sessions_per_token);
        quota.map(Some).map_err(|limit| SttError::TokenBusy { limit })
    }
}

impl LiveInput {
    fn stream(&self) -> Result<&StreamInput, SttError> {
        self.stream.as_deref().ok_or(SttError::Closed)
    }

    /// As [`StreamInput::push`].
    pub(super) async fn push(&self, samples: &[f32]) -> Result<(), SttError> {
        self.meter.arrived(samples.len(), std::time::Instant::now());
        let pushed = match self.stream() {
            Ok(stream) => stream.push(samples).await,
            Err(closed) => Err(closed),
        };
        if pushed.is_err() {
            self.meter.lost(samples.len() as u64, "refused");
        }
        pushed
    }

    /// As [`StreamInput::configure`].
    pub(super) async fn configure(&self, options: StreamOptions) -> Result<(), SttError> {
        self.stream()?.configure(options).await
    }

    /// As [`StreamInput::flush`].
    pub(super) async fn flush(&self) -> Result<(), SttError> {
        self.stream()?.flush().await
    }

    /// As [`StreamInput::marker`].
    pub(super) async fn marker(&self, name: String) -> Result<(), SttError> {
        self.stream()?.marker(name).await
    }

    /// As [`StreamInput::end`].
    pub(super) async fn end(mut self) -> Result<(), SttError> {
        match self.stream.take().and_then(Arc::into_inner) {
            Some(stream) => stream.end().await,
            // Somebody reads its length this very moment; when they are done it is dropped, which ends it as well.
            None => Ok(()),
        }
    }
}

impl Drop for LiveInput {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            // The client went without an end. What the engine has not taken yet may still be heard, by nobody.
            self.meter.lost(stream.queued(), "abandoned");
        }
    }
}

impl LiveOutput {
    /// As [`StreamOutput::next`]; finished utterances also go to the tap.
    pub(super) async fn next(&mut self) -> Option<StreamEvent> {
        let event = self.stream.next().await;
        if let Some(event) = &event {
            self.meter.observe(event, std::time::Instant::now());
        }
        if let (Some(tap), Some(StreamEvent::UtteranceEnded(utterance))) = (&self.tap, &event) {
            let mut spoken = Spoken::new(&self.session, &self.model.name, utterance);
            if let Some((channel, next)) = &self.channel {
                spoken.speaker = Some(channel_name(*channel));
                spoken.utterance.index = next.fetch_add(1, Ordering::Relaxed);
            }
            tap.offer(spoken);
        }
        event
    }
}

/// What speakers that are heard apart are called, where nothing else is known of them.
pub(super) fn channel_name(channel: usize) -> String {
    format!("channel {channel}")
}

#[cfg(test)]
mod tests {
    use super::{
        super::{NewToken, Tokens},
        *,
    };

    #[tokio::test]
    async fn a_session_ends_for_its_first_reason_although_that_is_taken_back() {
        let new = NewToken::generate().unwrap();
        let tokens = || Tokens::parse(&new.entry("kiosk", None, None).unwrap()).unwrap();
        let access = Access::new(tokens());
        let shutdown = Shutdown::new();
        let ending = Ending {
            shutdown: shutdown.clone(),
            until: None,
            token: Some((access.current().find(new.expose()).unwrap(), access.clone())),
            answered: Arc::default(),
        };
        assert!(futures_util::poll!(std::pin::pin!(ending.due())).is_pending());
        access.replace(Tokens::default().always_asked());
        assert_eq!(ending.due().await, Due::Revoked);
        access.replace(tokens());
        shutdown.cancel();
        assert_eq!((ending.due().await, ending.clone().due().await), (Due::Revoked, Due::Revoked));
    }
}
