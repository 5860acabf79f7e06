// What was heard in a session, over all connections that it took. No dependency on a browser.
//
// The server sends lines that are final exactly once (mode=diff), numbered by `id`. What it forgets after a while is
// kept here.

/** The seconds of an H:MM:SS.cc. */
export function parseClock(text) {
  const [hours, minutes, seconds] = text.split(':').map(Number);
  return hours * 3600 + minutes * 60 + seconds;
}

export class Transcript {
  constructor() {
    /** Final lines: { start, end (seconds), text, speaker, language, words }. */
    this.lines = [];
    /** The line that grows: { text, words, start, end }, or null. */
    this.running = null;
    /** What may still change, after the running line. */
    this.tail = '';
    this.base = 0;
    this.last = -1;
  }

  /** A new connection, whose first sample is at this second. What was not final comes again. */
  begin(base) {
    this.base = base;
    this.last = -1;
    this.running = null;
    this.tail = '';
  }

  /** Takes a snapshot or a diff; gives the lines that are new. */
  apply(message) {
    const added = [];
    for (const line of message.lines ?? message.new_lines ?? []) {
      if (line.id > this.last) {
        this.last = line.id;
        added.push(this.placed(line));
      }
    }
    this.lines.push(...added);
    this.running = message.running ? this.placed(message.running) : null;
    // The buffer begins with the text of the running line.
    this.tail = this.running
      ? message.buffer_transcription.trimStart().slice(this.running.text.length)
      : message.buffer_transcription;
    return added;
  }

  placed(line) {
    const moved = (words) => words.map((word) => ({
      ...word,
      start: this.base + word.start,
      end: this.base + word.end,
    }));
    return {
      start: this.base + parseClock(line.start),
      end: this.base + parseClock(line.end),
      text: line.text,
      speaker: line.speaker,
      language: line.detected_language ?? null,
      words: moved(line.words ?? []),
    };
  }

  /** Lines that somebody spoke. */
  get spoken() {
    return this.lines.filter((line) => line.speaker > 0 && line.text !== '');
  }
}
