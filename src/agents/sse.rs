//! Cuts a stream of bytes into server-sent events, with a limit on how long one may be. Pure.
//!
//! Only the data of events counts for us. Comments (keep-alives) and the other fields are passed over; lines end with
//! `\n`, `\r\n` or `\r`, as the HTML standard has it.

/// An event, or what is left of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The data, its lines joined with `\n`.
    Data(Vec<u8>),
    /// An event that was longer than the limit, and was not kept.
    TooLong {
        /// Its length, line by line without their ends.
        bytes: usize,
    },
}

/// Takes bytes, gives events.
#[derive(Debug)]
pub(super) struct Events {
    limit: usize,
    /// The line so far; of one that is too long nothing.
    line: Vec<u8>,
    /// Its whole length so far.
    line_length: usize,
    /// The event's data so far.
    data: Option<Vec<u8>>,
    /// Length of an event that is too long, so far.
    skipped: Option<usize>,
    /// The last byte was a `\r`, so a `\n` now ends no line.
    after_return: bool,
    /// No line has ended yet: a byte order mark may stand in front of it.
    is_first: bool,
}

/// What some servers put in front of everything.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

impl Events {
    /// No event is longer than `limit` bytes.
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            line_length: 0,
            data: None,
            skipped: None,
            after_return: false,
            is_first: true,
        }
    }

    /// Takes the next bytes; gives the events that end in them.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some((first, rest)) = bytes.split_first() {
            if std::mem::take(&mut self.after_return) && *first == b'\n' {
                bytes = rest;
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (content, ended) = bytes.split_at(end.unwrap_or(bytes.len()));
            self.keep(content);
            let Some((mark, rest)) = ended.split_first() else { break };
            self.after_return = *mark == b'\r';
            bytes = rest;
            events.extend(self.end_line());
        }
        events
    }

    /// The last event, if the stream ended without the empty line that ends one: some servers leave it out.
    pub(super) fn finish(&mut self) -> Option<Event> {
        if self.line_length > 0 {
            // Not an empty line, so it ends no event.
            self.end_line();
        }
        self.end_event()
    }

    fn keep(&mut self, content: &[u8]) {
        self.line_length += content.len();
        let kept = self.data.as_ref().map_or(0, Vec::len);
        if let Some(skipped) = &mut self.skipped {
            *skipped = skipped.saturating_add(content.len());
        } else if self.line_length + kept > self.limit {
            self.skipped = Some(self.line_length + kept);
            self.line = Vec::new();
            self.data = None;
        } else {
            self.line.extend_from_slice(content);
        }
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let is_first = std::mem::replace(&mut self.is_first, false);
        if std::mem::take(&mut self.line_length) == 0 {
            return self.end_event();
        }
        let line = line.strip_prefix(BYTE_ORDER_MARK).filter(|_| is_first).unwrap_or(&line);
        let value = match line.strip_prefix(b"data") {
            Some([]) => &[],
            Some([b':', b' ', value @ ..] | [b':', value @ ..]) => value,
            _ => return None,
        };
        match &mut self.data {
            None => self.data = Some(value.to_vec()),
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
        }
        None
    }

    fn end_event(&mut self) -> Option<Event> {
        let data = self.data.take();
        match self.skipped.take() {
            Some(bytes) => Some(Event::TooLong { bytes }),
            None => data.map(Event::Data),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(limit: usize, chunks: &[&[u8]]) -> Vec<Event> {
        let mut reader = Events::new(limit);
        let mut events: Vec<_> = chunks.iter().flat_map(|chunk| reader.push(chunk)).collect();
        events.extend(reader.finish());
        events
    }

    fn data(text: &str) -> Event {
        Event::Data(text.as_bytes().to_vec())
    }

    #[test]
    fn the_data_of_events_is_found_among_everything_else() {
        let stream = "\u{feff}: keep-alive\n\nevent: x\ndata: one\r\nid: 7\r\n\r\ndata:two\rdata\rdata:  three\r\rdatum: 4\n\n\
                      data: ü\n\ndata: last";
        let expected = [data("one"), data("two\n\n three"), data("ü"), data("last")];
        assert_eq!(events(100, &[stream.as_bytes()]), expected);
    }

    #[test]
    fn an_event_that_is_too_long_is_skipped_and_the_next_is_read() {
        let stream = b"data: 12345678\ndata: 9\n\ndata: a\ndata: b\n\n";
        assert_eq!(events(10, &[stream]), [Event::TooLong { bytes: 21 }, data("a\nb")]);
        // Many short lines make a long event as well.
        let stream = b"data: 1234\ndata: 5678\n\ndata: c\n\n";
        assert_eq!(events(12, &[stream]), [Event::TooLong { bytes: 14 }, data("c")]);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_events(
            words in prop::collection::vec(
                prop::sample::select(vec!["data: ", "data", ":", "ü", "ab", " ", "\r", "\n", "\n\n", "\r\n", "{}"]),
                0..40,
            ),
            cuts in prop::collection::vec(0_usize..120, 0..8),
        ) {
            let bytes = words.concat().into_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(events(16, &chunks), events(16, &[&bytes]));
            prop_assert_eq!(events(16, &single), events(16, &[&bytes]));
        }
    }
}
