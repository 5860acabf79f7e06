//! Plays the recordings to a server of our own and watches what comes back. Runs on the command's async runtime.

use std::{
    io::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use jiff::tz::TimeZone;

use super::{
    Args,
    events::Stage,
    measure::{Sent, Summary, Watch},
    recordings::{self, Recording},
    screen::{self, Captions},
};
use crate::{
    asr::{
        ModelInfo,
        client::{self, Pacer, Receiver, Sender},
        engine::Engine,
        protocols::native::{ServerMessage, Tagged},
        server::{self, ServerOptions},
        stream::{Samples, samples_of_ms},
        weights::BUILTIN_NAME,
    },
    cmd::{Context, Stdout, Threads, engine},
};

/// Audio goes out in pieces of this length, as browsers send it.
const CHUNK: Samples = samples_of_ms(50);
/// No demo takes longer, however slow the machine: something hangs then.
const PATIENCE: Duration = Duration::from_secs(150);

pub(in crate::cmd) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    context.block_on(Threads::PerCore, async {
        tokio::select! {
            biased;
            () = context.shutdown.cancelled() => bail!("interrupted before the end"),
            played = tokio::time::timeout(PATIENCE, play(args, context)) => {
                played.context("the demo hangs; run it with -vv to see where")?
            }
        }
    })
}

async fn play(args: &Args, context: &Context) -> anyhow::Result<()> {
    let recordings = recordings::load()?;
    // The figures of the model card are for this model, whatever is installed or configured.
    let mut config = context.config.clone();
    config.asr.model = Some(BUILTIN_NAME.to_owned());
    config.asr.language = None;
    let engine = engine::start(&config, &context.paths, &context.shutdown)?;

    let stage = Stage::open(context).await;
    let options = ServerOptions { tap: stage.as_ref().and_then(Stage::tap), ..ServerOptions::default() };
    let listener = server::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (serving, shutdown) = (engine.clone(), context.shutdown.clone());
    context.shutdown.spawn_critical("asr-server", async move {
        server::serve(listener, serving, options, &shutdown).await
    });
    let model = engine.ready().await?;
    announce(args, &model, &recordings)?;

    let (sender, mut receiver) = client::connect(&format!("ws://{address}/asr?words=true")).await?;
    let mut watch = Watch::new(&recordings);
    let captions = Captions::new(Stdout::lock(), context.terminal.stdout, &recordings);
    let sending = send(sender, recordings::soundtrack(&recordings), args);
    let ((sender, sent), session) = tokio::try_join!(sending, receive(&mut receiver, &mut watch, captions))?;
    sender.close().await?;

    let sent = (!args.fast).then_some(&sent);
    let events = match stage {
        Some(stage) => Some(stage.finish(&session).await),
        None => None,
    };
    let summary =
        Summary { rss_mb: peak_memory_mb(), events, ..watch.summary(sent, &model, &engine.stats()) };
    report(args, &summary, &engine)
}

fn announce(args: &Args, model: &Arc<ModelInfo>, recordings: &[Recording]) -> anyhow::Result<()> {
    let mut stdout = Stdout::lock();
    let pace = if args.fast { "at once" } else { "at the pace of speech" };
    let count = recordings.len();
    writeln!(stdout, "{count} recordings through the live pipeline, {pace}; model {}\n", model.name)?;
    Ok(stdout.flush()?)
}

/// Sends everything and gives the sender back: the session must stay open until the server has said all.
async fn send(mut sender: Sender, soundtrack: Vec<f32>, args: &Args) -> anyhow::Result<(Sender, Sent)> {
    let mut sent = Sent::default();
    let mut position = 0;
    let pacer = Pacer::start();
    for chunk in soundtrack.chunks(usize::try_from(CHUNK)?) {
        position += chunk.len() as Samples;
        if !args.fast {
            pacer.heard(position).await;
        }
        sender.audio(chunk).await.context("cannot send audio to the server")?;
        sent.push(position, Instant::now());
    }
    sender.end().await.context("cannot end the audio")?;
    Ok((sender, sent))
}

/// Shows what comes until everything was said; gives the session's id.
async fn receive(
    receiver: &mut Receiver,
    watch: &mut Watch<'_>,
    mut captions: Captions<'_, Stdout>,
) -> anyhow::Result<String> {
    let mut session = String::new();
    loop {
        let message = receiver.next().await?.context("the server ended the session early")?;
        match message {
            ServerMessage::State(state) => {
                if let Some(error) = &state.error {
                    bail!("the server reports: {error}");
                }
                watch.update(&state, Instant::now());
                captions.show(&watch.captions())?;
            }
            ServerMessage::Tagged(Tagged::Error { error, .. }) => bail!("the server reports: {error}"),
            ServerMessage::Tagged(Tagged::ReadyToStop) => {
                captions.finish(&watch.captions())?;
                return Ok(session);
            }
            ServerMessage::Tagged(Tagged::Config(config)) => session = config.session,
            // Neither was asked for.
            ServerMessage::Tagged(Tagged::Marker { .. })
            | ServerMessage::Snapshot(_)
            | ServerMessage::Diff(_) => {}
        }
    }
}

fn report(args: &Args, summary: &Summary, engine: &Engine) -> anyhow::Result<()> {
    let mut stdout = Stdout::lock();
    screen::print(&mut stdout, summary, &TimeZone::system())?;
    if args.json {
        writeln!(stdout, "{}", serde_json::to_string(summary)?)?;
    }
    stdout.flush()?;
    let failed = engine.stats().failed;
    ensure!(failed == 0, "{failed} windows could not be decoded; run with -vv to see why");
    ensure!(summary.words > 0, "not a word was heard; run with -vv to see why");
    Ok(())
}

/// The most memory this process ever held, in MB of 10^6 bytes.
fn peak_memory_mb() -> Option<u64> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024 / 1_000_000)
}
