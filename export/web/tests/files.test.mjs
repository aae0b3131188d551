/** What the web runtime makes of the files: the same as Python's, or a reason on the page. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { answers, DIGITS, draw, launch, reference, ROOT, RUNS, serve, tab, until } from './harness.mjs';

/** @type {import('playwright-core').Browser} */
let browser;

before(async () => {
  browser = await launch();
});

after(() => browser?.close());

const WORKER = readdirSync(path.join(ROOT, 'export/web/dist/assets')).find((name) => /^worker-.*\.js$/.test(name));

/** Has the page's own worker run a file on images.
 * @param {import('playwright-core').Page} page
 * @param {string} file
 * @param {number[][]} images
 */
function outputsOf(page, file, images) {
  return page.evaluate(
    async ({ file, images, script }) => {
      const worker = new Worker(script);
      let id = 0;
      const ask = (/** @type {any} */ request) =>
        new Promise((resolve, reject) => {
          worker.onmessage = ({ data }) => (data.ok ? resolve(data.value) : reject(new Error(data.reason)));
          worker.onerror = (event) => reject(new Error(event.message));
          worker.postMessage({ id: ++id, request });
        });
      await ask({ kind: 'start' });
      const bytes = new Uint8Array(await (await fetch(file)).arrayBuffer());
      await ask({ kind: 'load', file, bytes });
      const outputs = [];
      for (const image of images) {
        outputs.push([...(await ask({ kind: 'run', file, input: Float32Array.from(image) }))]);
      }
      worker.terminate();
      return outputs;
    },
    { file, images, script: `assets/${WORKER}` },
  );
}

const largest = (/** @type {number[]} */ values) => values.indexOf(Math.max(...values));

for (const run of ['digits/export', 'halves/export', 'blocks/export', 'colours/export']) {
  test(`every file of ${run} agrees with Python on 100 images`, async () => {
    const server = await serve(path.join(RUNS, run));
    const { page, context, errors } = await tab(browser);
    await page.goto(server.url);
    await until(page, 'complete');
    const { images, outputs } = reference(run);
    assert.equal(images.length, 100);
    assert.ok(Object.keys(outputs).length >= 4);
    for (const [file, expected] of Object.entries(outputs)) {
      const found = await outputsOf(page, file, images);
      let [difference, same] = [0, 0];
      found.forEach((values, index) => {
        const python = expected[index] ?? [];
        assert.equal(values.length, python.length);
        values.forEach((value, at) => {
          difference = Math.max(difference, Math.abs(value - (python[at] ?? NaN)));
        });
        same += Number(largest(values) === largest(python));
      });
      console.log(`${run}, ${file}: largest difference ${difference.toExponential(1)}, same class ${same}`);
      if (file === 'model_int8.tflite') assert.ok(same >= 99, `${file}: the same class in ${same}`);
      else assert.ok(difference <= 1e-4, `${file}: ${difference}`);
    }
    assert.deepEqual(errors, []);
    await context.close();
    assert.equal(await server.end(), 0);
  });
}

test('a refused file is shown with its reason, and the others go on', async () => {
  const server = await serve(path.join(RUNS, 'refused'));
  const { page, context, errors } = await tab(browser);
  await page.goto(server.url);
  await until(page, 'complete');
  await page.waitForFunction(() => document.documentElement.dataset.measured === 'all');
  const rows = page.locator('#files tr');
  const texts = await rows.allTextContents();
  const of = (/** @type {string} */ kind) => texts.find((text) => text.startsWith(kind)) ?? '';
  // Left out by the export; cut short; with wrong columns; with columns outside of the memory.
  assert.match(of('int8'), /Refused\. Not exported: its accuracy is 0\.5; expected at least 0\.9/);
  assert.match(of('compact'), /Refused\. .*[Mm]odel/);
  assert.match(of('float16'), /Refused\. .*Invalid sparse fully-connected format/);
  assert.match(of('sparse'), /Refused\. It crashed the runtime: memory access out of bounds/);
  console.log(texts.filter((text) => text.includes('Refused')).join('\n'));
  for (const kind of ['int8', 'compact', 'float16', 'sparse']) {
    assert.ok(await page.getByRole('radio', { name: kind }).isDisabled());
  }
  // The runtime that one file crashed is replaced, and the file that is left answers.
  assert.ok(await page.getByRole('radio', { name: 'dense' }).isChecked());
  await draw(page, DIGITS[3]);
  await answers(page, '3');
  assert.match((await rows.filter({ hasText: 'baseline' }).locator('td').last().textContent()) ?? '', /s$/);
  assert.deepEqual(errors, []);
  await context.close();
  assert.equal(await server.end(), 0);
});

for (const [run, input] of [
  ['vectors', 'measurements'],
  ['indices', 'words'],
]) {
  test(`a model that takes no picture is measured, ${run}`, async () => {
    const server = await serve(path.join(RUNS, run ?? '', 'export'));
    const { page, context, errors } = await tab(browser);
    await page.goto(server.url);
    await until(page, 'complete');
    assert.ok((await page.locator('#reads').textContent())?.includes(`${input} of shape (12)`));
    const times = page.locator('#files td[data-microseconds]');
    assert.equal(await times.count(), await page.locator('#files tr').count());
    assert.ok(Number(await times.first().getAttribute('data-microseconds')) > 0);
    assert.deepEqual(errors, []);
    await context.close();
    assert.equal(await server.end(), 0);
  });
}

test('the files of a model with two inputs are shown, but not run', async () => {
  const server = await serve(path.join(RUNS, 'pair', 'export'));
  const { page, context, errors } = await tab(browser);
  await page.goto(server.url);
  await until(page, 'complete');
  assert.match((await page.locator('#reads').textContent()) ?? '', /left of shape \(4\) and right of shape \(4\)/);
  assert.match((await page.locator('#measure-hint').textContent()) ?? '', /only files of models with one input/);
  assert.ok(await page.getByRole('button', { name: 'Measure every file' }).isDisabled());
  for (const radio of await page.getByRole('radio').all()) assert.ok(await radio.isDisabled());
  assert.equal(await page.locator('#files .refused').count(), 0);
  for (const part of ['#answer-part', '#notice']) assert.ok(await page.locator(part).isHidden(), part);
  assert.deepEqual(errors, []);
  await context.close();
  assert.equal(await server.end(), 0);
});

test('a model that answers a picture with a picture says that it is measured alone', async () => {
  const server = await serve(path.join(RUNS, 'mask', 'export'));
  const { page, context, errors } = await tab(browser);
  await page.goto(server.url);
  await until(page, 'complete');
  assert.equal(await page.locator('#input-title').textContent(), 'Draw');
  assert.match((await page.locator('#input-hint').textContent()) ?? '', /no score for each class; its files are/);
  assert.ok(await page.locator('#answer-part').isHidden());
  assert.ok((await page.locator('#files td[data-microseconds]').count()) > 0);
  assert.deepEqual(errors, []);
  await context.close();
  assert.equal(await server.end(), 0);
});

test('outputs that are no numbers are told, and are no answer', async () => {
  const server = await serve(path.join(RUNS, 'unlit', 'export'));
  const { page, context, errors } = await tab(browser);
  await page.goto(server.url);
  await until(page, 'complete');
  const show = async (/** @type {string} */ colour) => {
    const picture = await page.evaluate(async (colour) => {
      const canvas = new OffscreenCanvas(32, 32);
      const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext('2d'));
      context.fillStyle = colour;
      context.fillRect(0, 0, 32, 32);
      return [...new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer())];
    }, colour);
    const buffer = Buffer.from(picture);
    await page.locator('#chooser').setInputFiles({ name: 'one.png', mimeType: 'image/png', buffer });
  };
  const notice = page.locator('#notice');
  await show('black');
  await page.waitForFunction(() => !document.getElementById('notice')?.hidden);
  assert.match((await notice.textContent()) ?? '', /^model_sparse\.tflite puts out values that are no numbers/);
  assert.equal(await page.locator('#answer').textContent(), '–');
  assert.doesNotMatch((await page.locator('#answer-part').textContent()) ?? '', /NaN/);
  await show('red');
  await page.waitForFunction(() => /\d %$/.test(document.getElementById('answer-share')?.textContent ?? ''));
  assert.ok(await notice.isHidden());
  assert.deepEqual(errors, []);
  await context.close();
  assert.equal(await server.end(), 0);
});

test('a slow file is measured by fewer runs', async () => {
  const server = await serve(path.join(RUNS, 'digits'));
  const { page, context, errors } = await tab(browser);
  await page.route('**/assets/worker-*.js', async (route) => {
    const response = await route.fetch();
    // As if a run of these small files took a good part of a second.
    const body = `const now = performance.now.bind(performance);
      performance.now = () => 3000 * now();
      ${await response.text()}`;
    await route.fulfill({ response, body });
  });
  await page.goto(server.url);
  await until(page, 'complete');
  const times = page.locator('#files td[data-microseconds]');
  assert.ok((await times.count()) >= 4);
  for (const title of await times.evaluateAll((cells) => cells.map((cell) => /** @type {any} */ (cell).title))) {
    const runs = Number(/^Median of (\d+) runs$/.exec(title)?.[1]);
    assert.ok(runs >= 1 && runs < 100, title);
  }
  assert.deepEqual(errors, []);
  await context.close();
  assert.equal(await server.end(), 0);
});
