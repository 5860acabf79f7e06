// Transcripts as files. No dependency on a browser.

function clock(seconds, fraction) {
  const ms = Math.max(0, Math.round(seconds * 1000));
  const two = (value) => String(Math.floor(value)).padStart(2, '0');
  const rest = String(ms % 1000).padStart(3, '0');
  return `${two(ms / 3600000)}:${two((ms / 60000) % 60)}:${two((ms / 1000) % 60)}${fraction}${rest}`;
}

const several = (lines) => new Set(lines.map((line) => line.speaker)).size > 1;

// A file with one speaker names none.
function speakers(lines) {
  return several(lines) ? (line) => `Speaker ${line.speaker}: ` : () => '';
}

// A blank line would end a cue.
const oneParagraph = (text) => text.replace(/\s*\n\s*/g, ' ').trim();

export function toTxt(lines) {
  const name = speakers(lines);
  return lines.map((line) => `${name(line)}${line.text}\n`).join('');
}

export function toSrt(lines) {
  const name = speakers(lines);
  const cue = (line, i) => `${i + 1}\n${clock(line.start, ',')} --> ${clock(line.end, ',')}\n`
    + `${name(line)}${oneParagraph(line.text)}\n`;
  return lines.map(cue).join('\n');
}

export function toVtt(lines) {
  const escaped = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
  const named = several(lines);
  const voice = (line) => (named ? `<v Speaker ${line.speaker}>` : '');
  const cue = (line) => `\n${clock(line.start, '.')} --> ${clock(line.end, '.')}\n`
    + `${voice(line)}${escaped(oneParagraph(line.text))}\n`;
  return `WEBVTT\n${lines.map(cue).join('')}`;
}

export function toJson(lines, about) {
  return `${JSON.stringify({ ...about, text: lines.map((line) => line.text).join(' '), lines }, null, 2)}\n`;
}

export const FORMATS = {
  txt: { type: 'text/plain', write: toTxt },
  srt: { type: 'application/x-subrip', write: toSrt },
  vtt: { type: 'text/vtt', write: toVtt },
  json: { type: 'application/json', write: toJson },
};
