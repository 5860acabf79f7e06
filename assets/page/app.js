// The page: joins the controls, the sound, the session and the view.

import { capture } from './lib/capture.js';
import { toPcm } from './lib/resample.js';
import { Session } from './lib/session.js';
import { FORMATS, toTxt } from './export.js';
import { Delay, Level } from './meters.js';
import { View, clock } from './view.js';

const $ = (id) => document.getElementById(id);
const RATE = 16000;

// ---- what is remembered: settings in the browser, the token in this tab only

function stored(storage, key) {
  try {
    return storage().getItem(`godctl.${key}`) ?? '';
  } catch {
    return ''; // storage is switched off
  }
}

function store(storage, key, value) {
  try {
    storage().setItem(`godctl.${key}`, value);
  } catch { /* then it is forgotten with the page */ }
}

const local = () => localStorage;
const tab = () => sessionStorage;

for (const id of ['segment', 'policy', 'prompt', 'hotwords']) {
  const field = $(id);
  const value = stored(local, id);
  if (value !== '') field.value = value;
  field.addEventListener('change', () => store(local, id, field.value));
}

const address = new URL(location.href);
if (address.searchParams.has('token')) {
  store(tab, 'token', address.searchParams.get('token'));
  $('token').value = address.searchParams.get('token');
  // It does not stay in the history or in what is copied from the address bar.
  address.searchParams.delete('token');
  history.replaceState(null, '', address);
} else {
  $('token').value = stored(tab, 'token');
}
$('token').addEventListener('change', () => {
  store(tab, 'token', $('token').value);
  learn();
});

// ---- what is said to the user

let toastTimer;
function toast(text) {
  $('toast').textContent = text;
  $('toast').hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { $('toast').hidden = true; }, 6000);
}

function status(state, text) {
  $('status').dataset.state = state;
  $('status-text').textContent = text;
}

// ---- the server

function headers() {
  const token = $('token').value;
  return token === '' ? {} : { authorization: `Bearer ${token}` };
}

/** Why no session can be had, as far as HTTP tells. */
async function diagnose() {
  let answer;
  try {
    answer = await fetch('ready', { headers: headers(), cache: 'no-store' });
  } catch {
    return { message: 'the server cannot be reached' };
  }
  if (answer.ok) return null;
  const { message } = await answer.json().catch(() => ({}));
  if (answer.status === 401 || answer.status === 403) {
    $('options').open = true;
    $('token').focus();
    return { fatal: true, message: message ?? 'the server wants another token' };
  }
  return { message: message ?? `HTTP ${answer.status}`, retryAfter: Number(answer.headers.get('retry-after')) };
}

let model = null;
let learning;
async function learn() {
  clearTimeout(learning);
  const trouble = await diagnose();
  if (trouble) {
    if (!session) status(trouble.fatal ? 'failed' : 'connecting', trouble.message);
    if (!trouble.fatal) learning = setTimeout(learn, 1500);
    return;
  }
  model = (await (await fetch('ready', { headers: headers(), cache: 'no-store' })).json()).model;
  if (!session) status('idle', 'Ready');
  $('model').textContent = `${model.name} · ${model.device}`;
  const names = new Intl.DisplayNames(['en'], { type: 'language' });
  const options = model.languages
    .map((code) => [code, languageName(names, code)])
    .sort((a, b) => a[1].localeCompare(b[1]))
    .map(([code, name]) => new Option(name, code));
  const several = model.languages.length > 1;
  $('language').replaceChildren(...(several ? [new Option('Automatic', ''), ...options] : options));
  const wanted = stored(local, 'language');
  if (model.languages.includes(wanted)) $('language').value = wanted;
  $('language').disabled = !several;
  $('translate-field').hidden = !model.multilingual;
  $('context').hidden = !model.prompts;
}

function languageName(names, code) {
  try {
    return names.of(code) ?? code;
  } catch {
    return code; // not a code that browsers know
  }
}

$('language').addEventListener('change', () => store(local, 'language', $('language').value));

// ---- the session

const view = new View({
  paper: $('transcript'), lines: $('lines'), live: $('live'), running: $('running'), tail: $('tail'),
  empty: $('empty'), latest: $('latest'),
});
const level = new Level($('level'));
const delay = new Delay({ box: $('delay'), text: $('delay-text'), fill: $('delay-fill') });

let session = null;
let sound = null;
let paused = false;
let lock = null;
/** Lines of sessions before, and where the present one begins on their clock. */
let past = [];
let offset = 0;
/** Lines of the present session that were cleared away. */
let cleared = 0;

const shifted = (line) => ({
  ...line,
  start: line.start + offset,
  end: line.end + offset,
  words: line.words.map((word) => ({ ...word, start: word.start + offset, end: word.end + offset })),
});

/** All that was said and will not change. */
function spoken() {
  const { lines = [], running = null } = session?.transcript ?? {};
  const current = [...lines.slice(cleared), ...(running ? [running] : [])];
  return [...past, ...current.map(shifted)].filter((line) => line.speaker > 0 && line.text !== '');
}

function buttons() {
  const recording = session !== null && !session.ended;
  $('record').setAttribute('aria-pressed', String(recording));
  $('record-text').textContent = recording ? 'Stop' : 'Start';
  $('record').disabled = session !== null && session.ended;
  $('pause').disabled = !recording || sound === null;
  $('pause').setAttribute('aria-pressed', String(paused));
  $('pause').textContent = paused ? 'Resume' : 'Pause';
  for (const id of ['microphone', 'choose']) $(id).disabled = session !== null;
  const empty = spoken().length === 0;
  for (const button of document.querySelectorAll('[data-format], #copy, #clear')) button.disabled = empty;
}

const STATUS = {
  connecting: 'Connecting…', retrying: 'Connecting again…', live: 'Listening', ending: 'Waiting for the last words…', ended: 'Done',
};

function open() {
  const params = {
    language: $('language').value,
    task: $('translate').checked && model?.multilingual ? 'translate' : '',
    segment: $('segment').value,
    policy: $('policy').value,
    prompt: model?.prompts ? $('prompt').value : '',
    hotwords: model?.prompts ? $('hotwords').value : '',
    words: 'true',
    token: $('token').value,
  };
  let counted = 0;
  let detecting = false;
  let detected = 'Detected as you speak.';
  session = new Session(new URL('asr', location.href).href, params, {
    status(state, text) {
      const shown = state === 'live' && paused ? 'paused' : state;
      status(shown, text || (paused && state === 'live' ? 'Paused' : STATUS[state] ?? state));
      if (state === 'live') view.show(session.transcript.running, session.transcript.tail, true);
      buttons();
    },
    config(config) {
      detecting = config.language === 'auto';
      $('detected').textContent = detecting ? detected : '';
      if (config.ignored?.length > 0) toast(`The server does not know: ${config.ignored.join(', ')}`);
    },
    update(transcript, added) {
      for (const line of added) {
        view.add(shifted(line));
        if (line.language && detecting) {
          const names = new Intl.DisplayNames(['en'], { type: 'language' });
          detected = `Detected: ${languageName(names, line.language)}`;
          $('detected').textContent = detected;
        }
      }
      view.show(transcript.running && shifted(transcript.running), transcript.tail, !session.finished);
      // Each word that has become final just now, however its line is cut.
      if (sound) {
        const words = transcript.spoken.reduce((sum, line) => sum + line.words.length, 0)
          + (transcript.running?.words.length ?? 0);
        const last = (transcript.running ?? transcript.spoken.at(-1))?.words.at(-1);
        if (words > counted && last) delay.word(Math.max(0, session.captured / RATE - last.end));
        counted = words;
      }
      delay.show(session.behind);
      buttons();
    },
    notice: toast,
    lost(seconds) {
      toast(`${seconds.toFixed(1)} s of sound are lost: the server was away for too long`);
    },
  }, { diagnose });
  session.done.then(close);
  session.open();
  buttons();
}

function close() {
  sound?.stop();
  sound = null;
  paused = false;
  lock?.release();
  lock = null;
  const last = session.transcript;
  past.push(...last.lines.slice(cleared).map(shifted));
  // What was committed when a session broke off for good is kept; what was not is gone.
  if (last.running) {
    past.push(shifted(last.running));
    view.add(shifted(last.running));
  }
  offset += Math.max(session.captured / RATE, last.lines.at(-1)?.end ?? 0);
  cleared = 0;
  session = null;
  view.show(null, '');
  buttons();
}

async function awake() {
  try {
    lock = await navigator.wakeLock?.request('screen') ?? null;
  } catch { /* a battery that is low says no */ }
}

document.addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'visible' && sound) awake();
});

async function startMicrophone() {
  if (!navigator.mediaDevices) {
    toast('Browsers give the microphone only to pages on localhost or behind https.');
    return;
  }
  const wanted = $('microphone').value;
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      // The model was trained on plain recordings; what makes a call pleasant costs it words.
      audio: {
        deviceId: wanted ? { exact: wanted } : undefined,
        echoCancellation: false,
        noiseSuppression: false,
        autoGainControl: false,
      },
    });
  } catch (error) {
    const why = {
      NotAllowedError: 'The browser does not let this page use the microphone; allow it beside the address.',
      NotFoundError: 'There is no microphone.',
      OverconstrainedError: 'That microphone is gone; choose another.',
      NotReadableError: 'Another program holds the microphone.',
    };
    toast(why[error.name] ?? `The microphone does not work: ${error.message}`);
    return;
  }
  if (session) return;
  level.clear();
  delay.clear();
  open();
  const current = session;
  try {
    sound = await capture(stream, (block) => {
      if (paused || current.ended) return;
      level.push(block);
      current.push(block.pcm);
      $('time').textContent = clock(current.captured / RATE);
      delay.show(current.behind);
    }, { onend: () => { toast('The microphone is gone.'); stop(); } });
  } catch (error) {
    toast(`The sound cannot be read: ${error.message}`);
    current.end();
  }
  if (current.finished) sound?.stop();
  else awake();
  buttons();
  microphones();
}

/** A container that cannot be read from its beginning on is decoded here. */
async function readable(file) {
  const head = new Uint8Array(await file.slice(0, 12).arrayBuffer());
  const isMp4 = String.fromCharCode(...head.slice(4, 8)) === 'ftyp';
  if (!isMp4) return file;
  const audio = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
  const mono = new Float32Array(audio.length);
  for (let channel = 0; channel < audio.numberOfChannels; channel += 1) {
    audio.getChannelData(channel).forEach((sample, i) => { mono[i] += sample / audio.numberOfChannels; });
  }
  return new Blob([toPcm(mono)]);
}

async function startFile(file) {
  if (session || !file) return;
  if (file.size === 0) {
    toast(`${file.name} is empty.`);
    return;
  }
  let blob;
  try {
    blob = await readable(file);
  } catch {
    toast(`${file.name} is not audio that this browser can decode.`);
    return;
  }
  if (session) return;
  level.clear();
  delay.clear();
  open();
  $('time').textContent = '0 %';
  await session.pushFile(blob, (part) => { $('time').textContent = `${Math.floor(part * 100)} %`; });
}

function stop() {
  if (!session || session.ended) return;
  sound?.stop();
  session.end();
  buttons();
}

function toggle() {
  if (session) stop();
  else startMicrophone();
}

function togglePause() {
  if (!session || session.ended || !sound) return;
  paused = !paused;
  if (paused) session.flush();
  status(paused ? 'paused' : 'live', paused ? 'Paused' : STATUS.live);
  buttons();
}

async function microphones() {
  const devices = await navigator.mediaDevices?.enumerateDevices() ?? [];
  const inputs = devices.filter((device) => device.kind === 'audioinput' && device.deviceId !== 'default' && device.label);
  const chosen = $('microphone').value || stored(local, 'microphone');
  $('microphone').replaceChildren(
    new Option('Default microphone', ''),
    ...inputs.map((device) => new Option(device.label, device.deviceId)),
  );
  if (inputs.some((device) => device.deviceId === chosen)) $('microphone').value = chosen;
}

// ---- taking it along

function download(format) {
  const lines = spoken();
  if (lines.length === 0) return;
  const { type, write } = FORMATS[format];
  const about = { model: model?.name ?? null, created: new Date().toISOString() };
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([write(lines, about)], { type: `${type};charset=utf-8` }));
  const now = new Date(Date.now() - new Date().getTimezoneOffset() * 60000);
  link.download = `transcript-${now.toISOString().slice(0, 16).replace('T', '-').replace(':', '')}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function copy() {
  const text = toTxt(spoken());
  if (text === '') return;
  try {
    await navigator.clipboard.writeText(text);
    toast('Copied.');
  } catch {
    toast('The browser does not let this page copy; download the text instead.');
  }
}

function clear() {
  past = [];
  cleared = session?.transcript.lines.length ?? 0;
  view.clear();
  $('empty').hidden = session !== null;
  if (!session) $('time').textContent = '0:00';
  buttons();
}

// ---- look and keys

function theme(next) {
  if (next) document.documentElement.dataset.theme = next;
  level.draw();
}

function toggleTheme() {
  const system = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
  const next = (document.documentElement.dataset.theme ?? system) === 'dark' ? 'light' : 'dark';
  store(local, 'theme', next);
  theme(next);
}

const KEYS = [
  [' ', 'Space', 'start or stop the microphone', toggle],
  ['p', 'P', 'pause or resume', togglePause],
  ['o', 'O', 'open a recording', () => { if (!session) $('file').click(); }],
  ['c', 'C', 'copy the transcript', copy],
  ['1', '1', 'download as text', () => download('txt')],
  ['2', '2', 'download as SRT subtitles', () => download('srt')],
  ['3', '3', 'download as WebVTT subtitles', () => download('vtt')],
  ['4', '4', 'download as JSON', () => download('json')],
  ['l', 'L', 'choose the language', () => $('language').focus()],
  ['t', 'T', 'light or dark', toggleTheme],
  ['?', '?', 'show these keys', () => $('shortcuts').showModal()],
];

for (const [, name, what] of KEYS) {
  const [term, detail, key] = ['dt', 'dd', 'kbd'].map((tag) => document.createElement(tag));
  key.textContent = name;
  term.append(key);
  detail.textContent = what;
  $('keys').append(term, detail);
}

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || $('shortcuts').open) return;
  const writes = event.target.closest('input, textarea, select');
  // Space presses what has the focus.
  const presses = event.key === ' ' && event.target.closest('button, summary, a');
  if (writes || presses) return;
  const key = KEYS.find(([pressed]) => pressed === event.key.toLowerCase());
  if (!key) return;
  event.preventDefault();
  key[3]();
});

$('record').addEventListener('click', toggle);
$('pause').addEventListener('click', togglePause);
$('choose').addEventListener('click', () => $('file').click());
$('file').addEventListener('change', () => {
  startFile($('file').files[0]);
  $('file').value = '';
});
$('copy').addEventListener('click', copy);
$('clear').addEventListener('click', clear);
$('theme').addEventListener('click', toggleTheme);
$('help').addEventListener('click', () => $('shortcuts').showModal());
$('microphone').addEventListener('change', () => store(local, 'microphone', $('microphone').value));
for (const button of document.querySelectorAll('[data-format]')) {
  button.addEventListener('click', () => download(button.dataset.format));
}
document.addEventListener('dragover', (event) => {
  event.preventDefault();
  $('drop').classList.toggle('over', session === null);
});
document.addEventListener('dragleave', (event) => {
  if (event.relatedTarget === null) $('drop').classList.remove('over');
});
document.addEventListener('drop', (event) => {
  event.preventDefault();
  $('drop').classList.remove('over');
  if (session) toast('Stop first, then drop it again.');
  else startFile(event.dataTransfer.files[0]);
});

theme(stored(local, 'theme') || null);
buttons();
microphones();
navigator.mediaDevices?.addEventListener('devicechange', microphones);
learn();
