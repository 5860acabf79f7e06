import { Session, socketUrl } from './lib/session.js';

const $ = (id) => document.getElementById(id);
const FIELDS = ['server', 'token', 'language'];

const kept = await chrome.storage.local.get(FIELDS);
for (const id of FIELDS) $(id).value = kept[id] ?? '';
if ($('server').value === '') $('server').value = 'ws://127.0.0.1:8000';
$('origin').textContent = location.origin;

const values = () => Object.fromEntries(FIELDS.map((id) => [id, $(id).value.trim()]));

function note(text) {
  $('note').textContent = text;
}

$('form').addEventListener('submit', async (event) => {
  event.preventDefault();
  try {
    socketUrl(values().server);
  } catch {
    note('That is no address of a server; write ws://host:8000 or wss://host.');
    return;
  }
  await chrome.storage.local.set(values());
  note('Saved.');
});

$('try').addEventListener('click', () => {
  const { server, token, language } = values();
  note('Connecting…');
  const session = new Session(server, { token, language }, {
    config(config) {
      note(`It works: the model is ${config.model}, the language ${config.languages?.join(' or ') ?? config.language}.`);
      session.end();
    },
    status(state, text) {
      if (state === 'failed' || state === 'retrying') {
        note(text || 'There is no answer.');
        session.over();
      }
    },
  });
  session.open();
});

$('allow').addEventListener('click', async () => {
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    for (const track of stream.getTracks()) track.stop();
    note('The microphone is allowed.');
  } catch (error) {
    note(`The microphone is not allowed: ${error.message}`);
  }
});
