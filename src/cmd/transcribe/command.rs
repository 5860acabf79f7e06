//! The flags of `godctl transcribe`, and which way they lead.

use std::path::PathBuf;

use clap::ValueEnum;

use super::{files, live};
use crate::{
    asr::{
        captions::{Detail, Format},
        engine::StreamOptions,
        stream::Samples,
        tap::Tap,
    },
    cmd::{
        self, Context, Exit, Failure,
        engine::{self, ModelArgs},
        publish,
    },
    config::Overrides,
};

const EXAMPLES: &str = "\
Examples:
  godctl transcribe meeting.mp3                           the text, one line an utterance
  godctl transcribe *.wav --format srt,json --output-dir out
  ffmpeg -i talk.mkv -f wav - | godctl transcribe --stdin --format vtt --words
  godctl transcribe --mic                                 live captions from the microphone
  godctl transcribe --mic --input usb                     from the first input whose name has \"usb\" in it
  godctl transcribe --input file:talk.wav                 a recording at the pace of the clock, as if spoken now
  godctl transcribe --mic --publish                       each utterance as an event on the bus, too

It reads WAV, AIFF, CAF, FLAC, MP3, AAC, M4A/MP4, Ogg (Opus, Vorbis, FLAC) and WebM/Matroska at any rate.
A file that can't be read fails alone; the others go on, and the exit code is 1.";

/// Flags of `godctl transcribe`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Recordings to transcribe; `-` is standard input
    #[arg(value_name = "FILE", conflicts_with_all = ["mic", "input", "list_inputs"])]
    pub(super) files: Vec<PathBuf>,
    /// Read a recording from standard input
    #[arg(long, conflicts_with_all = ["files", "mic", "input"])]
    pub(super) stdin: bool,
    /// Caption the microphone until Ctrl-C
    #[arg(long)]
    pub(super) mic: bool,
    /// The input to caption: a part of a microphone's name, or file:PATH
    #[arg(long, value_name = "NAME")]
    pub(super) input: Option<String>,
    /// List the inputs and end
    #[arg(long)]
    pub(super) list_inputs: bool,
    #[command(flatten)]
    pub(super) model: ModelArgs,
    /// How words are decided on
    #[arg(long, value_enum, default_value_t = Policy::Auto)]
    pub(super) policy: Policy,
    /// Text that came before, as context for the first words
    #[arg(long, value_name = "TEXT")]
    pub(super) prompt: Option<String>,
    /// Words to expect, such as names
    #[arg(long, value_name = "WORDS")]
    pub(super) hotwords: Option<String>,
    /// Formats to write: txt, json, srt, vtt, tsv, lrc
    #[arg(long, value_name = "FORMAT", value_delimiter = ',', default_value = "txt")]
    pub(super) format: Vec<Format>,
    /// Times for each word, in the formats that have them
    #[arg(long)]
    pub(super) words: bool,
    /// Publish each utterance on the event bus; fails if one can't be
    #[arg(long)]
    pub(super) publish: bool,
    /// Write a file for each recording and format here, instead of to standard output
    #[arg(long, value_name = "DIR")]
    pub(super) output_dir: Option<PathBuf>,
}

/// How the words of an utterance are decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Policy {
    /// `stream` for models with short windows, where it costs little, `offline` for the others
    Auto,
    /// As the live server does: the same words, to the letter, as if the recording had been spoken into it
    Stream,
    /// Each utterance once, when it has ended, and those of a file several together: the fastest
    Offline,
}

impl Policy {
    /// A window up to this many seconds is short.
    const SHORT_WINDOW_S: f64 = 15.0;

    /// The distance between interim decodes, where this policy sets it; 0 is none.
    pub(super) fn hop(self, window_s: f64) -> Option<Samples> {
        match self {
            Self::Stream => None,
            Self::Auto if window_s <= Self::SHORT_WINDOW_S => None,
            Self::Auto | Self::Offline => Some(0),
        }
    }

    /// Whether each utterance is decoded once.
    pub(super) fn is_offline(self, window_s: f64) -> bool {
        self.hop(window_s).is_some()
    }
}

impl Args {
    /// The flags that stand above keys of the configuration.
    pub(crate) fn overrides(&self) -> Overrides {
        let mut overrides = self.model.overrides();
        overrides.set("--input", "audio.input", self.input.as_ref());
        overrides
    }

    /// How a stream is decoded: the configuration, with what only this command has on top.
    pub(super) fn stream_options(&self, context: &Context) -> StreamOptions {
        let asr = &context.config.asr;
        let mut options = StreamOptions { decode: engine::decode_options(asr), tuning: engine::tuning(asr) };
        options.decode.prompt.clone_from(&self.prompt);
        options.decode.hotwords.clone_from(&self.hotwords);
        options
    }

    pub(super) const fn detail(&self) -> Detail {
        if self.words { Detail::Words } else { Detail::Captions }
    }
}

/// Runs the work with the tap of a publisher, if there is to be one, and waits until everything is published.
pub(super) async fn published(
    args: &Args,
    context: &Context,
    work: impl AsyncFnOnce(Option<&Tap>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if !args.publish {
        return work(None).await;
    }
    let publisher = publish::strictly(context).await?;
    let worked = work(Some(publisher.tap())).await;
    let settled = publish::settle(publisher, context).await;
    match (worked, settled) {
        (Ok(()), settled) => settled,
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(unpublished)) => {
            cmd::complain(&unpublished);
            Err(error)
        }
    }
}

/// A combination of flags that makes no sense.
fn usage(message: &'static str) -> anyhow::Error {
    Failure::new(Exit::Usage, anyhow::anyhow!("{message}; see godctl transcribe --help")).into()
}

/// Runs `godctl transcribe`.
pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    if args.list_inputs {
        return live::list_inputs(args);
    }
    if args.mic || args.input.is_some() {
        if args.output_dir.is_some() {
            return Err(usage(
                "--output-dir is for recordings; redirect standard output to keep live captions",
            ));
        }
        return live::run(args, context);
    }
    if args.files.is_empty() && !args.stdin {
        return Err(usage("nothing to transcribe: name a FILE, or use --stdin, --mic or --input"));
    }
    files::run(args, context)
}
