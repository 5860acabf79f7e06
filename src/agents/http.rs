//! Runs the turns of services that stream their answers over HTTP.
//!
//! One request, one answer. Nothing is tried again here, redirects are not followed (they would carry the key and the
//! prompt to somewhere else), and stopping is dropping the connection. Dropping the future of `run` does the same.

use std::{collections::BTreeMap, error::Error, time::Duration};

use jiff::Timestamp;
use reqwest::{
    Certificate, Client, Response, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
    redirect::Policy,
};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    Class, Exit, Failure, Key, Output, Patience, Reader, Request, Step, Then, refusal,
    sse::{Event, Events},
    surroundings::Surroundings,
};
use crate::config::Secret;

const USER_AGENT: &str = concat!("godctl/", env!("CARGO_PKG_VERSION"));
/// Longest event, and longest answer in one piece; a longer event is skipped.
const MAX_EVENT: usize = 32 * 1024 * 1024;
/// How much of the body of a refusal is read.
const MAX_REFUSAL: usize = 64 * 1024;

/// Posts a request and reads the answer to its end. Each event goes through `reader`, and what that makes of it to `say`.
///
/// # Errors
/// Why it could not be sent.
///
/// # Cancel safety
/// Dropping the future drops the connection.
pub(super) async fn run(
    request: &Request,
    surroundings: Surroundings<'_>,
    stop: &CancellationToken,
    reader: &mut dyn Reader,
    say: &mut impl FnMut(Output),
) -> Result<Exit, Failure> {
    let key = read_key(&request.key, surroundings.variables)?;
    let call = Call {
        client: client(&request.url, request.patience.connect)?,
        request,
        key,
        after_answer: surroundings.limits.after_answer,
    };
    let idle = request.patience.idle.min(surroundings.limits.idle);
    let stopped = |class| Exit { stopped: Some(class), ..Exit::default() };
    // What is dropped here when another arm is first is the call, and its connection with it.
    Ok(tokio::select! {
        biased;
        () = stop.cancelled() => stopped(Class::Cancelled),
        () = sleep(surroundings.limits.total) => stopped(Class::Timeout),
        refusal = call.make(idle, reader, say) => Exit { refusal: refusal.err(), ..Exit::default() },
    })
}

/// The key as it lies now, if there is one.
fn read_key(key: &Key, variables: &BTreeMap<String, String>) -> Result<Option<Secret>, Failure> {
    if let Some(path) = &key.file {
        let read = Secret::read("key_file", path);
        return read.map(Some).map_err(|error| {
            let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            Failure::new(Class::Auth, format!("{error}{source}"))
        });
    }
    let value = key.variable.as_ref().and_then(|name| variables.get(name)).map(|value| value.trim());
    Ok(value.filter(|value| !value.is_empty()).map(|value| Secret::new(value.to_owned())))
}

/// A client for one address.
///
/// # Errors
/// What is wrong with the address, or with the system's certificates.
pub(super) fn client(url: &str, connect: Duration) -> Result<Client, Failure> {
    let url = Url::parse(url)
        .map_err(|error| Failure::new(Class::BadRequest, format!("'{url}' is no address ({error})")))?;
    // A second call finds the provider installed, which is what is wanted.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut builder =
        Client::builder().user_agent(USER_AGENT).connect_timeout(connect).redirect(Policy::none());
    if url.scheme() == "http" {
        // Reading the system's certificates takes longer than starting a process.
        builder = builder.tls_certs_only(std::iter::empty::<Certificate>());
    }
    // A service on this machine is not reached through a proxy.
    if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| {
        let why = root_of(&error);
        Failure::new(
            Class::Network,
            format!("cannot set up TLS: {why}; is the package ca-certificates installed?"),
        )
    })
}

/// One request on its way.
struct Call<'a> {
    client: Client,
    request: &'a Request,
    key: Option<Secret>,
    after_answer: Duration,
}

impl Call<'_> {
    /// # Errors
    /// Why the service refused, or how the connection broke.
    async fn make(
        &self,
        idle: Duration,
        reader: &mut dyn Reader,
        say: &mut impl FnMut(Output),
    ) -> Result<(), Failure> {
        let Patience { connect, first_byte, .. } = self.request.patience;
        let first = Instant::now() + connect + first_byte;
        let mut post = self.client.post(&self.request.url).header(ACCEPT, "text/event-stream");
        if let Some(key) = &self.key {
            post = post.header(AUTHORIZATION, bearer(key)?);
        }
        let sent = timeout_at(first, post.json(&self.request.body).send()).await;
        let mut response =
            sent.map_err(|_| self.silent("first_byte_s"))?.map_err(|error| self.unreachable(error))?;
        if !response.status().is_success() {
            return Err(self.refused(response, first).await);
        }
        let mut answer = Answer::new(is_stream(response.headers()));
        let mut patience = (first, "first_byte_s");
        loop {
            let read = tokio::select! {
                biased;
                read = response.chunk() => read,
                () = sleep_until(patience.0) => match answer.has_ended {
                    // It has said all that it had to say, and only the connection is still there.
                    true => return Ok(()),
                    false => return Err(self.silent(patience.1)),
                },
            };
            let bytes = read.map_err(|error| self.broken(error))?;
            let had_ended = answer.has_ended;
            if answer.take(bytes.as_deref(), reader, say) == Then::Stop || bytes.is_none() {
                return Ok(());
            }
            // The time after the answer runs once; the time between two pieces runs anew.
            if !answer.has_ended {
                patience = (Instant::now() + idle, "idle_s");
            } else if !had_ended {
                patience = (Instant::now() + self.after_answer, "idle_s");
            }
        }
    }

    async fn refused(&self, mut response: Response, until: Instant) -> Failure {
        let status = response.status().as_u16();
        let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let wait = wait.and_then(|value| refusal::retry_after(value, Timestamp::now()));
        let mut body = Vec::new();
        while body.len() < MAX_REFUSAL
            && let Ok(Ok(Some(bytes))) = timeout_at(until, response.chunk()).await
        {
            body.extend_from_slice(&bytes);
        }
        body.truncate(MAX_REFUSAL);
        let mut failure = refusal::of_response(status, &body);
        failure.retry_after = wait;
        if let Some(key) = &self.key {
            // Some services repeat the key that they do not take.
            failure.message = failure.message.replace(key.expose(), "[secret]");
        }
        let hint = match (failure.class, &self.key, &self.request.key.variable) {
            (Class::Auth, None, Some(name)) => format!("; no key was sent: set {name}"),
            (Class::Auth, None, None) => "; no key was sent: set key_file or key_variable".to_owned(),
            (Class::InvalidRequest, ..) if status == 404 => {
                format!("; {} is no path there, check {}", self.request.url, self.request.setting)
            }
            (Class::Unknown, ..) if (300..400).contains(&status) => {
                format!("; check {}", self.request.setting)
            }
            _ => String::new(),
        };
        failure.message.push_str(&hint);
        failure
    }

    fn unreachable(&self, error: reqwest::Error) -> Failure {
        let (url, setting) = (&self.request.url, &self.request.setting);
        if error.is_timeout() {
            let seconds = self.request.patience.connect.as_secs();
            let message = format!("cannot reach {url} within {seconds} s (connect_s); check {setting}");
            return Failure::new(Class::Network, message);
        }
        let why = root_of(&error.without_url());
        Failure::new(
            Class::Network,
            format!("cannot reach {url}: {why}; does the service run? check {setting}"),
        )
    }

    fn broken(&self, error: reqwest::Error) -> Failure {
        let why = root_of(&error.without_url());
        Failure::new(Class::Network, format!("the connection to {} broke: {why}", self.request.url))
    }

    fn silent(&self, key: &str) -> Failure {
        let Patience { first_byte, idle, .. } = self.request.patience;
        let (what, waited) = match key {
            "first_byte_s" => ("no answer", first_byte),
            _ => ("nothing more", idle),
        };
        let message = format!(
            "{what} came from {} for {} s; {key} allows it more time",
            self.request.url,
            waited.as_secs()
        );
        Failure::new(Class::Stalled, message)
    }
}

/// What has come of an answer.
struct Answer {
    /// Events; `None` for an answer in one piece.
    events: Option<Events>,
    whole: Vec<u8>,
    /// The reader has what it needs.
    has_ended: bool,
}

impl Answer {
    fn new(is_stream: bool) -> Self {
        let events = is_stream.then(|| Events::new(MAX_EVENT));
        Self { events, whole: Vec::new(), has_ended: false }
    }

    /// Takes the next bytes, or the end.
    fn take(&mut self, bytes: Option<&[u8]>, reader: &mut dyn Reader, say: &mut impl FnMut(Output)) -> Then {
        let events = match (&mut self.events, bytes) {
            (Some(events), Some(bytes)) => events.push(bytes),
            (Some(events), None) => events.finish().into_iter().collect(),
            // Longer than any answer: what is kept of it will not be read as one.
            (None, Some(bytes)) => {
                let room = MAX_EVENT.saturating_sub(self.whole.len()).min(bytes.len());
                self.whole.extend_from_slice(bytes.get(..room).unwrap_or_default());
                Vec::new()
            }
            (None, None) => vec![Event::Data(std::mem::take(&mut self.whole))],
        };
        for event in events {
            let step = match event {
                Event::Data(data) => reader.line(&data),
                Event::TooLong { bytes } => {
                    let message = format!("an event of {bytes} bytes was skipped; {MAX_EVENT} is the most");
                    Step { outputs: vec![Output::Warning { message }], ..Step::default() }
                }
            };
            step.outputs.into_iter().for_each(&mut *say);
            match step.then {
                Then::GoOn => {}
                Then::Answered => self.has_ended = true,
                Then::Stop => return Then::Stop,
            }
        }
        Then::GoOn
    }
}

pub(super) fn bearer(key: &Secret) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
        .map_err(|_| Failure::new(Class::Auth, "the key holds characters that no key has; check it"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Some services answer in one piece although they were asked for a stream.
fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    !kind.trim_start().to_ascii_lowercase().starts_with("application/json")
}

/// What the system said in the end.
pub(super) fn root_of(error: &reqwest::Error) -> String {
    let mut root: &dyn Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}
