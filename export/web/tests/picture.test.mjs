/** Colour models: a picture from a file or from the camera. */
import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { answers, launch, PHONE, RUNS, serve, settled, tab, until } from './harness.mjs';

/** @type {import('playwright-core').Browser} */
let browser;
/** @type {Awaited<ReturnType<typeof serve>>} */
let server;

before(async () => {
  browser = await launch();
  server = await serve(path.join(RUNS, 'colours', 'export'));
});

after(async () => {
  await browser?.close();
  assert.equal(await server?.end(), 0);
});

/** @param {import('playwright-core').BrowserContextOptions} [options] */
async function opened(options = PHONE) {
  const made = await tab(browser, options);
  await made.page.goto(server.url);
  await until(made.page, 'complete');
  return made;
}

/** A picture of one colour, drawn by the browser.
 * @param {import('playwright-core').Page} page
 * @param {string} colour
 * @param {number} width
 * @param {number} height
 */
async function picture(page, colour, width, height, type = 'image/jpeg') {
  const bytes = await page.evaluate(
    async ([colour, width, height, type]) => {
      const canvas = new OffscreenCanvas(width, height);
      const context = canvas.getContext('2d');
      if (context === null) throw new Error('no context');
      context.fillStyle = colour;
      context.fillRect(0, 0, width, height);
      const blob = await canvas.convertToBlob({ type });
      return [...new Uint8Array(await blob.arrayBuffer())];
    },
    /** @type {const} */ ([colour, width, height, type]),
  );
  return { name: 'picture', mimeType: type, buffer: Buffer.from(bytes) };
}

/** The pixels that the network reads, and a pixel in the middle of what is shown.
 * @param {import('playwright-core').Page} page
 */
function pixels(page) {
  return page.evaluate(() => {
    const of = (/** @type {string} */ id) => /** @type {HTMLCanvasElement} */ (document.getElementById(id));
    const [seen, area] = [of('seen'), of('area')];
    const read = [...(seen.getContext('2d')?.getImageData(0, 0, seen.width, seen.height).data ?? [])];
    const shown = [...(area.getContext('2d')?.getImageData(area.width / 2, area.height / 2, 1, 1).data ?? [])];
    return { read, shown };
  });
}

/** Waits until the network reads something else, and its answer is there.
 * @param {import('playwright-core').Page} page
 * @param {number[]} before
 */
async function untilAnother(page, before) {
  await page.waitForFunction((before) => {
    const seen = /** @type {HTMLCanvasElement} */ (document.getElementById('seen'));
    const read = seen.getContext('2d')?.getImageData(0, 0, seen.width, seen.height).data ?? [];
    return before.some((value, at) => value !== read[at]);
  }, before);
  await page.waitForFunction(() => document.getElementById('answer')?.textContent !== '–');
}

test('a picture from a file is classified, whatever its size', async () => {
  const { page, context, errors } = await opened();
  for (const [colour, answer, width, height] of /** @type {const} */ ([
    ['rgb(180 60 60)', '0', 640, 480],
    ['rgb(60 180 60)', '1', 3, 5],
    ['rgb(60 60 180)', '2', 9000, 6000],
  ])) {
    await page.locator('#chooser').setInputFiles(await picture(page, colour, width, height));
    await answers(page, answer);
  }
  assert.deepEqual(errors, []);
  await context.close();
});

test('where a picture is transparent, the network reads the white that is shown', async () => {
  const { page, context, errors } = await opened();
  const { read: example } = await pixels(page);
  await page.locator('#chooser').setInputFiles(await picture(page, 'rgb(180 60 60)', 40, 40));
  await untilAnother(page, example);
  const { read: red } = await pixels(page);
  await page.locator('#chooser').setInputFiles(await picture(page, 'rgb(0 0 255 / 20%)', 40, 40, 'image/png'));
  await untilAnother(page, red);
  const { read, shown } = await pixels(page);
  for (const pixel of [shown, read.slice(0, 4), read.slice(-4)]) {
    const [r = 0, g = 0, b = 0] = pixel;
    assert.ok(Math.abs(r - 204) <= 2 && Math.abs(g - 204) <= 2 && b >= 253, pixel.join());
  }
  assert.deepEqual(errors, []);
  await context.close();
});

test('a file that is no picture is refused in words, and the page goes on', async () => {
  const { page, context, errors } = await opened();
  for (const [name, mimeType] of [
    ['notes.txt', 'text/plain'],
    ['broken.png', 'image/png'],
    ['empty', ''],
  ]) {
    const buffer = Buffer.from(name === 'empty' ? '' : 'not a picture');
    await page.locator('#chooser').setInputFiles({ name: name ?? '', mimeType: mimeType ?? '', buffer });
    await page.waitForFunction(
      (wanted) => document.getElementById('notice')?.textContent?.includes(`Received: ${wanted}`),
      name,
    );
  }
  await page.locator('#chooser').setInputFiles(await picture(page, 'rgb(60 180 60)', 100, 100));
  await answers(page, '1');
  assert.ok(await page.locator('#notice').isHidden());
  assert.deepEqual(errors, []);
  await context.close();
});

test('the camera answers as long as it is on, and its last picture stays', async () => {
  const { page, context, errors } = await opened();
  await context.grantPermissions(['camera']);
  const { read: example } = await pixels(page);
  await page.getByRole('button', { name: 'Camera' }).click();
  await untilAnother(page, example);
  // The browser's stand-in for a camera shows something that moves.
  await untilAnother(page, (await pixels(page)).read);
  // Spoken while it goes on, though not with every picture.
  await page.evaluate(() => (/** @type {any} */ (document.getElementById('spoken')).textContent = ''));
  await page.waitForFunction(() => document.getElementById('spoken')?.textContent !== '');
  await page.getByRole('button', { name: 'Hold this picture' }).click();
  await page.getByRole('button', { name: 'Camera' }).waitFor();
  await settled(page);
  const { read: last } = await pixels(page);
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.deepEqual((await pixels(page)).read, last);
  assert.equal(await page.locator('#area').getAttribute('aria-label'), 'What the camera sees');
  assert.deepEqual(errors, []);
  await context.close();
});

test('a camera that comes on late, when it is no longer wanted, is switched off', async () => {
  const { page, context, errors } = await opened();
  await context.grantPermissions(['camera']);
  await page.evaluate(() => {
    const { mediaDevices } = navigator;
    const ask = mediaDevices.getUserMedia.bind(mediaDevices);
    const state = Object.assign(/** @type {any} */ (globalThis), { streams: [], allow: [] });
    mediaDevices.getUserMedia = async (wanted) => {
      await new Promise((resolve) => state.allow.push(resolve));
      const stream = await ask(wanted);
      state.streams.push(stream);
      return stream;
    };
  });
  const allow = (/** @type {number} */ turn) =>
    page.evaluate((turn) => /** @type {any} */ (globalThis).allow[turn](), turn);
  const isOn = (/** @type {number} */ turn) =>
    page.waitForFunction((turn) => /** @type {any} */ (globalThis).streams[turn] !== undefined, turn).then(() =>
      page.evaluate((turn) => /** @type {any} */ (globalThis).streams[turn].active, turn),
    );
  await page.getByRole('button', { name: 'Camera' }).click();
  await page.getByRole('button', { name: 'Camera' }).click(); // once more, as nothing seems to happen
  await allow(0);
  assert.equal(await isOn(0), false);
  await allow(1);
  assert.equal(await isOn(1), true);
  await page.getByRole('button', { name: 'Example' }).click();
  await page.getByRole('button', { name: 'Camera' }).waitFor(); // no longer "Hold this picture"
  assert.equal(await isOn(1), false);
  await page.getByRole('button', { name: 'Camera' }).click();
  await page.getByRole('button', { name: 'Example' }).click();
  await allow(2);
  assert.equal(await isOn(2), false);
  assert.match((await page.locator('#area').getAttribute('aria-label')) ?? '', /^Example/);
  assert.deepEqual(errors, []);
  await context.close();
});

test('without leave to use the camera, the page says what to do', async () => {
  const { page, context, errors } = await opened();
  await context.clearPermissions();
  await page.getByRole('button', { name: 'Camera' }).click();
  await page.getByText('not allowed to use the camera').waitFor();
  const { read } = await pixels(page);
  await page.getByRole('button', { name: 'Example' }).click();
  await untilAnother(page, read);
  assert.deepEqual(errors, []);
  await context.close();
});

test('the live inputs are shown where the features come from', async () => {
  const { page, context } = await opened();
  const { live_inputs: live } = await page.evaluate(async () => (await fetch('facts.json')).json());
  assert.deepEqual([live.kind, live.shape], ['features', [8, 8, 8]]);
  const corner = [0, 1, 8, 9].map((at) => live.connections[at]);
  assert.deepEqual(corner, [0, 0, 0, 0]);
  assert.match((await page.locator('#live-text').textContent()) ?? '', /8x8 map of 8 features/);
  await context.close();
});
