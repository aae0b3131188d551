/** What the server says about the run: `facts.json`, as `export/site.py` writes it. */

export interface ModelFile {
  file: string;
  kind: string;
  precision: string;
  purpose: string;
  bytes: number;
  accuracy: number | null;
  problems: string[];
}

export interface LiveInputs {
  name: string;
  units: number;
  inputs: number;
  live: number;
  kind: 'pixels' | 'features' | 'vector';
  shape: [rows: number, columns: number, channels: number];
  connections: number[];
}

export interface Example {
  label: number | null;
  pixels: string;
}

export interface Facts {
  model: string;
  dataset: string | null;
  fc_sparsity: number | null;
  batch: number;
  inputs: { name: string; shape: number[] }[];
  labels: string[] | null;
  live_inputs: LiveInputs | null;
  examples: Example[];
  /** False if the model's own examples are images whose values are not those of pixels, 0 to 255. */
  takes_pixels?: boolean;
  files: ModelFile[];
  keras_switcher: string;
}

export async function loadFacts(): Promise<Facts> {
  const response = await fetch('./facts.json');
  if (!response.ok) {
    throw new Error(`The server answered ${response.status} when asked for facts.json.`);
  }
  return (await response.json()) as Facts;
}

/** Rows, columns and channels of the pictures that the model takes; null if it takes none. */
export function pictureShape(facts: Facts): [number, number, number] | null {
  const [first, ...others] = facts.inputs;
  if (first === undefined || others.length > 0 || first.shape.length !== 3) return null;
  if (facts.takes_pixels === false) return null;
  const [rows, columns, channels] = first.shape as [number, number, number];
  return channels === 1 || channels === 3 ? [rows, columns, channels] : null;
}

/** The values of an example, in the order in which the model takes them. */
export function exampleValues(example: Example): Float32Array {
  return Float32Array.from(atob(example.pixels), (character) => character.charCodeAt(0));
}
