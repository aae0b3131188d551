/**
 * Runs files with LiteRT, away from the page: a file that is slow does not hold up the drawing, and
 * one that crashes the runtime takes down this worker and nothing else.
 */
import { loadAndCompile, loadLiteRt, supportsFeature, Tensor } from '@litertjs/core';
import type { CompiledModel, DType, LiteRt, TypedArray } from '@litertjs/core';
import compatScript from '@litertjs/core/wasm/litert_wasm_compat_internal.js?url';
import compatWasm from '@litertjs/core/wasm/litert_wasm_compat_internal.wasm?url';
import script from '@litertjs/core/wasm/litert_wasm_internal.js?url';
import wasm from '@litertjs/core/wasm/litert_wasm_internal.wasm?url';
import type { Answers, Loaded, Measured, Reply, Request, Runtime } from '../messages';

declare const self: DedicatedWorkerGlobalScope & { Module?: unknown };

/** How long the timed runs of one file may take: the page waits no longer than a minute for all. */
const MILLISECONDS = 20_000;

const models = new Map<string, CompiledModel>();
let said: string[] = [];
let liteRt: LiteRt;

/** Loads one build of the runtime: the one for relaxed SIMD if the browser has that. */
async function start(): Promise<Runtime> {
  const begun = performance.now();
  const relaxed = await supportsFeature('relaxedSimd');
  const urls = (relaxed ? [script, wasm] : [compatScript, compatWasm]).map(absolute);
  // LiteRT asks for a GPU even if no file is to run on it; a phone would wake its GPU for nothing.
  Object.defineProperty(navigator, 'gpu', {
    configurable: true,
    value: { requestAdapter: () => Promise.resolve(null) },
  });
  // Otherwise, Emscripten would look for its file beside this worker, and print lines as errors.
  self.Module = {
    locateFile: (name: string) => (name.endsWith('.wasm') ? urls[1] : name),
    print: (line: string) => said.push(line),
    printErr: (line: string) => said.push(line),
  };
  const warn = console.warn;
  console.warn = () => undefined; // it would say that there is no GPU
  try {
    liteRt = await loadLiteRt(urls[0]!);
  } finally {
    console.warn = warn;
  }
  return {
    build: relaxed ? 'relaxed SIMD' : 'SIMD',
    milliseconds: performance.now() - begun,
    memory: liteRt.liteRtWasm.HEAPU8.length,
    urls: [self.location.href, ...urls],
  };
}

function absolute(url: string): string {
  return new URL(url, self.location.href).href;
}

async function load(file: string, bytes: Uint8Array): Promise<Loaded> {
  const begun = performance.now();
  const model = await loadAndCompile(bytes, { accelerator: 'wasm', cpuOptions: { numThreads: 1 } });
  models.set(file, model);
  const details = model.getInputDetails();
  if (details.length === 1) {
    await run(file, new Float32Array(details[0]!.shape.reduce((a, b) => a * b, 1)));
  }
  return { milliseconds: performance.now() - begun, memory: liteRt.liteRtWasm.HEAPU8.length };
}

/** Returns the values of the file's one output. */
async function run(file: string, input: Float32Array): Promise<Float32Array> {
  const { model, tensor } = prepared(file, input);
  try {
    const outputs = await model.run(tensor);
    // When a run fails, LiteRT.js only prints errors, and returns outputs with whatever was there.
    if (printedErrors().length > 0) throw new Error('The run failed');
    const values = outputs[0]!.toTypedArray();
    outputs.forEach((output) => output.delete());
    return Float32Array.from(values);
  } finally {
    tensor.delete();
  }
}

/**
 * Median over `runs` runs, or as many as `MILLISECONDS` have room for; where the clock is too coarse
 * for one call, a run is several calls.
 */
async function measure(file: string, input: Float32Array, runs: number): Promise<Measured> {
  const { model, tensor } = prepared(file, input);
  try {
    const calls = async (count: number): Promise<number> => {
      const begun = performance.now();
      for (let call = 0; call < count; call++) {
        for (const output of await model.run(tensor)) output.delete();
      }
      return performance.now() - begun;
    };
    let together = 1;
    // The first calls are slow, as the browser is still compiling: 20 at least, and 40 ms of them.
    for (let [count, spent] = [0, 0]; count < 20 || spent < 40; count++) {
      spent += await calls(1);
      if (spent > MILLISECONDS / 4) break;
    }
    const enough = 20 * clockStep();
    while ((await calls(together)) < enough && together < 4096) together *= 2;
    const times: number[] = [];
    const begun = performance.now();
    while (times.length < runs && performance.now() - begun < MILLISECONDS) {
      times.push((1000 * (await calls(together))) / together);
    }
    times.sort((a, b) => a - b);
    const middle = times.length / 2;
    const median = (times[Math.floor(middle - 0.5)]! + times[Math.floor(middle)]!) / 2;
    return { medianMicroseconds: median, runs: times.length };
  } finally {
    tensor.delete();
  }
}

function prepared(file: string, input: Float32Array): { model: CompiledModel; tensor: Tensor } {
  const model = models.get(file);
  if (model === undefined) throw new Error(`${file} is not loaded.`);
  const details = model.getInputDetails()[0]!;
  const shape = [...details.shape];
  const size = shape.reduce((a, b) => a * b, 1);
  if (input.length !== size) {
    throw new Error(`Expected ${size} values, (${shape.join(', ')}). Received: ${input.length}`);
  }
  return { model, tensor: new Tensor(ofType(input, details.dtype), shape) };
}

/** The values in the type that the model takes; LiteRT.js has these three. */
function ofType(values: Float32Array, dtype: DType): TypedArray {
  switch (dtype) {
    case 'float32':
      return values;
    case 'int32':
      return Int32Array.from(values);
    case 'uint8':
      return Uint8Array.from(values);
    default:
      throw new Error(`LiteRT.js has no inputs of the type ${String(dtype)}.`);
  }
}

/** The clock's smallest step in milliseconds: 5 µs to 1 ms, depending on browser and isolation. */
function clockStep(): number {
  const begun = performance.now();
  let now = begun;
  while (now === begun) now = performance.now();
  return now - begun;
}

async function answer(request: Request): Promise<Answers[Request['kind']]> {
  switch (request.kind) {
    case 'start':
      return start();
    case 'load':
      return load(request.file, request.bytes);
    case 'run':
      return run(request.file, request.input);
    case 'measure':
      return measure(request.file, request.input, request.runs);
    case 'unload':
      models.get(request.file)?.delete();
      models.delete(request.file);
      return null;
  }
}

function printedErrors(): string[] {
  return said
    .filter((line) => line.includes('ERROR: '))
    .map((line) => line.replace(/^.*?ERROR: (\[[^\]]*\] )?/, ''));
}

/** The exception, and the errors that the runtime printed before it. */
function reason(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const what = error instanceof WebAssembly.RuntimeError ? 'It crashed the runtime: ' : '';
  return [...new Set([`${what}${message.split('\n')[0]}`, ...printedErrors()])].join('; ');
}

self.onmessage = async ({ data: { id, request } }: MessageEvent<{ id: number; request: Request }>) => {
  said = [];
  let reply: Reply;
  try {
    reply = { id, ok: true, value: await answer(request) };
  } catch (error) {
    reply = { id, ok: false, reason: reason(error) };
  }
  self.postMessage(reply);
};
