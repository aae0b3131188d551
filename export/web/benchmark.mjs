/**
 * What the web runtime makes of the files of an export, in headless Chromium:
 *
 *     node export/web/benchmark.mjs RUN [ROUNDS]
 *
 * Each file runs in a fresh runtime, in every round; the figures are those of the round that was
 * disturbed least. Memory is what the runtime's grew by while it loaded the file.
 */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { launch, ROOT, serve, tab, until } from './tests/harness.mjs';

const [, , run = '', rounds = '5'] = process.argv;
const script = readdirSync(path.join(ROOT, 'export/web/dist/assets')).find((name) => /^worker-.*\.js$/.test(name));
const server = await serve(path.resolve(run));
const browser = await launch();
const { page } = await tab(browser);
await page.goto(server.url);
await until(page, 'complete');

/** One file in a fresh runtime.
 * @param {string} file
 */
function measured(file) {
  return page.evaluate(
    async ({ file, script }) => {
      const worker = new Worker(script);
      let id = 0;
      const ask = (/** @type {any} */ request) =>
        new Promise((resolve, reject) => {
          worker.onmessage = ({ data }) => (data.ok ? resolve(data.value) : reject(new Error(data.reason)));
          worker.postMessage({ id: ++id, request });
        });
      const facts = await (await fetch('facts.json')).json();
      const size = facts.inputs[0].shape.reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b, facts.batch);
      const input = Float32Array.from({ length: size }, (_, at) => (at * 97) % 256);
      const { memory: before } = await ask({ kind: 'start' });
      const bytes = new Uint8Array(await (await fetch(file)).arrayBuffer());
      const { milliseconds, memory } = await ask({ kind: 'load', file, bytes });
      const { medianMicroseconds } = await ask({ kind: 'measure', file, input, runs: 100 });
      worker.terminate();
      return { milliseconds, memory: memory - before, medianMicroseconds };
    },
    { file, script: `assets/${script}` },
  );
}

const files = await page.evaluate(async () => (await (await fetch('facts.json')).json()).files);
/** @type {Map<string, Awaited<ReturnType<typeof measured>>[]>} */
const all = new Map();
for (let round = 0; round < Number(rounds); round++) {
  for (const { file } of files) all.set(file, [...(all.get(file) ?? []), await measured(file)]);
}
console.log('file, bytes, load in ms, median of a run in us, memory in MiB');
for (const { file, bytes } of files) {
  const least = (/** @type {'milliseconds' | 'memory' | 'medianMicroseconds'} */ name) =>
    Math.min(...(all.get(file) ?? []).map((one) => one[name]));
  console.log(
    [file, bytes, least('milliseconds').toFixed(1), least('medianMicroseconds').toFixed(1), (least('memory') / 2 ** 20).toFixed(1)].join(', '),
  );
}
await browser.close();
await server.end();
