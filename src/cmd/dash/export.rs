//! Events as files: a JSON array of whole envelopes, a table of six columns, one event on its own. Pure.

use std::io::{self, Write};

use super::state::row::{Kind, Row};

/// The columns of the table, as those who exported before know them.
const COLUMNS: [&str; 6] = ["Event ID", "Event Type", "Timestamp", "Source App", "Domain", "Session ID"];

/// How a file of events looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// An array of envelopes, two blanks to a level.
    Json,
    /// A table (RFC 4180), each cell in quotes.
    Csv,
}

/// Writes events one after another. What is no event is left out.
#[derive(Debug)]
pub(super) struct Exporter<W> {
    out: W,
    format: Format,
    written: u64,
}

impl<W: Write> Exporter<W> {
    /// # Errors
    /// What `out` says; so do the other methods.
    pub(super) fn begin(mut out: W, format: Format) -> io::Result<Self> {
        match format {
            Format::Json => out.write_all(b"[")?,
            Format::Csv => out.write_all(line(COLUMNS).as_bytes())?,
        }
        Ok(Self { out, format, written: 0 })
    }

    pub(super) fn add(&mut self, row: &Row, body: &[u8]) -> io::Result<()> {
        if row.kind != Kind::Event {
            return Ok(());
        }
        match self.format {
            Format::Json => {
                self.out.write_all(if self.written == 0 { b"\n  " } else { b",\n  " })?;
                let text = String::from_utf8_lossy(&pretty(body)).replace('\n', "\n  ");
                self.out.write_all(text.trim_end().as_bytes())?;
            }
            Format::Csv => {
                let (id, at) = (row.id.to_string(), row.at.to_string());
                let cells = [id.as_str(), &row.event_type, &at, &row.app, &row.domain, &row.session];
                self.out.write_all(line(cells).as_bytes())?;
            }
        }
        self.written += 1;
        Ok(())
    }

    /// Tells how many were written.
    pub(super) fn end(mut self) -> io::Result<u64> {
        if self.format == Format::Json {
            self.out.write_all(if self.written == 0 { b"]\n" } else { b"\n]\n" })?;
        }
        self.out.flush()?;
        Ok(self.written)
    }
}

/// A file in memory.
pub(super) fn bytes<'a>(format: Format, rows: impl Iterator<Item = (&'a Row, &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::new();
    let write = |out: &mut Vec<u8>| -> io::Result<u64> {
        let mut exporter = Exporter::begin(out, format)?;
        for (row, body) in rows {
            exporter.add(row, body)?;
        }
        exporter.end()
    };
    // Memory takes everything.
    drop(write(&mut out));
    out
}

fn line(cells: [&str; 6]) -> String {
    let cells: Vec<String> = cells.into_iter().map(cell).collect();
    format!("{}\r\n", cells.join(","))
}

/// Quoted, quotes doubled. Programs that calculate take what begins with one of these signs for a formula, and a
/// formula from outside may do anything; an apostrophe makes it text again.
fn cell(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

/// One event, two blanks to a level; what is no JSON stays as it is.
pub(super) fn pretty(body: &[u8]) -> Vec<u8> {
    // The order of the keys is that of the contract, so the text is laid out anew, not what it means.
    let mut out = Vec::with_capacity(body.len() * 2);
    if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_err() {
        return body.to_vec();
    }
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    let mut bytes = body.iter().copied().peekable();
    let newline = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', depth * 2));
    };
    while let Some(byte) = bytes.next() {
        if in_text {
            out.push(byte);
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => {
                in_text = true;
                out.push(byte);
            }
            b'{' | b'[' => {
                out.push(byte);
                while bytes.peek().is_some_and(u8::is_ascii_whitespace) {
                    bytes.next();
                }
                if bytes.peek().is_some_and(|next| matches!(next, b'}' | b']')) {
                    out.extend(bytes.next());
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                newline(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            byte if byte.is_ascii_whitespace() => {}
            byte => out.push(byte),
        }
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::state::testing::*, *};

    #[test]
    fn a_table_keeps_quotes_and_calculates_nothing() {
        let mut event = event("voice.x", json!({ "session_id": "say \"hi\", twice" }));
        event.source.app = "=cmd|' /C calc'!A0".to_owned();
        event.event_id = uuid::Uuid::nil();
        let buffer = buffer_of([event]);
        insta::assert_snapshot!(String::from_utf8(bytes(Format::Csv, buffer.rows().map(|row| (row, buffer.body(row))))).unwrap().replace("\r\n", "\n"), @r#"
        "Event ID","Event Type","Timestamp","Source App","Domain","Session ID"
        "00000000-0000-0000-0000-000000000000","voice.x","2026-11-21T12:00:00Z","'=cmd|' /C calc'!A0","voice","say ""hi"", twice"
        "#);
    }

    #[test]
    fn an_array_has_each_envelope_as_it_was() {
        let events = [
            event("a.b", json!({ "deep": { "er": [1, { "x": [] }, {}] }, "text": "{\"a\": [1, 2]}\\" })),
            event("c.d", json!({})),
        ];
        let buffer = buffer_of(events.clone());
        let file = bytes(Format::Json, buffer.rows().map(|row| (row, buffer.body(row))));
        let read: Vec<Value> = serde_json::from_slice(&file).unwrap();
        let expected: Vec<Value> = events.iter().map(|event| serde_json::to_value(event).unwrap()).collect();
        assert_eq!(read, expected);
        let text = String::from_utf8(file).unwrap();
        assert!(text.starts_with("[\n  {\n    \"event_id\": "), "{text}");
        assert_eq!(bytes(Format::Json, std::iter::empty()), b"[]\n");
        assert_eq!(pretty(b"{broken"), b"{broken");
    }
}
