// Drives the extension in --extension with a server at --server (host:port): first with the microphone, which plays
// --recording, then with a tab that plays --played. Prints what was seen, as JSON.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { launch, options, until } from './chromium.mjs';

const given = options();
const manifest = JSON.parse(readFileSync(join(given.extension, 'manifest.json'), 'utf8'));
const hash = createHash('sha256').update(Buffer.from(manifest.key, 'base64')).digest('hex').slice(0, 32);
const id = [...hash].map((digit) => String.fromCharCode(97 + parseInt(digit, 16))).join('');
const seen = { id, troubles: [] };

// A page that plays a recording over and over, with a pause, when its button is pressed.
const sound = readFileSync(given.played);
const site = createServer((request, response) => {
  if (request.url === '/sound.wav') {
    response.writeHead(200, { 'content-type': 'audio/wav', 'content-length': sound.length }).end(sound);
  } else if (request.url === '/') {
    response.writeHead(200, { 'content-type': 'text/html' }).end(
      '<!doctype html><title>Player</title><link rel="icon" href="data:,"><h1>Any page</h1><button>Play</button>'
      + '<audio src="/sound.wav"></audio><script>const player = document.querySelector("audio");'
      + 'player.onended = () => setTimeout(() => player.play(), 1500);'
      + 'document.querySelector("button").onclick = () => player.play();</script>',
    );
  } else {
    response.writeHead(404).end();
  }
});
await new Promise((resolve) => { site.listen(0, '127.0.0.1', resolve); });
const address = `http://127.0.0.1:${site.address().port}/`;

/** A browser with the extension, the page that plays, and a way to open the popup as it belongs to that page. */
async function browser(recording) {
  const { context, troubles, close } = await launch({ ...given, recording }, {
    args: [
      `--disable-extensions-except=${given.extension}`,
      `--load-extension=${given.extension}`,
      '--disable-features=DisableLoadExtensionCommandLineSwitch',
      // Lets this script click on the extension in the toolbar.
      '--enable-unsafe-extension-debugging',
    ],
  });
  const worker = context.serviceWorkers()[0] ?? await context.waitForEvent('serviceworker');
  assert.equal(new URL(worker.url()).host, id, 'the id follows from the key of the manifest');
  const player = await context.newPage();
  await player.goto(address);
  // Without a host permission the tabs have no addresses: the one in front is ours.
  const tab = await worker.evaluate(async () => (await chrome.tabs.query({ active: true }))[0].id);
  const popup = async () => {
    const page = await context.newPage();
    await page.goto(`chrome-extension://${id}/popup.html?tab=${tab}`);
    return page;
  };
  return { context, troubles, close, worker, player, tab, popup };
}

async function settings(context) {
  const page = await context.newPage();
  await page.goto(`chrome-extension://${id}/options.html`);
  await page.locator('#server').fill(`ws://${given.server}`);
  await page.locator('button[type=submit]').click();
  await page.getByText('Saved.').waitFor();
  return page;
}

const state = (popup, ...wanted) => until(
  async () => wanted.includes(await popup.locator('#status').getAttribute('data-state')),
  `popup says ${wanted}`,
);
const picture = async (page, name) => {
  if (given.pictures) await page.screenshot({ path: join(given.pictures, `${name}.png`) });
};

// ---- the options, and the microphone, which goes on while the popup is closed
async function microphone() {
  const { context, troubles, close, popup: open } = await browser(given.recording);
  try {
    const page = await settings(context);
    await page.locator('#try').click();
    const note = page.locator('#note');
    await until(async () => (await note.innerText()).includes('model'), 'a connection');
    seen.tried = await note.innerText();
    await picture(page, 'x-options');
    let popup = await open();
    await popup.locator('#microphone').click();
    await state(popup, 'live');
    await popup.close();
    popup = await open();
    await popup.locator('#text .line').first().waitFor();
    await popup.locator('#stop').click();
    await state(popup, 'ended');
    seen.microphone = await popup.locator('#text .line').allInnerTexts();
    await picture(popup, 'x-popup');
    await page.locator('#allow').click();
    await page.getByText('The microphone is allowed.').waitFor();
    seen.troubles.push(...troubles);
  } finally {
    await close();
  }
}

// ---- what a tab plays, and the captions above it
async function tab() {
  const { context, troubles, close, worker, player, tab: number, popup: open } = await browser(null);
  try {
    await (await settings(context)).close();
    await player.bringToFront();
    await player.locator('button').click();
    // A click on the extension is what allows it to look at a tab.
    const debug = await context.browser().newBrowserCDPSession();
    const { targetInfos } = await debug.send('Target.getTargets', { filter: [{ type: 'tab' }] });
    const { targetId } = targetInfos.find(({ title }) => title === 'Player');
    await debug.send('Extensions.triggerAction', { id, targetId });
    const popup = await open();
    await popup.locator('#tab').click();
    await state(popup, 'live');
    await player.bringToFront();
    const words = 'open the dashboard in a new tab';
    await until(async () => (await popup.locator('#text').innerText()).includes(words), 'the words of the tab');
    seen.tab = await popup.locator('#text').innerText();
    const captions = player.locator('godctl-captions .box');
    await until(async () => (await captions.innerText()).includes(words), 'captions in the page');
    seen.overlay = await captions.innerText();
    await picture(player, 'x-overlay');
    await worker.evaluate((to) => chrome.tabs.sendMessage(to, {
      to: 'overlay', status: 'live', text: '<b class="evil">', lines: ['<i class="evil">'], running: '<u class="evil">', tail: '',
    }), number);
    assert.ok((await captions.innerText()).includes('<u class="evil">'));
    seen.evil = await player.locator('godctl-captions .evil').count();
    await player.getByRole('button', { name: 'Stop the captions' }).click();
    await state(popup, 'ended');
    seen.troubles.push(...troubles);
  } catch (error) {
    seen.troubles.push(...troubles);
    throw error;
  } finally {
    await close();
  }
}

try {
  await microphone();
  await tab();
} catch (error) {
  seen.failed = `${error.stack}\n${JSON.stringify(seen)}`;
} finally {
  site.close();
}
console.log(JSON.stringify(seen));
