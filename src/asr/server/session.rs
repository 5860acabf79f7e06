//! One websocket session: three loops in one task, so that none waits for another.
//!
//! - [`read()`] takes frames and pushes their audio into the engine, waiting as long as the engine's inbox is
//!   full: a fast sender is slowed by its own socket, and nothing is lost.
//! - [`listen`] takes the engine's events into the transcript. It never waits for the socket except to put out one of
//!   a few replies (markers, errors), so a slow reader costs one transcript and not a queue of states.
//! - [`write()`] sends the newest state whenever the socket takes one, the replies in their order, and pings.
//!
//! The session ends when the first of them says so; dropping the engine's stream then frees the slot.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::{
    Sink, SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, sleep, sleep_until, timeout, timeout_at},
};
use tracing::{debug, info, warn};

use super::{
    board::{Board, text},
    intake::{Intake, IntakeError},
    listen::App,
};
use crate::asr::{
    SttError,
    engine::{Stream, StreamOutput},
    protocols::native::{
        BAD_PARAMETERS, CLOSE_BAD_PARAMETERS, Config, Tagged, control::Control, transcript::Detail,
    },
    stream::StreamEvent,
};

/// The client may close now.
const CLOSE_NORMAL: u16 = 1000;
/// The server is stopping.
const CLOSE_GOING_AWAY: u16 = 1001;
/// A message was larger than the server takes.
const CLOSE_TOO_LARGE: u16 = 1009;
/// The engine failed.
const CLOSE_INTERNAL: u16 = 1011;
/// Every slot is taken.
const CLOSE_TRY_AGAIN: u16 = 1013;
/// The client said nothing for too long; after HTTP's 408.
const CLOSE_IDLE: u16 = 4408;

/// Replies that wait for the socket; a client that asks for more without reading them is not read from.
const REPLIES: usize = 32;
/// How long the peer may take to answer a close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// A session that has its slot.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) app: Arc<App>,
    pub(super) stream: Stream,
    pub(super) config: Config,
    pub(super) detail: Detail,
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
    close(&mut sink, &mut source, Over::Closing { error: Some(error), code, reason }).await;
}

/// How a session ends.
#[derive(Debug)]
enum Over {
    /// The client closed, or vanished.
    PeerGone(&'static str),
    /// The server closes.
    Closing { error: Option<Tagged>, code: u16, reason: &'static str },
}

impl Over {
    fn internal(error: &SttError) -> Self {
        let error = Some(say_error(&error.to_string(), error.code()));
        Self::Closing { error, code: CLOSE_INTERNAL, reason: "internal error" }
    }

    const fn going_away() -> Self {
        Self::Closing { error: None, code: CLOSE_GOING_AWAY, reason: "the server is stopping" }
    }
}

/// What goes out besides states, in order.
#[derive(Debug)]
enum Reply {
    Error(Tagged),
    Marker(String),
    /// Everything has been said.
    Ended,
}

impl Session {
    /// Runs until the client has gone, or the server closes.
    pub(super) async fn run(self, socket: WebSocket) {
        let Self { app, stream, config, detail } = self;
        info!(language = config.language, task = %config.task, "session opened");
        let opened = Instant::now();
        let Stream { input, output, model: _ } = stream;
        let (mut sink, mut source) = socket.split();
        let board = Board::new(detail, app.options.retention_lines);
        let (replies, queue) = mpsc::channel(REPLIES);
        let intake = Intake::new(input, Arc::clone(&board.received), app.shutdown.clone());
        // Whichever ends first ends the others where they stand: reading half a message or sending half a state is
        // over with the session, and the engine's stream is cancelled by being dropped.
        let over = tokio::select! {
            biased;
            () = app.cut.cancelled() => Over::going_away(),
            over = read(&app, &mut source, intake, &board, &replies) => over,
            over = write(&app, &mut sink, &config, &board, queue) => over,
            over = listen(&app, &config, output, &board, &replies) => over,
        };
        let (audio_s, lines) = (board.received_s(), board.line_count());
        let ended = match &over {
            Over::PeerGone(how) => *how,
            Over::Closing { reason, .. } => reason,
        };
        close(&mut sink, &mut source, over).await;
        let open_s = opened.elapsed().as_secs_f64();
        info!(audio_s, lines, open_s, ended, "session closed");
    }
}

/// Takes frames until the client goes, breaks a limit, or falls silent.
async fn read(
    app: &App,
    source: &mut SplitStream<WebSocket>,
    intake: Intake,
    board: &Board,
    replies: &mpsc::Sender<Reply>,
) -> Over {
    let options = &app.options;
    // A ping may be lost in a burst of traffic; two in a row are not.
    let dead_after = options.ping_interval.mul_f32(2.5);
    let mut intake = Some(intake);
    let mut used = Instant::now();
    loop {
        let idle_at = used + options.idle_timeout;
        let dead_at = Instant::now() + dead_after;
        // Once the audio has ended, the server speaks and the client may be silent.
        let until = if intake.is_some() { dead_at.min(idle_at) } else { dead_at };
        let next = tokio::select! {
            biased;
            // What was received so far is decoded; then `write` says goodbye.
            () = app.shutdown.cancelled(), if intake.is_some() => {
                end(&mut intake, board).await;
                continue;
            }
            // Cancel safe: a frame is given whole or stays in the socket.
            next = timeout_at(until, source.next()) => next,
        };
        let message = match next {
            Err(_elapsed) if intake.is_some() && Instant::now() >= idle_at => {
                let error = "nothing was sent for too long; send audio, or {\"type\":\"keepalive\"} while there is none";
                let error = Some(say_error(error, "idle"));
                return Over::Closing { error, code: CLOSE_IDLE, reason: "idle timeout" };
            }
            Err(_elapsed) => return Over::PeerGone("the peer answers no ping"),
            Ok(None) => return Over::PeerGone("the connection ended"),
            Ok(Some(Err(error))) => return broken(&error),
            Ok(Some(Ok(message))) => message,
        };
        match message {
            Message::Close(_) => return Over::PeerGone("the client closed"),
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Binary(bytes) if bytes.len() > options.max_message_bytes => return too_large(options),
            Message::Text(text) if text.len() > options.max_message_bytes => return too_large(options),
            Message::Binary(bytes) if bytes.is_empty() => end(&mut intake, board).await,
            Message::Binary(bytes) => audio(&mut intake, &bytes, board).await,
            Message::Text(text) => {
                if let Err(error) = control(&mut intake, &text, board).await
                    && replies.send(Reply::Error(error)).await.is_err()
                {
                    return Over::PeerGone("nothing can be sent any more");
                }
            }
        }
        used = Instant::now();
    }
}

fn too_large(options: &super::ServerOptions) -> Over {
    let error =
        format!("a message may have {} bytes at most; send audio in smaller ones", options.max_message_bytes);
    let error = Some(say_error(&error, "message_too_large"));
    Over::Closing { error, code: CLOSE_TOO_LARGE, reason: "message too large" }
}

fn broken(error: &axum::Error) -> Over {
    use tokio_tungstenite::tungstenite::Error;
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Error>());
    debug!(%error, "the connection broke");
    match cause {
        Some(Error::Capacity(_)) => {
            let error = Some(say_error(
                "the message is far too large; send audio in smaller ones",
                "message_too_large",
            ));
            Over::Closing { error, code: CLOSE_TOO_LARGE, reason: "message too large" }
        }
        _ => Over::PeerGone("the connection broke"),
    }
}

/// Hands a frame of audio to the engine; waits while that is full. After the end of the audio it is ignored.
async fn audio(intake: &mut Option<Intake>, bytes: &[u8], board: &Board) {
    let Some(open) = intake else {
        debug!(bytes = bytes.len(), "audio after its end was ignored");
        return;
    };
    board.audio_arrived();
    match open.push(bytes).await {
        Ok(()) => {}
        // The engine ended the stream; `listen` says why.
        Err(IntakeError::Stream(_)) => *intake = None,
        Err(error) => {
            // What was decoded before the damage is still transcribed.
            board.fail(error.to_string());
            end(intake, board).await;
        }
    }
}

/// Ends the audio; everything received is still decoded.
async fn end(intake: &mut Option<Intake>, board: &Board) {
    let Some(open) = intake.take() else { return };
    match open.end().await {
        Ok(()) | Err(IntakeError::Stream(_)) => {}
        Err(error) => board.fail(error.to_string()),
    }
}

async fn control(intake: &mut Option<Intake>, text: &str, board: &Board) -> Result<(), Tagged> {
    let control = Control::parse(text).map_err(|error| say_error(&error.to_string(), "bad_message"))?;
    match (control, intake.as_ref()) {
        (Control::KeepAlive, _) => Ok(()),
        (Control::End, _) => {
            end(intake, board).await;
            Ok(())
        }
        (Control::Flush | Control::Marker(_), None) => Err(say_error("the audio has already ended", "ended")),
        (Control::Flush, Some(open)) => {
            open.flush().await.map_err(|error| say_error(&error.to_string(), error.code()))
        }
        (Control::Marker(name), Some(open)) => {
            open.marker(name).await.map_err(|error| say_error(&error.to_string(), error.code()))
        }
    }
}

/// Takes the engine's events into the transcript; ends only when the engine did.
async fn listen(
    app: &App,
    config: &Config,
    mut output: StreamOutput,
    board: &Board,
    replies: &mpsc::Sender<Reply>,
) -> Over {
    while let Some(event) = output.next().await {
        board.apply(&event);
        // `write` holds the other end for as long as this runs.
        match event {
            StreamEvent::Marker(name) => drop(replies.send(Reply::Marker(name)).await),
            StreamEvent::Ended { .. } => {
                drop(replies.send(Reply::Ended).await);
                std::future::pending::<Infallible>().await;
            }
            StreamEvent::UtteranceEnded(utterance) => {
                if let Some(tap) = &app.options.tap {
                    tap.offer(&config.session, &config.model, &utterance);
                }
            }
            StreamEvent::Hypothesis { .. }
            | StreamEvent::Failed { .. }
            | StreamEvent::SpeechStarted { .. } => {}
        }
    }
    warn!("the engine ended before the stream");
    Over::internal(&SttError::Unavailable("it has stopped".to_owned()))
}

/// Sends the config, then the newest state and the replies, until everything is said and the client had time to close.
async fn write(
    app: &App,
    sink: &mut SplitSink<WebSocket, Message>,
    config: &Config,
    board: &Board,
    mut queue: mpsc::Receiver<Reply>,
) -> Over {
    match write_all(app, sink, config, board, &mut queue).await {
        Err(over) => over,
        Ok(()) => {
            tokio::select! {
                biased;
                () = app.shutdown.cancelled() => Over::going_away(),
                () = sleep(app.options.linger) => Over::Closing { error: None, code: CLOSE_NORMAL, reason: "everything was said" },
            }
        }
    }
}

async fn write_all(
    app: &App,
    sink: &mut SplitSink<WebSocket, Message>,
    config: &Config,
    board: &Board,
    queue: &mut mpsc::Receiver<Reply>,
) -> Result<(), Over> {
    let options = &app.options;
    let mut out = Out { sink, send_timeout: options.send_timeout };
    out.send(text(&Tagged::Config(Box::new(config.clone())))).await?;
    out.send_state(board).await?;
    let mut next_state = Instant::now() + options.update_interval;
    let mut ping = tokio::time::interval_at(Instant::now() + options.ping_interval, options.ping_interval);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // All three are cancel safe; what they bring is sent outside of the select.
        let reply = tokio::select! {
            reply = queue.recv() => reply,
            () = board.changed.notified() => {
                sleep_until(next_state).await;
                out.send_state(board).await?;
                next_state = Instant::now() + options.update_interval;
                continue;
            }
            _ = ping.tick() => {
                out.send(Message::Ping(Default::default())).await?;
                continue;
            }
        };
        match reply {
            Some(Reply::Error(error)) => out.send(text(&error)).await?,
            // The words before the marker must not arrive after it.
            Some(Reply::Marker(name)) => {
                out.send_state(board).await?;
                out.send(text(&Tagged::Marker { name })).await?;
            }
            Some(Reply::Ended) | None => {
                // Said again even if nothing changed: the last state before the end is the whole transcript.
                board.repeat();
                out.send_state(board).await?;
                return out.send(text(&Tagged::ReadyToStop)).await;
            }
        }
    }
}

/// The way out, with a limit on how long a peer may refuse to take anything.
struct Out<'a, S> {
    sink: &'a mut S,
    send_timeout: Duration,
}

impl<S: Sink<Message> + Unpin> Out<'_, S> {
    async fn send(&mut self, message: Message) -> Result<(), Over> {
        match timeout(self.send_timeout, self.sink.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Over::PeerGone("the connection broke")),
            Err(_elapsed) => Err(Over::PeerGone("the peer reads nothing")),
        }
    }

    async fn send_state(&mut self, board: &Board) -> Result<(), Over> {
        match board.take() {
            Some(message) => self.send(message).await,
            None => Ok(()),
        }
    }
}

/// Says goodbye and waits a moment for the answer: a socket that is closed with unread data in it is reset, and the
/// peer would lose the reason.
async fn close(sink: &mut SplitSink<WebSocket, Message>, source: &mut SplitStream<WebSocket>, over: Over) {
    let goodbye = async {
        match over {
            Over::PeerGone(_) => drop(sink.close().await),
            Over::Closing { error, code, reason } => {
                if let Some(error) = error {
                    sink.feed(text(&error)).await?;
                }
                sink.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await?;
                while let Some(Ok(message)) = source.next().await {
                    if matches!(message, Message::Close(_)) {
                        break;
                    }
                }
            }
        }
        Ok::<_, axum::Error>(())
    };
    if !matches!(timeout(CLOSE_WAIT, goodbye).await, Ok(Ok(()))) {
        debug!("the peer did not take part in the close");
    }
}
