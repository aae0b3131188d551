/** What the browser tests share: a server of a run, a phone's browser, and a count of the bytes. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import process from 'node:process';
import { chromium } from 'playwright-core';

export const ROOT = path.resolve(import.meta.dirname, '../../..');
/** Where `tests/web/make_runs.py` put its runs. */
export const RUNS = path.resolve(process.env.WEB_RUNS ?? path.join(ROOT, 'build/web-runs'));
const PYTHON = path.join(ROOT, '.venv/bin/python');
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--use-fake-device-for-media-stream',
  // An address that is not localhost, as this machine's is for a phone.
  '--host-resolver-rules=MAP phone.test 127.0.0.1',
];
export const PHONE = {
  viewport: { width: 390, height: 844 },
  deviceScaleFactor: 2,
  isMobile: true,
  hasTouch: true,
};

/**
 * @typedef {{
 *   facts: any,
 *   images: number[][],
 *   outputs: Record<string, number[][]>,
 * }} Reference
 */

/** What Python's LiteRT answered, and what the page knows of the run.
 * @param {string} run
 * @returns {Reference}
 */
export function reference(run) {
  const folder = path.join(RUNS, run);
  return JSON.parse(readFileSync(path.join(path.dirname(folder), `${path.basename(folder)}.reference.json`), 'utf8'));
}

/** Starts `python -m export serve`; resolves once it says its address.
 * @param {string[]} flags
 */
export async function serve(...flags) {
  const child = spawn(PYTHON, ['-u', '-m', 'export', 'serve', ...flags], { cwd: ROOT });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => (output += text));
  }
  const ended = once(child, 'exit');
  const kill = () => child.kill();
  process.once('exit', kill); // of a test that failed before it ended its server
  child.once('exit', () => process.off('exit', kill));
  while (!/Open (\S+)/.test(output)) {
    await Promise.race([
      once(child.stdout, 'data'),
      ended.then(() => {
        throw new Error(`The server did not start:\n${output}`);
      }),
    ]);
  }
  return {
    url: /Open (\S+)/.exec(output)?.[1] ?? '',
    output: () => output,
    /** @param {NodeJS.Signals} signal */
    async end(signal = 'SIGINT') {
      if (child.exitCode === null) child.kill(signal);
      const [status] = await ended;
      return status;
    },
  };
}

/** Serves a folder as any static host does, without knowing of the page.
 * @param {string} folder
 */
export async function serveStatically(folder) {
  const port = await freePort();
  const child = spawn(PYTHON, ['-m', 'http.server', String(port), '--bind', '127.0.0.1'], { cwd: folder });
  for (let tries = 0; tries < 100; tries++) {
    try {
      await fetch(`http://127.0.0.1:${port}/`);
      break;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  const gone = once(child, 'exit');
  return { url: `http://127.0.0.1:${port}/`, end: () => (child.kill(), gone) };
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = /** @type {net.AddressInfo} */ (server.address());
  server.close();
  return port;
}

/** Passes connections on to a server, and counts the bytes that come back.
 * @param {string} url
 */
export async function counted(url) {
  const port = Number(new URL(url).port);
  const count = { bytes: 0 };
  const relay = net.createServer((from) => {
    const to = net.connect(port, '127.0.0.1');
    to.on('data', (data) => (count.bytes += data.length));
    from.pipe(to).pipe(from);
    for (const end of [from, to]) end.on('error', () => (from.destroy(), to.destroy()));
  });
  relay.listen(0, '127.0.0.1');
  await once(relay, 'listening');
  const address = /** @type {net.AddressInfo} */ (relay.address());
  return { url: `http://127.0.0.1:${address.port}/`, count, end: () => relay.close() };
}

export function launch() {
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  return chromium.launch({ executablePath, args: FLAGS });
}

/**
 * Opens a page that notes what should not happen: errors in the console, and requests to others.
 * @param {import('playwright-core').Browser} browser
 * @param {import('playwright-core').BrowserContextOptions} options
 */
export async function tab(browser, options = PHONE) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  /** @type {string[]} */
  const errors = [];
  /** @type {Set<string>} */
  const origins = new Set();
  page.on('console', (message) => {
    if (message.type() === 'error') errors.push(message.text());
  });
  page.on('pageerror', (error) => errors.push(String(error)));
  context.on('request', (request) => {
    const { protocol, origin } = new URL(request.url());
    if (protocol.startsWith('http') || protocol.startsWith('ws')) origins.add(origin);
  });
  return { context, page, errors, origins };
}

/** Waits until the page came to a state of its own.
 * @param {import('playwright-core').Page} page
 * @param {'ready' | 'complete'} state
 */
export async function until(page, state) {
  await page.waitForFunction(
    (wanted) => [wanted, 'complete'].includes(document.documentElement.dataset.state ?? ''),
    state,
    { timeout: 60_000 },
  );
}

/** Draws strokes; points are in 28x28.
 * @param {import('playwright-core').Page} page
 * @param {number[][][]} strokes
 */
export async function draw(page, strokes) {
  await page.getByRole('button', { name: 'Clear' }).click();
  const box = await page.locator('#area').boundingBox();
  if (box === null) throw new Error('Expected the drawing area on the screen. Received: none');
  for (const stroke of strokes) {
    const points = stroke.map(([x = 0, y = 0]) => [box.x + (x * box.width) / 28, box.y + (y * box.height) / 28]);
    const [[x = 0, y = 0] = [], ...others] = points;
    await page.mouse.move(x, y);
    await page.mouse.down();
    for (const [nextX = 0, nextY = 0] of others) await page.mouse.move(nextX, nextY);
    await page.mouse.up();
  }
}

/** Waits until what the page was last told to answer is answered.
 * @param {import('playwright-core').Page} page
 */
export async function settled(page) {
  await page.waitForFunction(() => document.documentElement.dataset.answering === undefined);
}

/** Waits until the answer is a class.
 * @param {import('playwright-core').Page} page
 * @param {string} expected
 */
export async function answers(page, expected) {
  try {
    await page.waitForFunction(
      (wanted) => document.getElementById('answer')?.textContent === wanted,
      expected,
      { timeout: 30_000 },
    );
  } catch {
    const [answer, share] = await Promise.all(
      ['#answer', '#answer-share'].map((id) => page.locator(id).textContent()),
    );
    throw new Error(`Expected the answer ${expected}. Received: ${answer}, ${share}`);
  }
}

/** Waits until the bars show probabilities; the example before may have had the same answer.
 * @param {import('playwright-core').Page} page
 * @param {number[]} expected In percent.
 * @param {number} within By how much they may differ.
 * @param {string} of What they are of, for the message.
 */
export async function showsShares(page, expected, within, of = 'the model') {
  try {
    await page.waitForFunction(
      ({ expected, within }) => {
        const shown = [...document.querySelectorAll('.bars .share')].map((bar) => parseFloat(bar.textContent ?? ''));
        return (
          shown.length === expected.length &&
          shown.every((share, at) => Math.abs(share - (expected[at] ?? NaN)) < within)
        );
      },
      { expected, within },
      { timeout: 30_000 },
    );
  } catch {
    const shown = await page.locator('.bars .share').allTextContents();
    throw new Error(`Expected the shares ${expected} of ${of}. Received: ${shown}`);
  }
}

/** Digits as somebody writes them: strokes of points in 28x28. */
export const DIGITS = {
  0: [[...oval(14, 14, 6, 9, -90, 270)]],
  1: [[[14, 4], [14, 24]]],
  2: [[...oval(14, 9.5, 5.5, 5, -190, 40), [9, 23], [20.5, 23]]],
  3: [[...oval(13, 9, 5, 4.5, -150, 90), ...oval(13, 18.5, 5.5, 5, -90, 150)]],
  4: [[[9.5, 5], [8, 14], [19, 14]], [[18, 5], [17.5, 24]]],
  5: [[[19.5, 5], [10.5, 5], [9.5, 12.5], ...oval(13.5, 17.5, 5.5, 5.5, -110, 140)]],
  6: [[[18, 4.5], [11.5, 11], ...oval(13.5, 18.5, 4.8, 4.8, 170, 530)]],
  7: [[[8, 6], [20, 6], [12.5, 24]]],
  8: [[...oval(14, 9, 4.2, 4.2, 90, -270), ...oval(14, 18.5, 4.8, 4.8, -90, 270)]],
  9: [[...oval(14, 9.5, 4.8, 4.8, 0, -360), [18.2, 14], [16.5, 24]]],
};

/** @param {number} x @param {number} y @param {number} across @param {number} down @param {number} from @param {number} to */
function oval(x, y, across, down, from, to) {
  return Array.from({ length: 17 }, (_, step) => {
    const angle = ((from + ((to - from) * step) / 16) * Math.PI) / 180;
    return [x + across * Math.cos(angle), y + down * Math.sin(angle)];
  });
}
