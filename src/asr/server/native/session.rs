//! One websocket session: three loops in one task, so that none waits for another.
//!
//! - [`Client::read`] takes frames and pushes their audio into the engine, waiting as long as the engine's inbox is
//!   full: a fast sender is slowed by its own socket, and nothing is lost.
//! - [`listen`] takes the engine's events into the transcript. It never waits for the socket except to put out one of
//!   a few replies (markers, errors), so a slow reader costs one transcript and not a queue of states.
//! - [`write()`] sends the newest state whenever the socket takes one, the replies in their order, and pings.
//!
//! The session ends when the first of them says so; dropping the engine's stream then frees the slot.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::extract::ws::{Message, WebSocket};
use futures_util::StreamExt as _;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, sleep, sleep_until, timeout_at},
};
use tracing::{debug, info, warn};

use super::{
    super::{
        ServerOptions,
        intake::{Intake, IntakeError},
        listen::App,
        live::{Due, Ending, Live, LiveOutput},
        socket::{
            CLOSE_INTERNAL, CLOSE_NORMAL, CLOSE_POLICY, CLOSE_TOO_LARGE, CLOSE_TRY_AGAIN, Out, Over, WsSink,
            WsSource, close, text,
        },
    },
    board::Board,
    wishes::Wishes,
};
use crate::asr::{
    ModelInfo, SttError,
    protocols::{
        native::{BAD_PARAMETERS, CLOSE_BAD_PARAMETERS, Config, Tagged, control::Control},
        parameter::BadParameter,
    },
    stream::StreamEvent,
};

/// The client said nothing for too long; after HTTP's 408.
const CLOSE_IDLE: u16 = 4408;

/// Replies that wait for the socket; a client that asks for more without reading them is not read from.
const REPLIES: usize = 32;
/// How often a client is told that the engine is behind, when there are no new words.
const LAG_INTERVAL: Duration = Duration::from_secs(1);

/// A session that has its slot.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) app: Arc<App>,
    pub(super) live: Live,
    pub(super) wishes: Wishes,
}

/// Why a session gets no slot, as its client is told.
#[derive(Debug)]
pub(super) struct Refusal {
    error: Tagged,
    code: u16,
    reason: &'static str,
}

impl From<SttError> for Refusal {
    fn from(error: SttError) -> Self {
        let (code, reason) = match &error {
            SttError::BadRequest(_) => (CLOSE_BAD_PARAMETERS, BAD_PARAMETERS),
            error if error.is_retryable() => (CLOSE_TRY_AGAIN, "try again later"),
            _ => (CLOSE_INTERNAL, "internal error"),
        };
        let error = Tagged::Error {
            error: error.to_string(),
            code: error.code().to_owned(),
            retry_after: error.retry_after().map(|wait| wait.as_secs()),
        };
        Self { error, code, reason }
    }
}

fn say_error(error: &str, code: &str) -> Tagged {
    Tagged::Error { error: error.to_owned(), code: code.to_owned(), retry_after: None }
}

/// Tells a client why it gets no session, and closes.
pub(super) async fn refuse(socket: WebSocket, refusal: Refusal) {
    let (mut sink, mut source) = socket.split();
    let Refusal { error, code, reason } = refusal;
    close(&mut sink, &mut source, Over::Closing { last: Some(text(&error)), code, reason }).await;
}

fn internal(error: &SttError) -> Over {
    let last = Some(text(&say_error(&error.to_string(), error.code())));
    Over::Closing { last, code: CLOSE_INTERNAL, reason: "internal error" }
}

/// After the last words, when the server wants the session to end.
fn due(due: Due) -> Over {
    match due {
        Due::Stopping => Over::going_away(),
        Due::TooLong => {
            let error = "the session has lasted as long as it may; open another one to go on";
            let last = Some(text(&say_error(error, "session_too_long")));
            Over::Closing { last, code: CLOSE_POLICY, reason: "the session was too long" }
        }
        Due::Revoked => {
            let error =
                "the token of this session is not good any more; ask whoever runs the server for another one";
            let last = Some(text(&say_error(error, "token_revoked")));
            Over::Closing { last, code: CLOSE_POLICY, reason: "the token was revoked" }
        }
    }
}

/// What goes out besides states, in order.
#[derive(Debug)]
enum Reply {
    Error(Tagged),
    /// Other options are in force.
    Config(Box<Config>),
    Marker(String),
    /// Everything has been said.
    Ended,
}

impl Session {
    /// Runs until the client has gone, or the server closes.
    pub(super) async fn run(self, socket: WebSocket) {
        let Self { app, live, wishes } = self;
        let config = wishes.config(&app, &live.model);
        info!(language = config.language, task = %config.task, "session opened");
        let Live { input, output, meter, model, ending, gauge } = live;
        let (mut sink, mut source) = socket.split();
        let board = Board::new(wishes.view(&app), Arc::clone(&meter), gauge);
        let (replies, queue) = mpsc::channel(REPLIES);
        let intake = Intake::new(input, app.shutdown.clone());
        let client =
            Client { app: &app, board: &board, model: &model, wishes, intake: Some(intake), ending: &ending };
        // Whichever ends first ends the others where they stand: reading half a message or sending half a state is
        // over with the session, and the engine's stream is cancelled by being dropped.
        let over = tokio::select! {
            biased;
            () = app.cut.cancelled() => Over::going_away(),
            over = client.read(&mut source, &replies) => over,
            over = write(&app, &mut sink, config, &board, queue, &ending) => over,
            over = listen(output, &board, &replies) => over,
        };
        meter.ended(over.reason());
        close(&mut sink, &mut source, over).await;
    }
}

/// What a client sends, and where it goes.
struct Client<'a> {
    app: &'a App,
    board: &'a Board,
    model: &'a ModelInfo,
    wishes: Wishes,
    /// None once the audio has ended.
    intake: Option<Intake>,
    ending: &'a Ending,
}

impl Client<'_> {
    /// Takes frames until the client goes, breaks a limit, or falls silent.
    async fn read(mut self, source: &mut WsSource, replies: &mpsc::Sender<Reply>) -> Over {
        let options = &self.app.options;
        // A ping may be lost in a burst of traffic; two in a row are not.
        let dead_after = options.ping_interval.mul_f32(2.5);
        let mut used = Instant::now();
        loop {
            let idle_at = used + options.idle_timeout;
            let dead_at = Instant::now() + dead_after;
            // Once the audio has ended, the server speaks and the client may be silent.
            let until = if self.intake.is_some() { dead_at.min(idle_at) } else { dead_at };
            let next = tokio::select! {
                biased;
                // What was received so far is decoded; then `write` says goodbye.
                _ = self.ending.due(), if self.intake.is_some() => {
                    self.end().await;
                    continue;
                }
                // Cancel safe: a frame is given whole or stays in the socket.
                next = timeout_at(until, source.next()) => next,
            };
            let message = match next {
                Err(_elapsed) if self.intake.is_some() && Instant::now() >= idle_at => {
                    let error = "nothing was sent for too long; send audio, or {\"type\":\"keepalive\"} while there is none";
                    let last = Some(text(&say_error(error, "idle")));
                    return Over::Closing { last, code: CLOSE_IDLE, reason: "idle timeout" };
                }
                Err(_elapsed) => return Over::PeerGone("the peer answers no ping"),
                Ok(None) => return Over::PeerGone("the connection ended"),
                Ok(Some(Err(error))) => return broken(&error),
                Ok(Some(Ok(message))) => message,
            };
            match message {
                Message::Close(_) => return Over::PeerGone("the client closed"),
                Message::Ping(_) | Message::Pong(_) => continue,
                Message::Binary(bytes) if bytes.len() > options.max_message_bytes => {
                    return too_large(options);
                }
                Message::Text(text) if text.len() > options.max_message_bytes => return too_large(options),
                Message::Binary(bytes) if bytes.is_empty() => self.end().await,
                Message::Binary(bytes) => self.audio(&bytes).await,
                Message::Text(text) => {
                    let reply = match self.control(&text).await {
                        Ok(None) => Ok(()),
                        Ok(Some(config)) => replies.send(Reply::Config(config)).await,
                        Err(error) => replies.send(Reply::Error(error)).await,
                    };
                    if reply.is_err() {
                        return Over::PeerGone("nothing can be sent any more");
                    }
                }
            }
            used = Instant::now();
        }
    }

    /// Hands a frame of audio to the engine; waits while that is full. After the end of the audio it is ignored.
    async fn audio(&mut self, bytes: &[u8]) {
        let Some(open) = &mut self.intake else {
            debug!(bytes = bytes.len(), "audio after its end was ignored");
            return;
        };
        self.board.audio_arrived();
        match open.push(bytes).await {
            Ok(()) => {}
            // The engine ended the stream; `listen` says why.
            Err(IntakeError::Stream(_)) => self.intake = None,
            Err(error) => {
                // What was decoded before the damage is still transcribed.
                self.board.fail(error.to_string());
                self.end().await;
            }
        }
    }

    /// Ends the audio; everything received is still decoded.
    async fn end(&mut self) {
        let Some(open) = self.intake.take() else { return };
        match open.end().await {
            Ok(()) | Err(IntakeError::Stream(_)) => {}
            Err(error) => self.board.fail(error.to_string()),
        }
    }

    /// Does what a text frame asks for; gives what is in force then, if that has changed.
    async fn control(&mut self, text: &str) -> Result<Option<Box<Config>>, Tagged> {
        let refused = |error: SttError| say_error(&error.to_string(), error.code());
        let control = Control::parse(text).map_err(|error| say_error(&error.to_string(), "bad_message"))?;
        let open = match (&mut self.intake, &control) {
            (Some(open), _) => open,
            (None, Control::KeepAlive | Control::End) => return Ok(None),
            (None, Control::Flush | Control::Marker(_) | Control::Config(_)) => {
                return Err(say_error("the audio has already ended", "ended"));
            }
        };
        match control {
            Control::KeepAlive => {}
            Control::End => self.end().await,
            Control::Flush => {
                open.settle().await.map_err(refused)?;
                open.flush().await.map_err(refused)?;
            }
            Control::Marker(name) => {
                open.settle().await.map_err(refused)?;
                open.marker(name).await.map_err(refused)?;
            }
            Control::Config(_) if self.board.has_audio() => {
                let error = "options are fixed once audio has arrived; send config before the first audio, or open another session";
                return Err(say_error(error, "too_late"));
            }
            Control::Config(pairs) => {
                let bad = |error: BadParameter| say_error(&error.to_string(), "bad_request");
                let wishes = self.wishes.amended(pairs, self.model).map_err(bad)?;
                open.configure(wishes.options(self.app)).await.map_err(refused)?;
                self.board.restart(wishes.view(self.app));
                self.wishes = wishes;
                return Ok(Some(Box::new(self.wishes.config(self.app, self.model))));
            }
        }
        Ok(None)
    }
}

fn too_large(options: &ServerOptions) -> Over {
    let error =
        format!("a message may have {} bytes at most; send audio in smaller ones", options.max_message_bytes);
    let last = Some(text(&say_error(&error, "message_too_large")));
    Over::Closing { last, code: CLOSE_TOO_LARGE, reason: "message too large" }
}

fn broken(error: &axum::Error) -> Over {
    Over::broken(error, || {
        text(&say_error("the message is far too large; send audio in smaller ones", "message_too_large"))
    })
}

/// Takes the engine's events into the transcript; ends only when the engine did.
async fn listen(mut output: LiveOutput, board: &Board, replies: &mpsc::Sender<Reply>) -> Over {
    while let Some(event) = output.next().await {
        board.apply(&event);
        // `write` holds the other end for as long as this runs.
        match event {
            StreamEvent::Marker(name) => drop(replies.send(Reply::Marker(name)).await),
            StreamEvent::Ended { .. } => {
                drop(replies.send(Reply::Ended).await);
                std::future::pending::<Infallible>().await;
            }
            StreamEvent::UtteranceEnded(_)
            | StreamEvent::Hypothesis { .. }
            | StreamEvent::Failed { .. }
            | StreamEvent::SpeechStarted { .. } => {}
        }
    }
    warn!("the engine ended before the stream");
    internal(&SttError::Unavailable("it has stopped".to_owned()))
}

/// Sends the config, then the newest state and the replies, until everything is said and the client had time to close.
async fn write(
    app: &App,
    sink: &mut WsSink,
    config: Config,
    board: &Board,
    mut queue: mpsc::Receiver<Reply>,
    ending: &Ending,
) -> Over {
    match write_all(app, sink, config, board, &mut queue).await {
        Err(over) => over,
        Ok(()) => {
            tokio::select! {
                biased;
                ended = ending.due() => due(ended),
                () = sleep(app.options.linger) => Over::Closing { last: None, code: CLOSE_NORMAL, reason: "everything was said" },
            }
        }
    }
}

async fn write_all(
    app: &App,
    sink: &mut WsSink,
    config: Config,
    board: &Board,
    queue: &mut mpsc::Receiver<Reply>,
) -> Result<(), Over> {
    let options = &app.options;
    let mut out = Out { sink, send_timeout: options.send_timeout };
    out.send(text(&Tagged::Config(Box::new(config)))).await?;
    send_state(&mut out, board).await?;
    let mut next_state = Instant::now() + options.update_interval;
    let mut ping = tokio::time::interval_at(Instant::now() + options.ping_interval, options.ping_interval);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut lag = tokio::time::interval_at(Instant::now() + LAG_INTERVAL, LAG_INTERVAL);
    lag.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // All are cancel safe; what they bring is sent outside of the select.
        let reply = tokio::select! {
            reply = queue.recv() => reply,
            () = board.changed.notified() => {
                sleep_until(next_state).await;
                send_state(&mut out, board).await?;
                next_state = Instant::now() + options.update_interval;
                continue;
            }
            _ = lag.tick() => {
                if board.lags() {
                    board.repeat();
                    send_state(&mut out, board).await?;
                }
                continue;
            }
            _ = ping.tick() => {
                out.send(Message::Ping(Default::default())).await?;
                continue;
            }
        };
        match reply {
            Some(Reply::Error(error)) => out.send(text(&error)).await?,
            Some(Reply::Config(config)) => {
                out.send(text(&Tagged::Config(config))).await?;
                board.repeat();
                send_state(&mut out, board).await?;
            }
            // The words before the marker must not arrive after it.
            Some(Reply::Marker(name)) => {
                send_state(&mut out, board).await?;
                out.send(text(&Tagged::Marker { name })).await?;
            }
            Some(Reply::Ended) | None => {
                // Said again even if nothing changed: the last state before the end is the whole transcript.
                board.repeat();
                send_state(&mut out, board).await?;
                return out.send(text(&Tagged::ReadyToStop)).await;
            }
        }
    }
}

async fn send_state(out: &mut Out<'_, WsSink>, board: &Board) -> Result<(), Over> {
    match board.take() {
        Some(message) => out.send(message).await,
        None => Ok(()),
    }
}
