// Drives the page of a running server: --url --recording (which the microphone plays) --file (which is opened)
// --node_modules --chromium, --token (which the server wants), and --pictures DIR for screenshots. Prints what was seen, as JSON.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { launch, options, until } from './chromium.mjs';

const given = options();
const { context, troubles, close } = await launch(given);
const seen = {};
try {
  const page = context.pages()[0] ?? await context.newPage();
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => {
      console.error(`content security policy: ${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  const picture = async (name) => {
    if (given.pictures) await page.screenshot({ path: join(given.pictures, `${name}.png`) });
  };
  const text = (selector) => page.locator(selector).innerText();
  const status = async (...wanted) => {
    await until(async () => wanted.includes(await page.locator('#status').getAttribute('data-state')), `status ${wanted}`);
  };

  // ---- the microphone, by keyboard alone; a token in the address does not stay there
  await page.goto(`${given.url}/?token=${given.token}`);
  await page.waitForFunction(() => document.getElementById('model').textContent !== '');
  assert.equal(page.url(), `${given.url}/`);
  assert.equal(await page.evaluate(() => sessionStorage.getItem('godctl.token')), given.token);
  // The page and its files come again without the token in the address.
  await page.reload();
  await page.waitForFunction(() => document.getElementById('model').textContent !== '');
  await picture('1-ready');
  await page.keyboard.press(' ');
  await status('live');
  await page.waitForFunction(() => document.querySelector('.said p') !== null);
  await picture('2-heard');
  seen.final_while_live = await text('#lines');
  await page.waitForFunction(() => document.getElementById('delay-text').textContent !== '–');
  seen.delay = await text('#delay-text');
  seen.level = await page.locator('#level').getAttribute('aria-valuetext');
  await page.keyboard.press('p');
  await status('paused');
  await page.keyboard.press('p');
  await status('live');
  await page.keyboard.press(' ');
  await status('ended');
  const lines = () => page.locator('.said p').allInnerTexts();
  seen.microphone = await lines();

  // ---- a recording
  await page.locator('#file').setInputFiles(given.file);
  await until(async () => (await lines()).length > seen.microphone.length, 'a line of the file');
  await status('ended');
  seen.file = (await lines()).slice(seen.microphone.length);

  // ---- taking it along
  seen.downloads = {};
  for (const format of ['txt', 'srt', 'vtt', 'json']) {
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      page.locator(`[data-format="${format}"]`).click(),
    ]);
    assert.match(download.suggestedFilename(), new RegExp(`^transcript-.*\\.${format}$`));
    seen.downloads[format] = readFileSync(await download.path(), 'utf8');
  }
  await context.grantPermissions(['clipboard-read', 'clipboard-write']);
  await page.keyboard.press('c');
  seen.copied = await until(() => page.evaluate(() => navigator.clipboard.readText()), 'a copy');
  await page.keyboard.press('?');
  assert.ok(await page.locator('#shortcuts').isVisible());
  await page.keyboard.press('Escape');
  const theme = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const before = await theme();
  await page.keyboard.press('t');
  assert.notEqual(await theme(), before);
  await picture('3-dark');

  // ---- an evil server, that also breaks off
  const connections = [];
  await page.routeWebSocket(/\/asr/, (socket) => {
    connections.push({ url: socket.url(), bytes: 0 });
    const mine = connections.at(-1);
    const say = (message) => socket.send(JSON.stringify(message));
    const lag = { remaining_time_transcription_processing: 0, remaining_time_transcription_policy: 0 };
    socket.onMessage((message) => {
      mine.bytes += message.length;
      if (message.length === 0) say({ type: 'ready_to_stop' });
    });
    say({ type: 'config', language: 'auto', ignored: ['<b id="evil-ignored">'] });
    const line = (id, speaker, said, more = {}) => ({
      id, final: true, speaker, text: said, start: `0:00:0${id}.00`, end: `0:00:0${id}.90`, ...more,
    });
    const evil = '<img src=x id="evil" onerror="document.title=1"><script>document.title=2</script>';
    say({
      type: 'snapshot', seq: 1, ...lag, buffer_transcription: ` <i id="evil-tail">tail</i>`,
      running: line(4, 1, '<u id="evil-running">running</u>'),
      lines: connections.length > 1 ? [] : [
        line(0, 1, 'The first speaker says hello.', { detected_language: 'en' }),
        line(1, 2, evil, { words: [{ word: '<img', start: 1, end: 1.2, probability: 0.1 }] }),
        line(2, -2, ''), line(3, 2, 'مرحبا بالعالم', { detected_language: 'ar' }),
      ],
    });
    if (connections.length === 1) setTimeout(() => socket.close({ code: 1011, reason: 'gone' }), 300);
  });
  await page.locator('#clear').click();
  await page.locator('#record').click();
  await until(() => connections.length === 2 && connections[1].bytes > 0, 'another connection');
  await status('live');
  assert.equal(await page.locator('[id^=evil]').count(), 0, 'text became markup');
  assert.ok((await text('#lines')).includes('<script>document.title=2</script>'));
  assert.ok((await text('#live')).includes('<u id="evil-running">'), await text('#live'));
  seen.speakers = await page.locator('.who').allInnerTexts();
  seen.detected = await text('#detected');
  assert.ok((await page.locator('.silence').count()) === 1);
  assert.equal(await page.locator('.unsure').innerText(), '<img');
  assert.ok(connections[0].url.includes('mode=diff') && connections[0].url.includes(`token=${given.token}`));
  seen.title = await page.title();
  await picture('4-speakers');

  // ---- a small screen
  await page.setViewportSize({ width: 360, height: 740 });
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(overflow <= 0, `${overflow} pixels too wide`);
  for (const id of ['record', 'pause', 'level', 'time', 'delay']) {
    const box = await page.locator(`#${id}`).boundingBox();
    assert.ok(box && box.x >= 0 && box.x + box.width <= 360 && box.y + box.height <= 740, `${id} is not to be seen`);
  }
  await picture('5-small');
  await page.locator('#record').click();
  await status('ended');

  // ---- everything has a name for those who do not see it
  const nameless = await page.evaluate(() => [...document.querySelectorAll('button, input, select, textarea, canvas, summary')]
    .filter((element) => !(element.ariaLabel || element.textContent.trim() || element.labels?.length > 0))
    .map((element) => element.outerHTML));
  assert.deepEqual(nameless, []);
  seen.troubles = troubles;
} catch (error) {
  seen.failed = `${error.stack}\n${troubles.join('\n')}`;
} finally {
  await close();
}
console.log(JSON.stringify(seen));
