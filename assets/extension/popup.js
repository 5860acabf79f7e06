// Starts and stops. What listens goes on when this closes.

const $ = (id) => document.getElementById(id);

const STATUS = {
  idle: 'Ready', connecting: 'Connecting…', retrying: 'Connecting again…', live: 'Listening', ending: 'Waiting for the last words…',
  ended: 'Done', failed: 'Failed',
};
const ACTIVE = new Set(['connecting', 'retrying', 'live', 'ending']);

/** The tab to caption: the one that the popup belongs to, or the one that was named when this is opened as a page. */
async function tabId() {
  const named = new URL(location.href).searchParams.get('tab');
  if (named) return Number(named);
  const [tab] = await chrome.tabs.query({ active: true, currentWindow: true });
  return tab.id;
}

let spoken = [];

function show({ status, text, running, tail }) {
  $('status').textContent = text || STATUS[status] || status;
  $('status').dataset.state = status;
  const active = ACTIVE.has(status);
  $('start').hidden = active;
  $('stop').hidden = !active;
  const line = (name, content) => {
    const element = document.createElement('span');
    element.className = name;
    element.textContent = content;
    return element;
  };
  $('text').replaceChildren(
    ...spoken.flatMap((said) => [line('line', said)]),
    line('running', running ?? ''),
    line('tail', tail ?? ''),
  );
  $('text').hidden = $('text').textContent === '';
  $('copy').hidden = spoken.length === 0;
  $('text').scrollTop = $('text').scrollHeight;
}

/** Asks what listens, if something does, for all that it heard. */
async function refresh() {
  const answer = await chrome.runtime.sendMessage({ to: 'offscreen', type: 'transcript' }).catch(() => null);
  spoken = answer?.spoken ?? [];
  show(answer ?? { status: 'idle' });
}

async function start(source) {
  show({ status: 'connecting' });
  const answer = await chrome.runtime.sendMessage({ to: 'background', type: 'start', source, tabId: await tabId() });
  if (answer?.error) {
    show({ status: 'failed', text: answer.error });
    if (source === 'microphone') chrome.runtime.openOptionsPage();
  }
}

$('tab').addEventListener('click', () => start('tab'));
$('microphone').addEventListener('click', () => start('microphone'));
$('stop').addEventListener('click', () => chrome.runtime.sendMessage({ to: 'background', type: 'stop' }));
$('options').addEventListener('click', () => chrome.runtime.openOptionsPage());
$('copy').addEventListener('click', () => navigator.clipboard.writeText(`${spoken.join('\n')}\n`));

chrome.runtime.onMessage.addListener((message) => {
  if (message.to === 'background' && message.type === 'captions') refresh();
});
refresh();
