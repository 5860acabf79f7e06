// Tries the parts of the page that need no browser. Prints nothing when all is well.
import assert from 'node:assert/strict';
import { Resampler, toPcm } from '../../assets/extension/lib/resample.js';
import { Transcript, parseClock } from '../../assets/extension/lib/transcript.js';
import { Session, socketUrl } from '../../assets/extension/lib/session.js';
import { toJson, toSrt, toTxt, toVtt } from '../../assets/page/export.js';

// ---- resampling

function tone(rate, hertz, seconds) {
  return Float32Array.from({ length: rate * seconds }, (_, i) => Math.sin((2 * Math.PI * hertz * i) / rate));
}

function resampled(rate, samples, block) {
  const resampler = new Resampler(rate);
  const parts = [];
  for (let at = 0; at < samples.length; at += block) parts.push(...resampler.push(samples.subarray(at, at + block)));
  return Float32Array.from(parts);
}

const rms = (samples) => Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
const steady = (samples) => samples.subarray(1000, samples.length - 1000);

for (const rate of [8000, 11025, 16000, 22050, 44100, 48000, 96000]) {
  const output = resampled(rate, tone(rate, 1000, 1), 128);
  assert.ok(Math.abs(output.length - 16000) < 120, `${rate}: ${output.length} samples of a second`);
  assert.ok(Math.abs(rms(steady(output)) - Math.SQRT1_2) < 0.005, `${rate}: 1 kHz comes out at ${rms(steady(output))}`);
  // The sizes of blocks do not matter.
  assert.deepEqual(resampled(rate, tone(rate, 1000, 0.2), 128), resampled(rate, tone(rate, 1000, 0.2), 1777));
}
for (const rate of [44100, 48000]) {
  for (const hertz of [300, 3000, 6900]) {
    assert.ok(Math.abs(rms(steady(resampled(rate, tone(rate, hertz, 1), 128))) - Math.SQRT1_2) < 0.02, `${rate} ${hertz}`);
  }
  for (const hertz of [9100, 10000, 15000, 20000]) {
    const left = 20 * Math.log10(rms(steady(resampled(rate, tone(rate, hertz, 1), 128))) / Math.SQRT1_2);
    assert.ok(left < -60, `${hertz} Hz at ${rate} folds back at ${left} dB`);
  }
}
assert.deepEqual([...toPcm([0, 0.5, -1, 7, -7])], [0, 16384, -32768, 32767, -32768]);

// ---- files

const line = (start, end, text, speaker = 1) => ({ start, end, text, speaker, language: 'en', words: [] });
const lines = [line(0.5, 2.25, 'a < b & c'), line(3661.001, 3662, 'two\n\n lines', 1)];
assert.equal(toTxt(lines), 'a < b & c\ntwo\n\n lines\n');
assert.equal(toSrt(lines), '1\n00:00:00,500 --> 00:00:02,250\na < b & c\n\n2\n01:01:01,001 --> 01:01:02,000\ntwo lines\n');
assert.equal(
  toVtt(lines),
  'WEBVTT\n\n00:00:00.500 --> 00:00:02.250\na &lt; b &amp; c\n\n01:01:01.001 --> 01:01:02.000\ntwo lines\n',
);
assert.equal(JSON.parse(toJson(lines, { model: 'm' })).lines[0].text, 'a < b & c');
const two = [line(0, 1, 'hello'), line(1, 2, 'hi', 2)];
assert.equal(toTxt(two), 'Speaker 1: hello\nSpeaker 2: hi\n');
assert.ok(toVtt(two).includes('<v Speaker 2>hi'));

// ---- the transcript

assert.equal(parseClock('1:02:03.50'), 3723.5);
const wire = (id, text, start, extra = {}) => ({
  id, text, speaker: 1, start: `0:00:0${start}.00`, end: `0:00:0${start}.50`, final: true, ...extra,
});
const transcript = new Transcript();
transcript.begin(0);
transcript.apply({ type: 'snapshot', lines: [], buffer_transcription: '' });
let added = transcript.apply({ new_lines: [wire(0, 'one', 1)], running: wire(1, 'two', 2), buffer_transcription: ' two three' });
assert.deepEqual(added.map(({ text }) => text), ['one']);
assert.deepEqual([transcript.running.text, transcript.tail], ['two', ' three']);
// After a broken connection the clock begins anew, and lines that a server repeats are not doubled.
transcript.begin(10);
added = transcript.apply({ lines: [wire(0, 'two three', 1)], buffer_transcription: 'four' });
assert.deepEqual([added[0].start, transcript.running, transcript.tail], [11, null, 'four']);
added = transcript.apply({ lines_pruned: 1, new_lines: [wire(0, 'two three', 1), wire(1, 'four', 2)], buffer_transcription: '' });
assert.deepEqual(added.map(({ text }) => text), ['four']);
assert.deepEqual(transcript.spoken.map(({ text }) => text), ['one', 'two three', 'four']);

// ---- the session, with a server that breaks off

assert.equal(socketUrl('localhost:8000'), 'ws://localhost:8000/asr?mode=diff');
assert.equal(socketUrl('https://host/asr', { token: 'a&b', language: '' }), 'wss://host/asr?mode=diff&token=a%26b');
assert.throws(() => socketUrl('ftp://host'));

const sockets = [];
globalThis.WebSocket = class {
  static OPEN = 1;

  constructor(url) {
    Object.assign(this, { url, readyState: 1, bufferedAmount: 0, sent: [] });
    sockets.push(this);
  }

  send(data) { this.sent.push(data); }

  close() { this.readyState = 3; }

  say(message) { this.onmessage({ data: JSON.stringify(message) }); }
};
const heard = (text, end, id) => ({
  type: 'diff', new_lines: [{ id, text, speaker: 1, start: '0:00:00.00', end }], buffer_transcription: '', remaining_time_transcription_processing: 0, remaining_time_transcription_policy: 0,
});
const seen = [];
const session = new Session('localhost:1', {}, { status: (state) => seen.push(state) });
const timers = [];
const { setTimeout: original } = globalThis;
globalThis.setTimeout = (action, after) => { timers.push([action, after]); return 0; };
session.open();
const second = (value) => new Int16Array(16000).fill(value);
session.push(second(1));
sockets[0].say({ type: 'config' });
session.push(second(2));
session.push(second(3));
assert.deepEqual(sockets[0].sent.map((pcm) => pcm[0]), [1, 2, 3], 'what came before the connection is sent');
sockets[0].say(heard('first', '0:00:01.20', 0));
await session.closed.call(session, 1006, '');
session.push(second(4));
const retry = timers.find(([, after]) => after >= 750 && after <= 1250);
assert.ok(retry, `the first pause is about a second: ${timers.map(([, after]) => after)}`);
retry[0]();
sockets[1].say({ type: 'config' });
assert.deepEqual(sockets[1].sent.map((pcm) => pcm[0]), [2, 3, 4], 'what was not final is sent again');
sockets[1].say(heard('second', '0:00:00.50', 0));
assert.equal(session.transcript.lines[1].end, 1.5, 'on the clock of the whole session');
session.end();
assert.equal(sockets[1].sent.at(-1).byteLength, 0);
sockets[1].say({ type: 'ready_to_stop' });
await session.done;
assert.deepEqual(seen, ['connecting', 'live', 'retrying', 'retrying', 'live', 'ending', 'ended']);
// A minute without a connection: what does not fit is counted, and said.
let lost = 0;
const late = new Session('localhost:1', {}, { lost: (seconds) => { lost = seconds; } });
late.open();
for (let i = 0; i < 60; i += 1) late.push(second(i));
assert.equal(lost, 30);
// Bad parameters are not tried again.
const refused = new Session('localhost:1', {}, { status: (state, text) => seen.push(state, text) });
refused.open();
sockets.at(-1).say({ type: 'error', error: 'hop: no' });
await refused.closed(4400, 'invalid session parameters');
assert.deepEqual(seen.slice(-2), ['failed', 'hop: no']);
globalThis.setTimeout = original;
