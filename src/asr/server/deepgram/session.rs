//! One websocket session: three loops in one task, so that none waits for another.
//!
//! - `Reader::read` takes frames and pushes their audio into the engine, waiting as long as the engine's inbox is full: a
//!   fast sender is slowed by its own socket, and nothing is lost.
//! - `listen` makes messages of what the engine says, for all channels at once. Where the queue of messages is half
//!   full, what may still change is left out; what is final waits.
//! - `write` sends them, and pings.
//!
//! However a session ends on this side (asked for, silent for too long, broken, stopped), the words that were received
//! are said first. The session ends when the first loop says so; dropping the engine's streams then frees the slots.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::extract::ws::{Message, WebSocket};
use futures_util::{StreamExt as _, future::try_join_all};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, timeout_at},
};
use tracing::{debug, info, warn};

use super::super::{
    intake::{Announced, ClockMarks, Containers, Intake, IntakeError, Raw},
    listen::App,
    live::{self, Due, Live, LiveInput, LiveOutput, Meter},
    socket::{
        CLOSE_GOING_AWAY, CLOSE_INTERNAL, CLOSE_NORMAL, CLOSE_POLICY, CLOSE_TOO_LARGE, CLOSE_TRY_AGAIN, Out,
        Over, WsSink, WsSource, close, text,
    },
};
use crate::{
    asr::{
        SttError,
        protocols::deepgram::{
            CLOSE_BAD_REQUEST, ErrorKind, ErrorMessage, ServerMessage,
            control::Control,
            emitter::{Emitter, Mark, Rules},
            letterhead::{self, Letterhead},
            options::{Encoding, Options},
        },
        stream::{Policy, StreamEvent, samples_of_ms, seconds},
    },
    audio::{AudioError, split::Mixing},
};

/// The audio is not what was announced; RFC 6455's policy violation, which Deepgram uses for it.
const CLOSE_BAD_AUDIO: u16 = 1008;
/// A session in which nothing is sent for so long is closed.
const SILENT_FOR: Duration = Duration::from_secs(30);
/// Messages that wait for the socket.
const QUEUE: usize = 64;
/// How finely the clock of the audio is followed while nobody speaks.
const CLOCK_MS: u64 = 100;

/// A session that has its slots.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) app: Arc<App>,
    /// One for each channel that has results of its own.
    pub(super) lives: Vec<Live>,
    pub(super) options: Options,
    pub(super) head: Letterhead,
}

/// Tells a client why it gets no session, and closes.
pub(super) async fn refuse(socket: WebSocket, request_id: &str, error: &SttError) {
    let (mut sink, mut source) = socket.split();
    let (kind, code, reason) = match error {
        SttError::BadRequest(_) => {
            (ErrorKind::BadParameters, CLOSE_BAD_REQUEST, "invalid session parameters")
        }
        error if error.is_retryable() => (ErrorKind::TooManyRequests, CLOSE_TRY_AGAIN, "try again later"),
        _ => (ErrorKind::InternalError, CLOSE_INTERNAL, "internal error"),
    };
    let last = Some(text(&letterhead::error(request_id, kind, error.to_string())));
    close(&mut sink, &mut source, Over::Closing { last, code, reason }).await;
}

/// Why the audio is over.
#[derive(Debug)]
enum Ending {
    /// The client asked for it.
    Asked,
    /// The server is stopping.
    Stopping,
    /// The client did what it should not have.
    Refused { kind: ErrorKind, description: String, code: u16, reason: &'static str },
}

impl Ending {
    fn bad_audio(error: &IntakeError) -> Self {
        Self::Refused {
            kind: ErrorKind::BadAudio,
            description: format!("DATA-0000: {error}"),
            code: CLOSE_BAD_AUDIO,
            reason: "the payload cannot be decoded as audio (DATA-0000)",
        }
    }

    fn silent(after: Duration) -> Self {
        Self::Refused {
            kind: ErrorKind::Timeout,
            description: format!(
                "NET-0001: nothing was sent for {} s; send audio, or {{\"type\":\"KeepAlive\"}} while there is none",
                after.as_secs_f64()
            ),
            code: CLOSE_INTERNAL,
            reason: "no audio and no message within the timeout (NET-0001)",
        }
    }

    fn due(due: Due) -> Self {
        match due {
            Due::Stopping => Self::Stopping,
            Due::TooLong => Self::Refused {
                kind: ErrorKind::Timeout,
                description: "the session has lasted as long as it may; open another one to go on".to_owned(),
                code: CLOSE_POLICY,
                reason: "the session was too long",
            },
            Due::Revoked => Self::Refused {
                kind: ErrorKind::Unauthorized,
                description:
                    "the token of this session is not good any more; ask whoever runs the server for another one"
                        .to_owned(),
                code: CLOSE_POLICY,
                reason: "the token was revoked",
            },
        }
    }

    fn empty_frame() -> Self {
        Self::Refused {
            kind: ErrorKind::SchemaError,
            description:
                "an empty binary frame means nothing; send {\"type\":\"CloseStream\"} to end the stream"
                    .to_owned(),
            code: CLOSE_BAD_REQUEST,
            reason: "empty binary frame",
        }
    }

    /// The last message and the close, when all words were said.
    fn over(self, head: &Letterhead, duration: f64, sha256: String) -> Over {
        match self {
            Self::Asked => Over::Closing {
                last: Some(text(&head.metadata(duration, sha256))),
                code: CLOSE_NORMAL,
                reason: "everything was said",
            },
            Self::Stopping => Over::Closing {
                last: Some(text(&head.metadata(duration, sha256))),
                code: CLOSE_GOING_AWAY,
                reason: "the server is stopping",
            },
            Self::Refused { kind, description, code, reason } => {
                Over::Closing { last: Some(text(&head.error(kind, description))), code, reason }
            }
        }
    }
}

/// What goes out.
#[derive(Debug)]
enum Outgoing {
    Message(ServerMessage),
    /// Every channel has said everything.
    Ended,
}

impl Session {
    /// Runs until the client has gone, or the server closes.
    pub(super) async fn run(self, socket: WebSocket) {
        let Self { app, lives, options, head } = self;
        info!(channels = lives.len(), ?options, "session opened");
        let (mut sink, mut source) = socket.split();
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let (decide, ending) = oneshot::channel();
        let Some((meter, until)) = lives.first().map(|live| (Arc::clone(&live.meter), live.ending.clone()))
        else {
            return;
        };
        let (inputs, outputs) = split(lives);
        let channels = inputs.len();
        let intake =
            Intake::announced(inputs, app.shutdown.clone(), announced(&options, app.options.tuning.policy));
        let hash = Mutex::new(Sha256::new());
        let reader = Reader {
            app: &app,
            head: &head,
            outgoing: outgoing.clone(),
            hash: &hash,
            channels,
            until,
            audio: Some((intake, decide)),
        };
        let last = async {
            // The reader has decided before it ended the audio, or is about to.
            let Ok(ending) = ending.await else { return internal(&head) };
            let sha256 = format!("{:x}", hash.lock().clone().finalize());
            ending.over(&head, seconds(meter.received()), sha256)
        };
        // Whichever ends first ends the others where they stand: reading half a message or sending half a result is
        // over with the session, and the engine's streams are cancelled by being dropped.
        let over = tokio::select! {
            biased;
            () = app.cut.cancelled() => Over::going_away(),
            over = reader.read(&mut source) => over,
            over = write(&app, &mut sink, &head, queue, last) => over,
            over = listen(outputs, options.rules(), &head, &outgoing) => over,
        };
        meter.ended(over.reason());
        close(&mut sink, &mut source, over).await;
    }
}

fn split(lives: Vec<Live>) -> (Vec<LiveInput>, Vec<(LiveOutput, Arc<Meter>)>) {
    lives.into_iter().map(|Live { input, output, meter, .. }| (input, (output, meter))).unzip()
}

fn internal(head: &Letterhead) -> Over {
    let last = Some(text(&head.error(ErrorKind::InternalError, "the speech engine has stopped")));
    Over::Closing { last, code: CLOSE_INTERNAL, reason: "internal error" }
}

/// How the bytes of a session are read.
fn announced(options: &Options, policy: Option<Policy>) -> Announced {
    let (raw, containers) = match (options.encoding, options.pcm()) {
        (Encoding::Opus, _) => (Raw::OpusPackets(options.channels.unwrap_or(1)), Containers::Any),
        (Encoding::Pcm(_), Some(format)) => (Raw::Pcm(format), Containers::Wav),
        (_, Some(format)) => (Raw::Pcm(format), Containers::Any),
        (_, None) => (Raw::Nothing, Containers::Any),
    };
    let streams = options.streams();
    let mixing = if streams > 1 { Mixing::Apart(streams) } else { Mixing::Mean };
    // A rule that leaves no word in doubt has its words wait for the next event, see `Emitter`.
    let follows = options.utterance_end_ms.is_some() || policy == Some(Policy::AlignAtt);
    let marks = ClockMarks { every: samples_of_ms(CLOCK_MS), name: |at| Mark::Clock(at).name() };
    let marks = follows.then_some(marks);
    Announced { raw, containers, mixing, marks }
}

/// Takes what the client sends.
struct Reader<'a> {
    app: &'a App,
    head: &'a Letterhead,
    outgoing: mpsc::Sender<Outgoing>,
    hash: &'a Mutex<Sha256>,
    channels: usize,
    until: live::Ending,
    /// Until the audio is over.
    audio: Option<(Intake, oneshot::Sender<Ending>)>,
}

impl Reader<'_> {
    /// Until the client goes, or breaks a limit.
    async fn read(mut self, source: &mut WsSource) -> Over {
        let options = &self.app.options;
        let silent_for = SILENT_FOR.min(options.idle_timeout);
        // A ping may be lost in a burst of traffic; two in a row are not.
        let dead_after = options.ping_interval.mul_f32(2.5);
        let mut used = Instant::now();
        loop {
            let idle_at = used + silent_for;
            let dead_at = Instant::now() + dead_after;
            // Once the audio has ended, the server speaks and the client may be silent.
            let until = if self.audio.is_some() { dead_at.min(idle_at) } else { dead_at };
            let next = tokio::select! {
                biased;
                // What was received so far is decoded; then `write` says goodbye.
                due = self.until.due(), if self.audio.is_some() => {
                    self.end(Ending::due(due)).await;
                    continue;
                }
                // Cancel safe: a frame is given whole or stays in the socket.
                next = timeout_at(until, source.next()) => next,
            };
            let message = match next {
                Err(_elapsed) if self.audio.is_some() && Instant::now() >= idle_at => {
                    self.end(Ending::silent(silent_for)).await;
                    continue;
                }
                Err(_elapsed) => return Over::PeerGone("the peer answers no ping"),
                Ok(None) => return Over::PeerGone("the connection ended"),
                Ok(Some(Err(error))) => return Over::broken(&error, || self.too_large()),
                Ok(Some(Ok(message))) => message,
            };
            let most = options.max_message_bytes;
            match message {
                Message::Close(_) => return Over::PeerGone("the client closed"),
                Message::Ping(_) | Message::Pong(_) => continue,
                Message::Binary(bytes) if bytes.len() > most => return self.too_large_over(),
                Message::Text(text) if text.len() > most => return self.too_large_over(),
                Message::Binary(bytes) if bytes.is_empty() => self.end(Ending::empty_frame()).await,
                Message::Binary(bytes) => self.take(&bytes).await,
                Message::Text(text) => {
                    if let Err(over) = self.control(&text).await {
                        return over;
                    }
                }
            }
            used = Instant::now();
        }
    }

    fn too_large(&self) -> Message {
        let most = self.app.options.max_message_bytes;
        let description = format!("a message may have {most} bytes at most; send audio in smaller ones");
        text(&self.head.error(ErrorKind::BadAudio, description))
    }

    fn too_large_over(&self) -> Over {
        Over::Closing { last: Some(self.too_large()), code: CLOSE_TOO_LARGE, reason: "message too large" }
    }

    /// Hands a frame of audio to the engine; waits while that is full. After the end of the audio it is ignored.
    async fn take(&mut self, bytes: &[u8]) {
        let Some((intake, _)) = &mut self.audio else {
            debug!(bytes = bytes.len(), "audio after its end was ignored");
            return;
        };
        self.hash.lock().update(bytes);
        match intake.push(bytes).await {
            Ok(()) => {}
            // The engine ended the stream; `listen` says why.
            Err(IntakeError::Stream(_)) => self.audio = None,
            // What was decoded before the damage is still transcribed.
            Err(error) => self.end(Ending::bad_audio(&error)).await,
        }
    }

    /// Ends the audio; everything received is still decoded.
    async fn end(&mut self, ending: Ending) {
        let Some((intake, decide)) = self.audio.take() else { return };
        let ending = match intake.end().await {
            Ok(()) | Err(IntakeError::Stream(_)) => ending,
            // A recording that was cut off is no fault of a client that said where it ends.
            Err(IntakeError::Audio(error @ AudioError::Truncated { at_seconds, .. })) if at_seconds > 0.0 => {
                self.say(self.head.error(ErrorKind::BadAudio, error.to_string())).await;
                ending
            }
            Err(error) => Ending::bad_audio(&error),
        };
        // The session is over already when nobody waits for this.
        drop(decide.send(ending));
    }

    /// The other end is held for as long as this runs.
    async fn say(&self, message: ServerMessage) {
        drop(self.outgoing.send(Outgoing::Message(message)).await);
    }

    async fn control(&mut self, text: &str) -> Result<(), Over> {
        match Control::parse(text, self.channels) {
            Ok(Control::KeepAlive) => {}
            Ok(Control::CloseStream) => self.end(Ending::Asked).await,
            Ok(Control::Finalize { channel }) => self.finalize(channel).await,
            Ok(Control::Configure { keyterms }) => {
                let (code, description) = if keyterms {
                    ("CONFIGURE_KEYTERMS_NOT_SUPPORTED", "keyterms are fixed when a stream opens")
                } else {
                    ("CONFIGURE_FEATURES_NOT_SUPPORTED", "there are no features to turn on or off")
                };
                self.say(ServerMessage::ConfigureFailure {
                    request_id: self.head.request_id().to_owned(),
                    code: code.to_owned(),
                    description: format!("{description}; put what you need into the URL and connect again"),
                })
                .await;
            }
            Ok(Control::Unknown(kind)) => debug!(kind, "a message of an unknown type was ignored"),
            Err(error) => {
                self.say(ServerMessage::Error(ErrorMessage {
                    variant: ErrorKind::SchemaError,
                    description: error.to_string(),
                    message: error.quote,
                    request_id: self.head.request_id().to_owned(),
                }))
                .await;
            }
        }
        Ok(())
    }

    /// Has everything sent so far made final; the mark that follows it through the engine is the answer.
    async fn finalize(&mut self, channel: Option<usize>) {
        let Some((intake, _)) = &mut self.audio else { return };
        let channels = channel.map_or(0..self.channels, |channel| channel..channel + 1);
        for channel in channels {
            if intake.finalize(channel, Mark::Finalize.name()).await.is_err() {
                // The engine ended the stream; `listen` says why.
                self.audio = None;
                return;
            }
        }
    }
}

/// Makes messages of what the engine says of every channel; ends only when the engine did.
async fn listen(
    outputs: Vec<(LiveOutput, Arc<Meter>)>,
    rules: Rules,
    head: &Letterhead,
    outgoing: &mpsc::Sender<Outgoing>,
) -> Over {
    let channels = outputs
        .into_iter()
        .enumerate()
        .map(|(channel, (output, meter))| listen_to(channel, output, meter, rules, head, outgoing));
    if try_join_all(channels).await.is_err() {
        warn!("the engine ended before the stream");
        return internal(head);
    }
    // `write` holds the other end for as long as this runs.
    drop(outgoing.send(Outgoing::Ended).await);
    match std::future::pending::<Infallible>().await {}
}

/// The engine ended before its stream did.
struct EndedEarly;

async fn listen_to(
    channel: usize,
    mut output: LiveOutput,
    meter: Arc<Meter>,
    rules: Rules,
    head: &Letterhead,
    outgoing: &mpsc::Sender<Outgoing>,
) -> Result<(), EndedEarly> {
    let (mut emitter, mut said) = (Emitter::new(rules), Vec::new());
    while let Some(event) = output.next().await {
        emitter.apply(&event, &mut said);
        let lag = (seconds(meter.received()) - emitter.heard()).max(0.0);
        for said in said.drain(..) {
            let message = head.message(channel, lag, said);
            let may_change = matches!(&message, ServerMessage::Results(results) if !results.is_final);
            if may_change && outgoing.capacity() < QUEUE / 2 {
                continue;
            }
            drop(outgoing.send(Outgoing::Message(message)).await);
        }
        if matches!(event, StreamEvent::Ended { .. }) {
            return Ok(());
        }
    }
    Err(EndedEarly)
}

/// Sends the first metadata, then what there is to say, until everything was said; then the session is `last`.
async fn write(
    app: &App,
    sink: &mut WsSink,
    head: &Letterhead,
    queue: mpsc::Receiver<Outgoing>,
    last: impl Future<Output = Over>,
) -> Over {
    match write_all(app, sink, head, queue).await {
        Err(over) => over,
        Ok(()) => last.await,
    }
}

async fn write_all(
    app: &App,
    sink: &mut WsSink,
    head: &Letterhead,
    mut queue: mpsc::Receiver<Outgoing>,
) -> Result<(), Over> {
    let options = &app.options;
    let mut out = Out { sink, send_timeout: options.send_timeout };
    out.send(text(&head.metadata(0.0, String::new()))).await?;
    let mut ping = tokio::time::interval_at(Instant::now() + options.ping_interval, options.ping_interval);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both are cancel safe; what they bring is sent outside of the select.
        let outgoing = tokio::select! {
            outgoing = queue.recv() => outgoing,
            _ = ping.tick() => {
                out.send(Message::Ping(Default::default())).await?;
                continue;
            }
        };
        match outgoing {
            Some(Outgoing::Message(message)) => out.send(text(&message)).await?,
            Some(Outgoing::Ended) | None => return Ok(()),
        }
    }
}
