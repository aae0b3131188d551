/** Without a network, without this server, and below any path. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import {
  answers,
  DIGITS,
  draw,
  launch,
  ROOT,
  RUNS,
  serve,
  serveStatically,
  tab,
  until,
} from './harness.mjs';

/** @type {import('playwright-core').Browser} */
let browser;
/** @type {string} */
let scratch;

before(async () => {
  browser = await launch();
  scratch = mkdtempSync(path.join(os.tmpdir(), 'page-'));
});

after(async () => {
  await browser?.close();
  rmSync(scratch, { recursive: true });
});

test('once opened, the page works without its server, all files of it', async () => {
  const server = await serve(path.join(RUNS, 'digits'));
  const { page, context, origins } = await tab(browser);
  await page.goto(server.url);
  await until(page, 'complete');
  assert.equal(await server.end('SIGTERM'), 143);
  await page.reload();
  await until(page, 'ready');
  for (const kind of ['sparse', 'int8', 'dense']) {
    await page.getByRole('radio', { name: kind }).check();
    await draw(page, DIGITS[7]);
    await answers(page, '7');
  }
  assert.deepEqual([...origins], [new URL(server.url).origin]);
  await context.close();
});

test('a run that was hardly opened does not mix with the one that was kept before', async () => {
  const first = await serve(path.join(RUNS, 'digits'));
  const port = new URL(first.url).port;
  const { page, context } = await tab(browser);
  await page.goto(first.url);
  await until(page, 'complete');
  const { model } = await page.evaluate(async () => (await fetch('facts.json')).json());
  await first.end();
  // Another run at the same address, left as soon as it is there.
  const second = await serve(path.join(RUNS, 'halves', 'export'), '--port', port);
  await page.reload();
  await page.waitForFunction(
    (model) => ![model, 'keras_switcher'].includes(document.getElementById('title')?.textContent ?? ''),
    model,
  );
  await page.goto('about:blank');
  await second.end();
  await page.goto(first.url);
  await until(page, 'complete');
  assert.equal(await page.locator('#title').textContent(), model);
  assert.equal(await page.locator('#files .missing, #files .refused').count(), 0);
  await draw(page, DIGITS[7]);
  await answers(page, '7');
  await context.close();
});

test('what else is served at the same address is neither kept nor replaced', async () => {
  const server = await serve(path.join(RUNS, 'digits'));
  const { page, context } = await tab(browser);
  await page.goto(server.url);
  await until(page, 'complete');
  let text = 'before';
  await context.route('**/assets/other.js', (route) => route.fulfill({ body: text }));
  const read = () => page.evaluate(async () => (await fetch('assets/other.js')).text());
  assert.equal(await read(), 'before');
  text = 'after';
  assert.equal(await read(), 'after');
  await context.close();
  await server.end();
});

test('a file that was exported anew is not shown with the figures of the old one', async () => {
  const server = await serve(path.join(RUNS, 'digits'), '--allowed-hosts', 'phone.test');
  const { page, context } = await tab(browser);
  await page.goto(server.url.replace('127.0.0.1', 'phone.test'));
  await until(page, 'complete');
  const body = readFileSync(path.join(RUNS, 'digits', 'export', 'model_dense.tflite'));
  body[body.length - 1] = 1 ^ (body.at(-1) ?? 0); // of the same size
  await page.route('**/model_dense.tflite', (route) => route.fulfill({ body }));
  await page.getByRole('radio', { name: 'dense' }).click();
  await page.getByText('another file than when this page was opened').waitFor();
  assert.ok(await page.getByRole('radio', { name: 'sparse' }).isChecked());
  await context.close();
  await server.end();
});

test('a server that is gone before anything was kept is told in words', async () => {
  const server = await serve(path.join(RUNS, 'digits'));
  const { page, context } = await tab(browser);
  await page.route('**/facts.json', (route) => route.abort());
  await page.goto(server.url);
  await page.getByText('This page could not start.').waitFor();
  assert.match((await page.locator('#notice').textContent()) ?? '', /see whether the server still runs/);
  await context.close();
  await server.end();
});

test('a server that goes away leaves the file that is loaded, and can come back', async () => {
  const flags = [path.join(RUNS, 'digits'), '--allowed-hosts', 'phone.test'];
  const server = await serve(...flags);
  const port = new URL(server.url).port;
  const { page, context } = await tab(browser);
  await page.goto(server.url.replace('127.0.0.1', 'phone.test')); // where nothing is kept
  await until(page, 'complete');
  await server.end();
  await page.getByRole('radio', { name: 'dense' }).click();
  await page.getByText('Not there. The server does not answer.').waitFor();
  assert.ok(await page.getByRole('radio', { name: 'sparse' }).isChecked());
  await draw(page, DIGITS[7]);
  await answers(page, '7');
  await page.getByRole('button', { name: 'Measure every file' }).click();
  await page.getByText('The server does not answer.', { exact: false }).nth(1).waitFor();
  await page.waitForFunction(() => !(/** @type {any} */ (document.getElementById('measure')).disabled));
  assert.ok(await page.getByRole('radio', { name: 'sparse' }).isChecked());
  await draw(page, DIGITS[3]);
  await answers(page, '3');
  const again = await serve(...flags, '--port', port);
  await page.getByRole('radio', { name: 'dense' }).check();
  await page.getByRole('button', { name: 'Measure every file' }).click();
  await page.waitForFunction(() => document.querySelectorAll('.missing').length === 0);
  assert.ok(await page.locator('#notice').isHidden());
  await draw(page, DIGITS[4]);
  await answers(page, '4');
  await context.close();
  assert.equal(await again.end(), 0);
});

test('the page can be installed', async () => {
  const server = await serve(path.join(RUNS, 'digits'));
  const { page, context } = await tab(browser);
  await page.goto(server.url);
  await until(page, 'complete');
  const session = await context.newCDPSession(page);
  const { errors, data } = await session.send('Page.getAppManifest');
  assert.deepEqual(errors, []);
  for (const { src, sizes } of JSON.parse(data ?? '').icons) {
    const [width, height] = await page.evaluate(async (url) => {
      const icon = new Image();
      icon.src = url;
      await icon.decode();
      return [icon.naturalWidth, icon.naturalHeight];
    }, src);
    if (sizes !== 'any') assert.equal(`${width}x${height}`, sizes);
  }
  const problems = await session.send('Page.getInstallabilityErrors');
  // A context of a test counts as incognito, where nothing can be installed; that alone may be wrong.
  const found = problems.installabilityErrors.map(({ errorId }) => errorId);
  assert.deepEqual(found.filter((id) => id !== 'in-incognito'), []);
  await context.close();
  await server.end();
});

test('a bundle works on a static host, below a path', async () => {
  const bundle = path.join(scratch, 'some', 'path');
  const python = path.join(ROOT, '.venv/bin/python');
  const flags = ['-m', 'export', 'serve', path.join(RUNS, 'digits'), '--bundle', bundle];
  execFileSync(python, flags, { cwd: ROOT });
  const host = await serveStatically(scratch);
  const { page, context, errors, origins } = await tab(browser);
  await page.goto(`${host.url}some/path/`);
  await until(page, 'complete');
  assert.equal(await page.evaluate(() => crossOriginIsolated), false);
  await draw(page, DIGITS[2]);
  await answers(page, '2');
  // A page that has changed is kept as a whole before it says so.
  const worker = path.join(bundle, 'offline.js');
  const script = readFileSync(worker, 'utf8');
  writeFileSync(worker, script.replace(/[0-9a-f]{12}/, 'a'.repeat(12)));
  assert.notEqual(readFileSync(worker, 'utf8'), script);
  await page.reload();
  await until(page, 'complete');
  const kept = await page.evaluate(async () => {
    let names = await caches.keys();
    // The old one goes when the new one takes over, which may be a little later.
    for (let tries = 0; names.length > 1 && tries < 200; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      names = await caches.keys();
    }
    const urls = (await (await caches.open(names[0] ?? '')).keys()).map(({ url }) => url);
    return { names, urls };
  });
  assert.ok(kept.names.length === 1 && kept.names[0]?.endsWith('a'.repeat(12)), String(kept.names));
  for (const part of ['path/', 'facts.json', 'model_sparse.tflite', 'model_int8.tflite', '.wasm']) {
    assert.ok(kept.urls.some((url) => url.endsWith(part)), `${part} in ${kept.urls.join(' ')}`);
  }
  await host.end();
  await page.reload();
  await until(page, 'ready');
  await draw(page, DIGITS[3]);
  await answers(page, '3');
  assert.deepEqual(errors.filter((error) => !/ERR_CONNECTION_REFUSED/.test(error)), []);
  assert.deepEqual([...origins], [new URL(host.url).origin]);
  await context.close();
});

test('nothing but the files of the page is served', async () => {
  const server = await serve(path.join(RUNS, 'digits'));
  const port = Number(new URL(server.url).port);
  for (const target of [
    '/../../../../etc/passwd',
    '/%2e%2e/%2e%2e/%2e%2e/etc/passwd',
    '/..%2f..%2fetc%2fpasswd',
    '/assets/../../../exporting.py',
    '//etc/passwd',
    '/etc/passwd',
    '/config.yaml',
    '/stripped.keras',
    '/export.json',
    '/index.html%00',
    '/assets/',
    '/model_other.tflite',
  ]) {
    const answer = await raw(port, `GET ${target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n`);
    assert.match(answer, /^HTTP\/1\.1 404 /, target);
    assert.doesNotMatch(answer, /root:/, target);
  }
  assert.match(await raw(port, 'POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n'), /^HTTP\/1\.1 501 /);
  assert.equal(await server.end(), 0);
});

/** Sends a request as it is: `fetch` would tidy its path first.
 * @param {number} port
 * @param {string} request
 * @returns {Promise<string>}
 */
function raw(port, request) {
  return new Promise((resolve, reject) => {
    let answer = '';
    const socket = net.connect(port, '127.0.0.1', () => socket.write(request));
    socket.setEncoding('latin1').on('data', (text) => (answer += text));
    socket.on('end', () => resolve(answer)).on('error', reject);
  });
}
