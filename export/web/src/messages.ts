/** What the page and the worker that runs the files say to each other. */

export type Request =
  | { kind: 'start' }
  | { kind: 'load'; file: string; bytes: Uint8Array<ArrayBuffer> }
  | { kind: 'run'; file: string; input: Float32Array }
  | { kind: 'measure'; file: string; input: Float32Array; runs: number }
  | { kind: 'unload'; file: string };

export interface Runtime {
  /** The build of the runtime that was loaded. */
  build: string;
  milliseconds: number;
  /** Bytes of its memory, which only grows. */
  memory: number;
  /** What was fetched for it, which the page can't see by itself. */
  urls: string[];
}

export interface Loaded {
  /** From the bytes of the file to its first answer. */
  milliseconds: number;
  /** Bytes of the runtime's memory afterwards. */
  memory: number;
}

export interface Measured {
  medianMicroseconds: number;
  /** Number of timed runs: fewer than were asked for if they would have taken too long. */
  runs: number;
}

export interface Answers {
  start: Runtime;
  load: Loaded;
  run: Float32Array;
  measure: Measured;
  unload: null;
}

export type Reply = { id: number } & (
  | { ok: true; value: Answers[Request['kind']] }
  | { ok: false; reason: string }
);
