/** Models whose outputs are probabilities already, and pictures of other shapes. */
import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { answers, DIGITS, draw, launch, reference, RUNS, serve, showsShares, tab, until } from './harness.mjs';

/** @type {import('playwright-core').Browser} */
let browser;

before(async () => {
  browser = await launch();
});

after(() => browser?.close());

/** Shows each example to each file, and compares all shares with what Python's LiteRT answered.
 * @param {string} run
 * @param {(outputs: number[]) => number[]} sharesOf
 */
async function compared(run, sharesOf) {
  const server = await serve(path.join(RUNS, run, 'export'));
  const { page, context, errors } = await tab(browser);
  await page.goto(server.url);
  await until(page, 'complete');
  const { images, outputs } = reference(`${run}/export`);
  const { examples } = await page.evaluate(async () => (await fetch('facts.json')).json());
  let [turn, count] = [0, 0]; // the page has shown the first example
  for (const file of Object.keys(outputs)) {
    const kind = /model_(.*)\.tflite/.exec(file)?.[1] ?? '';
    await page.getByRole('radio', { name: kind }).check();
    for (let click = 0; click < examples.length; click++) {
      turn = (turn + 1) % examples.length;
      await page.getByRole('button', { name: 'Example' }).click();
      const pixels = [...Buffer.from(examples[turn].pixels, 'base64')];
      const index = images.findIndex((image) => image.every((value, at) => value === pixels[at]));
      if (index < 0) continue;
      const expected = sharesOf(outputs[file]?.[index] ?? []).map((share) => 100 * share);
      // 8-bit files may differ by a step.
      await showsShares(page, expected, 0.11, file);
      count++;
    }
  }
  assert.ok(count >= 2 * Object.keys(outputs).length, `only ${count} were compared`);
  return { page, errors, end: async () => (await context.close(), server.end()) };
}

test('shares of a softmax are shown as they are, also where int8 rounds them', async () => {
  const { page, errors, end } = await compared('shares', (outputs) => outputs);
  const { outputs } = reference('shares/export');
  const sums = (outputs['model_int8.tflite'] ?? []).map((shares) => shares.reduce((a, b) => a + b, 0));
  assert.ok(sums.some((sum) => Math.abs(sum - 1) > 1e-3), 'the rounding is to be seen');
  // Of the shape (28, 28), without channels.
  await page.getByRole('radio', { name: 'dense' }).check();
  await draw(page, DIGITS[1]);
  await answers(page, '1');
  assert.deepEqual(errors, []);
  assert.equal(await end(), 0);
});

test('one sigmoid tells two classes apart, and a wide picture keeps its proportions', async () => {
  const { page, errors, end } = await compared('wide', ([share = NaN]) => [1 - share, share]);
  const box = await page.locator('#area').boundingBox();
  const { width, height } = await page.evaluate(() => {
    const { width, height } = /** @type {HTMLCanvasElement} */ (document.getElementById('area'));
    return { width, height };
  });
  assert.ok(Math.abs(width / height - 3) < 0.05, `${width}x${height}`);
  assert.ok(box && Math.abs(box.width / box.height - 3) < 0.05, JSON.stringify(box));
  assert.deepEqual(errors, []);
  assert.equal(await end(), 0);
});
