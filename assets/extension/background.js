// Joins the popup, the document that listens and the tab that shows the captions. It holds nothing that must not be
// lost: browsers end a service worker whenever it is idle.

const DEFAULTS = { server: 'ws://127.0.0.1:8000', token: '', language: '' };

/** { source, tabId } of what is captured, or null. */
async function current() {
  return (await chrome.storage.session.get('current')).current ?? null;
}

async function settings() {
  return { ...DEFAULTS, ...await chrome.storage.local.get(Object.keys(DEFAULTS)) };
}

async function listener() {
  const contexts = await chrome.runtime.getContexts({ contextTypes: ['OFFSCREEN_DOCUMENT'] });
  if (contexts.length > 0) return;
  await chrome.offscreen.createDocument({
    url: 'offscreen.html',
    reasons: ['USER_MEDIA', 'AUDIO_PLAYBACK'],
    justification: 'listens to the tab or the microphone and plays the tab as before',
  });
}

/** Puts the captions into the page; pages of the browser itself take none, and then the popup shows them. */
async function overlay(tabId) {
  try {
    await chrome.scripting.executeScript({ target: { tabId }, files: ['overlay.js'] });
    return true;
  } catch {
    return false;
  }
}

async function start(source, tabId) {
  if (await current()) await stop();
  const streamId = source === 'tab' ? await chrome.tabCapture.getMediaStreamId({ targetTabId: tabId }) : null;
  const shown = tabId ? await overlay(tabId) : false;
  await listener();
  await chrome.storage.session.set({ current: { source, tabId } });
  await chrome.action.setBadgeBackgroundColor({ color: '#c8332b' });
  await chrome.action.setBadgeText({ text: 'REC' });
  const answer = await chrome.runtime.sendMessage({
    to: 'offscreen', type: 'start', source, streamId, settings: await settings(),
  });
  if (answer?.error) {
    await over();
    throw new Error(answer.error);
  }
  return { overlay: shown };
}

async function stop() {
  await chrome.runtime.sendMessage({ to: 'offscreen', type: 'stop' }).catch(() => {});
}

/** Everything was said, or nothing can be said any more. The captions stay until they are closed. */
async function over() {
  await chrome.storage.session.remove('current');
  await chrome.action.setBadgeText({ text: '' });
}

async function toggle(tab) {
  if (await current()) await stop();
  else await start('tab', tab.id);
}

async function answer(message) {
  switch (message.type) {
    case 'start':
      return start(message.source, message.tabId);
    case 'stop':
      return stop();
    case 'state':
      return { current: await current() };
    case 'captions': {
      const running = await current();
      if (running?.tabId) await chrome.tabs.sendMessage(running.tabId, { ...message, to: 'overlay' }).catch(() => {});
      if (message.status === 'ended' || message.status === 'failed') await over();
      return {};
    }
    default:
      return {};
  }
}

chrome.runtime.onMessage.addListener((message, _sender, respond) => {
  if (message.to !== 'background') return false;
  answer(message).then(respond, (error) => respond({ error: error.message }));
  return true;
});

chrome.commands.onCommand.addListener((command, tab) => {
  if (command === 'caption-tab') toggle(tab).catch(() => chrome.action.setBadgeText({ text: '!' }));
});

// A page that was left takes its captions with it; the next one gets them if it may.
chrome.tabs.onUpdated.addListener(async (tabId, change) => {
  if (change.status === 'complete' && (await current())?.tabId === tabId) await overlay(tabId);
});

chrome.tabs.onRemoved.addListener(async (tabId) => {
  if ((await current())?.tabId === tabId) await stop();
});
