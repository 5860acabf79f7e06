// Listens: lives as long as there is something to listen to, whether or not the popup is open.

import { capture } from './lib/capture.js';
import { Session } from './lib/session.js';

// Lines that the captions show; the popup has them all.
const SHOWN = 2;

let session = null;
let sound = null;
/** The last thing that was said to everybody. */
let last = { status: 'idle', text: '' };

function say(change) {
  const { transcript } = session;
  last = { ...last, ...change };
  chrome.runtime.sendMessage({
    to: 'background',
    type: 'captions',
    ...last,
    lines: transcript.spoken.slice(-SHOWN).map((line) => line.text),
    running: transcript.running?.text ?? '',
    tail: transcript.tail,
  }).catch(() => {});
}

function constraints({ source, streamId }) {
  return source === 'tab'
    ? { audio: { mandatory: { chromeMediaSource: 'tab', chromeMediaSourceId: streamId } } }
    : { audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } };
}

const REFUSED = 'the microphone is not allowed yet; open the options of this extension and allow it there';

async function start(message) {
  stop();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia(constraints(message));
  } catch (error) {
    throw new Error(error.name === 'NotAllowedError' && message.source === 'microphone' ? REFUSED : error.message);
  }
  const { server, token, language } = message.settings;
  const mine = new Session(server, { language, token, words: 'false' }, {
    status: (status, text) => say({ status, text }),
    update: () => say({}),
    notice: (text) => say({ text }),
    lost: (seconds) => say({ text: `${seconds.toFixed(1)} s of sound are lost` }),
  });
  session = mine;
  last = { status: 'connecting', text: '' };
  const listening = await capture(stream, ({ pcm }) => mine.push(pcm), {
    // A captured tab is silent unless somebody plays it.
    audible: message.source === 'tab',
    onend: () => mine.end(),
  });
  sound = listening;
  mine.done.then(() => {
    listening.stop();
    if (sound === listening) sound = null;
  });
  mine.open();
}

function stop() {
  sound?.stop();
  sound = null;
  session?.end();
}

chrome.runtime.onMessage.addListener((message, _sender, respond) => {
  if (message.to !== 'offscreen') return false;
  if (message.type === 'start') {
    start(message).then(() => respond({}), (error) => respond({ error: error.message }));
    return true;
  }
  if (message.type === 'stop') stop();
  const { spoken = [], running = null, tail = '' } = session?.transcript ?? {};
  respond({ ...last, spoken: spoken.map((line) => line.text), running: running?.text ?? '', tail });
  return false;
});
