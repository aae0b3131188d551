/** What the server says about the run: `facts.json`, as `export/site.py` writes it. */

export interface ModelFile {
  file: string;
  kind: string;
  precision: string;
  purpose: string;
  bytes: number;
  /** Of its content; a file that is not there has none. */
  crc32?: number;
  accuracy: number | null;
  problems: string[];
}

export interface LiveInputs {
  name: string;
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
  /** Of the pictures that the model takes; null if it takes none. */
  picture: [rows: number, columns: number, channels: number] | null;
  labels: string[] | null;
  /** What the outputs are: probabilities of a softmax or of sigmoids, or neither. */
  scores: 'softmax' | 'sigmoid' | 'logits';
  live_inputs: LiveInputs | null;
  examples: Example[];
  /** False if the model's own examples are images whose values are not those of pixels, 0 to 255. */
  takes_pixels: boolean;
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

/** The values of an example, in the order in which the model takes them. */
export function exampleValues(example: Example): Float32Array {
  return Float32Array.from(atob(example.pixels), (character) => character.charCodeAt(0));
}
