// A session with the server's /asr: audio out, transcript in. When the connection breaks it is made anew, with growing
// pauses, and the audio whose words were not final yet is sent again, so that nothing is missing in between.

import { Transcript } from './transcript.js';

const RATE = 16000;
// Samples kept to be sent again, or until there is a connection.
const KEPT = 30 * RATE;
// Bytes that may wait in the socket before a file waits, or live sound is given up: the second is a minute of it.
const FILE_WAITS = 256 * 1024;
const LIVE_WAITS = 60 * RATE * 2;
const FIRST_RETRY_MS = 1000;
const LAST_RETRY_MS = 30000;
const KEEPALIVE_MS = 10000;
// Nothing that trying again would change: bad parameters, no or a wrong token, not allowed.
const FATAL = new Set([1008, 4400, 4401, 4403]);

/** The websocket of a server that is given as http(s)://, ws(s):// or host:port. */
export function socketUrl(server, params = {}) {
  const full = /^[a-z]+:\/\//i.test(server) ? server : `ws://${server}`;
  const url = new URL(full.replace(/^http/i, 'ws'));
  if (url.protocol !== 'ws:' && url.protocol !== 'wss:') throw new TypeError(`no such server: ${server}`);
  if (url.pathname === '/' || url.pathname === '') url.pathname = '/asr';
  for (const [name, value] of Object.entries({ mode: 'diff', ...params })) {
    if (value !== '' && value != null) url.searchParams.set(name, value);
  }
  return url.href;
}

/**
 * `events` may have:
 * - status(state, text): connecting, live, retrying, ending, ended, failed;
 * - config(message): what is in force;
 * - update(transcript, added, message): there is something new;
 * - notice(text): something went wrong, and the session goes on;
 * - lost(seconds): live sound that could not be kept, in all.
 */
export class Session {
  constructor(server, params, events = {}, { diagnose = async () => null } = {}) {
    this.server = server;
    this.params = params;
    this.events = events;
    this.diagnose = diagnose;
    this.transcript = new Transcript();
    this.socket = null;
    this.configured = false;
    this.tries = 0;
    this.ended = false;
    this.finished = false;
    /** A recording is sent as a whole: a broken connection cannot be mended. */
    this.whole = false;
    /** Samples that were captured so far. */
    this.captured = 0;
    /** What may have to be sent again: { at, pcm, sent }. */
    this.queue = [];
    this.lost = 0;
    this.lag = { processing: 0, policy: 0 };
    this.done = new Promise((resolve) => {
      this.finish = resolve;
    });
  }

  say(event, ...args) {
    this.events[event]?.(...args);
  }

  /** Connects; again and again when that fails for a while. */
  open() {
    if (this.finished) return;
    this.say('status', this.tries === 0 ? 'connecting' : 'retrying', '');
    let socket;
    try {
      socket = new WebSocket(socketUrl(this.server, this.params));
    } catch (error) {
      this.fail(error.message);
      return;
    }
    socket.binaryType = 'arraybuffer';
    this.socket = socket;
    this.configured = false;
    this.refusal = null;
    socket.onmessage = ({ data }) => {
      if (this.socket === socket) this.receive(JSON.parse(data));
    };
    socket.onclose = ({ code, reason }) => {
      if (this.socket === socket) this.closed(code, reason);
    };
  }

  receive(message) {
    switch (message.type) {
      case 'config':
        this.configured = true;
        this.tries = 0;
        this.transcript.begin((this.queue[0]?.at ?? this.captured) / RATE);
        this.say('config', message);
        this.say('status', this.ended ? 'ending' : 'live', '');
        for (const block of this.queue) {
          block.sent = false;
          this.put(block);
        }
        if (this.ended) this.sendEnd();
        break;
      case 'error':
        this.refusal = message;
        this.say('notice', message.error);
        break;
      case 'ready_to_stop':
        this.complete();
        break;
      case 'snapshot':
      case 'diff': {
        const added = this.transcript.apply(message);
        const settled = this.transcript.lines.at(-1)?.end ?? 0;
        this.forget((block) => block.sent && (block.at + block.pcm.length) / RATE <= settled);
        this.lag = {
          processing: message.remaining_time_transcription_processing,
          policy: message.remaining_time_transcription_policy,
        };
        if (message.error) this.say('notice', message.error);
        this.say('update', this.transcript, added, message);
        break;
      }
      default:
    }
  }

  async closed(code, reason) {
    this.socket = null;
    if (this.finished) return;
    const why = this.refusal?.error ?? reason;
    if (FATAL.has(code)) {
      this.fail(why || `the server closed with code ${code}`);
      return;
    }
    // A browser does not tell a script why a connection was refused; asking over HTTP does.
    const diagnosis = this.configured ? null : await this.diagnose();
    this.configured = false;
    if (this.finished) return;
    if (diagnosis?.fatal) {
      this.fail(diagnosis.message);
      return;
    }
    const text = why || diagnosis?.message || 'the connection broke';
    if (this.whole) {
      this.fail(text);
      return;
    }
    const asked = this.refusal?.retry_after ?? diagnosis?.retryAfter ?? 0;
    const backoff = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.tries) * (0.75 + Math.random() / 2);
    const pause = Math.max(backoff, asked * 1000);
    this.tries += 1;
    this.say('status', 'retrying', `${text}; trying again in ${Math.ceil(pause / 1000)} s`);
    setTimeout(() => {
      if (this.socket === null) this.open();
    }, pause);
  }

  /** Takes live sound. */
  push(pcm) {
    if (this.ended || this.finished) return;
    const block = { at: this.captured, pcm, sent: false };
    this.captured += pcm.length;
    this.queue.push(block);
    this.put(block);
    const oldest = this.captured - KEPT;
    this.forget((kept) => kept.at < oldest);
  }

  put(block) {
    const { socket } = this;
    if (!this.configured || socket?.readyState !== WebSocket.OPEN) return;
    // What finds the socket full stays in the queue, and is counted as lost when it leaves it.
    if (socket.bufferedAmount > LIVE_WAITS) return;
    socket.send(block.pcm);
    block.sent = true;
    this.spoke();
  }

  forget(condition) {
    while (this.queue.length > 0 && condition(this.queue[0])) {
      const block = this.queue.shift();
      if (!block.sent) {
        this.lost += block.pcm.length;
        this.say('lost', this.lost / RATE);
      }
    }
  }

  /** Sends a recording as it is; waits while the server has enough to do. `progress` gets a part of 1. */
  async pushFile(blob, progress = () => {}) {
    this.whole = true;
    const reader = blob.stream().getReader();
    let sent = 0;
    for (;;) {
      const { done, value } = await reader.read();
      if (done || this.finished) break;
      for (let at = 0; at < value.length; at += 65536) {
        while (!this.finished && !(this.configured && this.socket?.bufferedAmount < FILE_WAITS)) {
          await new Promise((resolve) => { setTimeout(resolve, 20); });
        }
        if (this.finished || this.ended) return;
        const part = value.subarray(at, at + 65536);
        this.socket.send(part);
        this.spoke();
        sent += part.length;
        progress(sent / blob.size);
      }
    }
    if (!this.finished) this.end();
  }

  /** Makes everything said so far final. */
  flush() {
    this.control({ type: 'flush' });
  }

  control(message) {
    if (this.configured && this.socket?.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify(message));
      this.spoke();
    }
  }

  /** Keeps a session alive that sends nothing. */
  spoke() {
    clearTimeout(this.idle);
    this.idle = setTimeout(() => this.control({ type: 'keepalive' }), KEEPALIVE_MS);
  }

  /** No more audio comes; the last words still do. */
  end() {
    if (this.ended || this.finished) return;
    this.ended = true;
    if (this.configured) {
      this.say('status', 'ending', '');
      this.sendEnd();
    } else if (this.captured === 0) {
      this.complete();
    }
  }

  sendEnd() {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(new ArrayBuffer(0));
  }

  /** Seconds of audio that wait here or in the server. */
  get behind() {
    const here = (this.socket?.bufferedAmount ?? 0) / 2 / RATE;
    return this.lag.processing + (this.whole ? 0 : here);
  }

  complete() {
    this.over();
    this.say('status', 'ended', '');
  }

  fail(text) {
    this.over();
    this.say('status', 'failed', text);
  }

  over() {
    this.finished = true;
    clearTimeout(this.idle);
    this.socket?.close(1000);
    this.socket = null;
    this.finish();
  }
}
