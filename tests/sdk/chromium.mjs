// What the scripts that drive Chromium share.
import { createRequire } from 'node:module';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Options of a script, as --name value. */
export function options() {
  const words = process.argv.slice(2);
  return Object.fromEntries(words.flatMap((word, i) => (word.startsWith('--') ? [[word.slice(2), words[i + 1]]] : [])));
}

const QUIET = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage',
];

/**
 * A browser in a profile that vanishes. If a recording is given, its microphone plays that once, when it is first used. `troubles` gets what the console, the
 * network and the content security policy complain about.
 */
export async function launch({ node_modules: modules, chromium: executablePath, recording }, more = {}) {
  const { chromium } = createRequire(`${modules}/`)('playwright-core');
  const profile = mkdtempSync(join(tmpdir(), 'godctl-chromium-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    acceptDownloads: true,
    viewport: more.viewport ?? { width: 1200, height: 760 },
    ignoreDefaultArgs: ['--disable-extensions', '--mute-audio'],
    args: [
      ...QUIET,
      '--headless=new',
      ...(recording ? [
        '--use-fake-device-for-media-stream',
        '--use-fake-ui-for-media-stream',
        `--use-file-for-fake-audio-capture=${recording}%noloop`,
      ] : []),
      '--autoplay-policy=no-user-gesture-required',
      ...(more.args ?? []),
    ],
  });
  context.setDefaultTimeout(15000);
  const troubles = [];
  const watch = (page) => {
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) troubles.push(`console: ${message.text()}`);
    });
    page.on('pageerror', (error) => troubles.push(`error: ${error.message}`));
  };
  context.on('page', watch);
  context.pages().forEach(watch);
  const close = async () => {
    await context.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  };
  return { context, troubles, close };
}

/** Fails loudly when something does not become true. */
export async function until(condition, what, patience = 15000) {
  const end = Date.now() + patience;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`never: ${what}`);
    await new Promise((resolve) => { setTimeout(resolve, 50); });
  }
}
