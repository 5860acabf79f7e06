//! What the demo prints: captions as they come, then the summary.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::{
    events::Left,
    measure::{Caption, Summary},
    recordings::Recording,
};
use crate::cmd::Stream;

/// Back to the first column, clear the line, and let a long one run out of the window instead of wrapping.
const REDRAW: &str = "\r\x1b[2K\x1b[?7l";
const WRAP: &str = "\x1b[?7h";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// The captions: one line a recording. On a terminal the running one is redrawn; elsewhere each is printed once, when
/// the next one begins.
#[derive(Debug)]
pub(super) struct Captions<'a, W> {
    out: W,
    stream: Stream,
    recordings: &'a [Recording],
    /// Recordings that are printed for good.
    done: usize,
}

impl<'a, W: Write> Captions<'a, W> {
    pub(super) fn new(out: W, stream: Stream, recordings: &'a [Recording]) -> Self {
        Self { out, stream, recordings, done: 0 }
    }

    /// Shows what there is now.
    pub(super) fn show(&mut self, captions: &[Caption]) -> io::Result<()> {
        let begun = |caption: &Caption| !(caption.committed.is_empty() && caption.tail.is_empty());
        let Some(running) = captions.iter().rposition(begun) else { return Ok(()) };
        self.print_until(running, captions)?;
        if self.stream.is_terminal
            && let (Some(recording), Some(caption)) = (self.recordings.get(running), captions.get(running))
        {
            let Caption { committed, tail } = caption;
            let dimmed = self.stream.color && !tail.is_empty();
            let (dim, plain) = if dimmed { (DIM, PLAIN) } else { ("", "") };
            let space = if committed.is_empty() || tail.is_empty() { "" } else { " " };
            let name = recording.name;
            write!(self.out, "{REDRAW}{name}  {committed}{space}{dim}{tail}{plain}{WRAP}")?;
        }
        self.out.flush()
    }

    /// Everything was said.
    pub(super) fn finish(&mut self, captions: &[Caption]) -> io::Result<()> {
        self.print_until(captions.len(), captions)?;
        self.out.flush()
    }

    fn print_until(&mut self, end: usize, captions: &[Caption]) -> io::Result<()> {
        let clear = if self.stream.is_terminal { "\r\x1b[2K" } else { "" };
        for (recording, caption) in self.recordings.iter().zip(captions).take(end).skip(self.done) {
            writeln!(self.out, "{clear}{}  {}", recording.name, caption.committed)?;
        }
        self.done = self.done.max(end);
        Ok(())
    }
}

/// The summary for people, with times on the clock of `zone`.
pub(super) fn print(out: &mut impl Write, summary: &Summary, zone: &TimeZone) -> io::Result<()> {
    let percent = |rate: f64| format!("{:.1} %", rate * 100.0);
    writeln!(out, "\n{:<8}{:<22}{:>6}{:>8}{:>9}", "", "voice", "words", "errors", "WER")?;
    for heard in &summary.recordings {
        let (words, errors) = (heard.errors.words, heard.errors.total());
        writeln!(out, "{:<8}{:<22}{words:>6}{errors:>8}{:>9}", heard.name, heard.voice, percent(heard.wer))?;
    }
    let (words, errors) = (summary.errors.words, summary.errors.total());
    writeln!(out, "{:<8}{:<22}{words:>6}{errors:>8}{:>9}\n", "all", "", percent(summary.wer))?;

    #[allow(clippy::cast_precision_loss, reason = "millions, to one digit")]
    let millions = summary.parameters as f64 / 1e6;
    writeln!(out, "model             {} ({millions:.1} million weights, {})", summary.model, summary.device)?;
    writeln!(out, "audio             {:.1} s", summary.audio_s)?;
    writeln!(out, "real-time factor  {:.3} (inference time over audio time)", summary.rtf)?;
    match (summary.commit_ms_p50, summary.commit_ms_p95) {
        (Some(p50), Some(p95)) => {
            writeln!(
                out,
                "commit latency    {p50} ms p50, {p95} ms p95 (from the end of a word until it is final)"
            )?;
        }
        _ => writeln!(out, "commit latency    not measured without pacing")?,
    }
    if let Some(first) = summary.first_word_ms_p50 {
        writeln!(out, "first word        {first} ms p50 (from the onset of speech until a word is shown)")?;
    }
    if let Some(memory) = summary.rss_mb {
        writeln!(out, "memory            {memory} MB at most")?;
    }
    if let Some(left) = &summary.events {
        print_events(out, left, zone)?;
    }
    out.flush()
}

fn print_events(out: &mut impl Write, left: &Left, zone: &TimeZone) -> io::Result<()> {
    match &left.error {
        None => writeln!(out, "events            {} on the bus, {}\n", left.read_back, left.bus)?,
        Some(error) => {
            writeln!(out, "events            {} on the bus, {} ({error})\n", left.read_back, left.bus)?;
        }
    }
    for seen in &left.events {
        let time = seen.at.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string();
        // Quoted, with what a terminal would obey escaped.
        writeln!(out, "{time}  {}  {:?}", seen.event_type, seen.text)?;
    }
    match (&left.answer, &left.no_answer) {
        (Some(answer), _) => {
            let time = answer.at.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string();
            writeln!(
                out,
                "\n\"computer ...\" is for an agent, and its answer is on the bus ({}, {} ms later):\n\
                 {time}  agent.response.completed  {:?}\n          correlation id {}",
                answer.provider, answer.took_ms, answer.response, answer.correlation_id
            )?;
        }
        (None, Some(reason)) => writeln!(out, "\nno answer of an agent: {reason}")?,
        (None, None) => {}
    }
    if left.has_history && !left.events.is_empty() {
        writeln!(out, "\nthe same again: godctl bus tail --since 5m\nin a dashboard: godctl dash")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        asr::wer::WordErrors,
        cmd::demo::{agent::Answered, events::Seen},
    };

    fn recordings() -> Vec<Recording> {
        let recording = |name, start| Recording { name, voice: "v", text: "", start, samples: Vec::new() };
        vec![recording("demo1", 0), recording("demo2", 1), recording("demo3", 2)]
    }

    fn caption(committed: &str, tail: &str) -> Caption {
        Caption { committed: committed.to_owned(), tail: tail.to_owned() }
    }

    fn shown(stream: Stream) -> String {
        let (mut out, recordings) = (Vec::new(), recordings());
        let mut captions = Captions::new(&mut out, stream, &recordings);
        let none = Caption::default();
        captions.show(&[none.clone(), none.clone(), none.clone()]).unwrap();
        captions.show(&[caption("", "op"), none.clone(), none.clone()]).unwrap();
        captions.show(&[caption("open", "the"), none.clone(), none.clone()]).unwrap();
        captions.show(&[caption("open the", ""), caption("go", ""), none.clone()]).unwrap();
        captions.finish(&[caption("open the", ""), caption("go on", ""), none]).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_pipe_gets_each_line_once() {
        let stream = Stream { is_terminal: false, color: false };
        assert_eq!(shown(stream), "demo1  open the\ndemo2  go on\ndemo3  \n");
    }

    #[test]
    fn a_terminal_sees_words_come() {
        let stream = Stream { is_terminal: true, color: true };
        insta::assert_snapshot!(shown(stream).replace('\x1b', "^[").replace('\r', "^M"));
        let stream = Stream { is_terminal: true, color: false };
        assert!(!shown(stream).contains(DIM));
    }

    #[test]
    fn the_summary_reads_well() {
        let errors = WordErrors { words: 8, substitutions: 1, ..WordErrors::default() };
        let heard = |name| super::super::measure::Heard {
            name,
            voice: "flite:rms",
            said: "open the door",
            heard: "open a door".to_owned(),
            wer: errors.rate(),
            errors,
        };
        let mut summary = Summary {
            wer: errors.rate(),
            words: 8,
            errors,
            audio_s: 34.51,
            rtf: 0.0712,
            commit_ms_p50: Some(640),
            commit_ms_p95: Some(1_120),
            first_word_ms_p50: Some(700),
            rss_mb: Some(81),
            model: "command-en".to_owned(),
            parameters: 3_512_000,
            device: "cpu".to_owned(),
            recordings: vec![heard("demo1"), heard("demo2")],
            events: Some(Left {
                bus: "sqlite:".to_owned(),
                published: 1,
                read_back: 1,
                error: None,
                answer: Some(Answered {
                    provider: "echo".to_owned(),
                    prompt: "run the test".to_owned(),
                    response: "run the test".to_owned(),
                    correlation_id: uuid::Uuid::from_u128(7),
                    took_ms: 12,
                    at: "2026-11-21T09:00:01Z".parse().unwrap(),
                }),
                no_answer: None,
                events: vec![Seen {
                    id: uuid::Uuid::from_u128(7),
                    at: "2026-11-21T09:00:00Z".parse().unwrap(),
                    event_type: "voice.transcription.completed".to_owned(),
                    text: "open the door".to_owned(),
                }],
                has_history: true,
            }),
        };
        let mut out = Vec::new();
        print(&mut out, &summary, &TimeZone::UTC).unwrap();
        let broken = Left {
            error: Some("cannot reach amqp://***@host: connection refused".to_owned()),
            bus: "amqp://***@host".to_owned(),
            published: 0,
            read_back: 0,
            answer: None,
            no_answer: Some("this bus has no work queues".to_owned()),
            events: Vec::new(),
            has_history: false,
        };
        summary.events = Some(broken);
        (summary.commit_ms_p50, summary.commit_ms_p95, summary.first_word_ms_p50, summary.rss_mb) =
            (None, None, None, None);
        print(&mut out, &summary, &TimeZone::UTC).unwrap();
        writeln!(out, "\n{}", serde_json::to_string(&summary).unwrap()).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }
}
