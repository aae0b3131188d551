/** The page: what is drawn or shown goes through the chosen file, whenever it changes. */
import { Answer, probabilities } from './answer';
import { crc32 } from './crc32';
import { element, notice } from './elements';
import { loadFacts } from './facts';
import type { Facts, ModelFile } from './facts';
import { Files, sized } from './files';
import { Input } from './input';
import { keepOffline } from './offline';
import { Queue } from './queue';
import { Refused, Runner, Unreachable } from './runtime';

const RUNS = 100;
const AT_ONCE = 20e6; // bytes of all files, up to which they are fetched without being asked for

class Page {
  private readonly files: Files;
  private readonly answer: Answer | null;
  private readonly input: Input;
  /** The files that are in the runtime now. */
  private readonly loaded = new Set<string>();
  private readonly tasks = new Queue();
  private chosen: ModelFile | null = null;
  private changed = false;
  /** Whether what was put out for the last input was finite. */
  private areNumbers = true;
  private running: Promise<void> | null = null;

  constructor(
    private readonly facts: Facts,
    private readonly runner: Runner,
  ) {
    this.runner.onReplaced = () => this.loaded.clear();
    this.describe();
    this.files = new Files(element('files'), facts.files, (file) => void this.choose(file));
    // Without a picture there is nothing to answer.
    this.answer = facts.labels && facts.picture
      ? new Answer(
          facts.labels,
          element('bars'),
          element('answer'),
          element('answer-share'),
          element('spoken'),
        )
      : null;
    element('answer-part').hidden = this.answer === null;
    this.input = new Input(facts, () => this.update());
    element('measure').addEventListener('click', () => void this.measureAll());
  }

  /** Loads a file and gives the first answer. */
  async open(): Promise<void> {
    if (this.facts.inputs.length > 1) {
      this.files.disable();
      element('measure-hint').textContent = 'This page runs only files of models with one input.';
      document.documentElement.dataset.state = 'ready';
      return;
    }
    this.input.nextExample();
    await this.running; // the update for the example, for which no file was chosen yet
    const { usable } = this.files;
    const first = usable.find((file) => file.kind === 'sparse') ?? usable[0];
    if (first !== undefined) await this.choose(first);
    performance.mark('ready');
    document.documentElement.dataset.state = 'ready';
    const { batch } = this.facts;
    element('measure-hint').textContent =
      `Load: from the bytes to the first answer. A run${batch > 1 ? `, of ${batch} inputs` : ''}: the ` +
      `median of up to ${RUNS} on this device.`;
    if (this.areFew) await this.measureAll();
    else {
      if (this.chosen) await this.measure(this.chosen);
      element('measure').textContent = `Measure every file (${sized(this.bytes)})`;
    }
    element<HTMLButtonElement>('measure').disabled = false;
  }

  /** The files to keep for use without a network: all, or the chosen one if they are many bytes. */
  get kept(): string[] {
    const files = this.areFew ? this.files.usable : [this.chosen];
    return files.flatMap((file) => (file ? [file.file] : []));
  }

  /** Whether all files may be fetched without being asked for. */
  get areFew(): boolean {
    return this.bytes <= AT_ONCE;
  }

  private get bytes(): number {
    return this.files.usable.reduce((sum, file) => sum + file.bytes, 0);
  }

  private describe(): void {
    const { facts } = this;
    document.title = `${facts.model} · keras_switcher`;
    element('title').textContent = facts.model;
    const parts = ['Runs on this device'];
    if (facts.dataset) parts.unshift(`Trained on ${facts.dataset}`);
    if (facts.fc_sparsity !== null) {
      parts.unshift(`${(100 * facts.fc_sparsity).toFixed(1)} % of the dense connections are off`);
    }
    element('summary').textContent = `${parts.join('. ')}.`;
    element('files-hint').textContent =
      'The same network in several files; which of them answers is up to you.';
  }

  /** Has the chosen file answer the input as it is now; changes meanwhile are answered after it. */
  private update(): void {
    this.changed = true;
    const { dataset } = document.documentElement; // for the tests
    dataset.answering = '';
    this.running ??= this.answers().finally(() => {
      this.running = null;
      delete dataset.answering;
    });
  }

  private async answers(): Promise<void> {
    await new Promise(requestAnimationFrame);
    while (this.changed && this.chosen !== null) {
      this.changed = false;
      this.input.showSeen();
      const file = this.chosen;
      try {
        // One after the other, so that none finds its file unloaded.
        const outputs = await this.tasks.add(() => this.outputsOf(file));
        if (file !== this.chosen) continue;
        this.show(file, this.firstOf(outputs));
      } catch (error) {
        this.refused(file, error);
      }
    }
  }

  private show(file: ModelFile, outputs: Float32Array): void {
    const { isEmpty } = this.input;
    const areNumbers = isEmpty || outputs.every(Number.isFinite);
    if (!areNumbers) notice(`${file.file} puts out values that are no numbers for this input.`);
    else if (!this.areNumbers) notice('');
    this.areNumbers = areNumbers;
    this.answer?.show(isEmpty || !areNumbers ? null : probabilities(outputs, this.facts.scores));
  }

  private async outputsOf(file: ModelFile): Promise<Float32Array> {
    await this.ensureLoaded(file);
    await this.unload((other) => other !== file.file);
    return this.runner.ask<'run'>({ kind: 'run', file: file.file, input: this.input.values() });
  }

  private firstOf(outputs: Float32Array): Float32Array {
    return outputs.subarray(0, outputs.length / this.facts.batch);
  }

  private async choose(file: ModelFile): Promise<void> {
    notice('');
    this.chosen = file;
    this.files.choose(file);
    this.update();
    await this.running;
  }

  /** Shows that a file was refused or could not be fetched; if it was chosen, chooses another. */
  private refused(file: ModelFile, error: unknown): void {
    if (error instanceof Unreachable) this.files.miss(file, error.message);
    else if (error instanceof Refused) this.files.refuse(file, error.message);
    else throw error;
    if (file !== this.chosen) return;
    const { usable } = this.files;
    const others =
      error instanceof Unreachable ? usable.filter(({ file }) => this.loaded.has(file)) : usable;
    this.chosen = others[0] ?? null;
    if (this.chosen !== null) {
      this.files.choose(this.chosen);
      this.update();
    } else {
      this.answer?.show(null);
      notice('None of the files answers; the table says why.');
    }
  }

  private async ensureLoaded(file: ModelFile): Promise<void> {
    if (this.loaded.has(file.file)) return;
    this.files.loading(file);
    await this.load(file, await downloaded(file));
  }

  private async load(file: ModelFile, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    const loaded = await this.runner.ask<'load'>({ kind: 'load', file: file.file, bytes }, [
      bytes.buffer,
    ]);
    this.loaded.add(file.file);
    this.files.loaded(file, loaded);
  }

  private async unload(which: (file: string) => boolean): Promise<void> {
    for (const file of [...this.loaded].filter(which)) {
      this.loaded.delete(file);
      await this.runner.ask<'unload'>({ kind: 'unload', file });
    }
  }

  private async measureAll(): Promise<void> {
    const trigger = element<HTMLButtonElement>('measure');
    trigger.disabled = true;
    for (const file of this.files.usable) await this.measure(file);
    trigger.disabled = false;
    document.documentElement.dataset.measured = 'all';
  }

  private async measure(file: ModelFile): Promise<void> {
    try {
      const measured = await this.tasks.add(async () => {
        // Loaded again, as the first file that a browser loads also pays for what it compiles then;
        // but not unloaded as long as it can't be fetched.
        const bytes = await downloaded(file);
        await this.unload((other) => other === file.file);
        await this.load(file, bytes);
        const input = this.input.values();
        return this.runner.ask<'measure'>({ kind: 'measure', file: file.file, input, runs: RUNS });
      });
      this.files.measured(file, measured);
    } catch (error) {
      if (error instanceof Unreachable && this.loaded.has(file.file)) notice(error.message);
      else this.refused(file, error);
    }
    this.update(); // which leaves only the chosen file loaded
  }
}

async function downloaded(file: ModelFile): Promise<Uint8Array<ArrayBuffer>> {
  let response: Response;
  try {
    response = await fetch(`./${file.file}`);
  } catch {
    throw new Unreachable('The server does not answer. Choose the file again once it does.');
  }
  if (!response.ok) throw new Unreachable(`The server answered ${response.status}.`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (crc32(bytes) !== file.crc32) {
    throw new Unreachable('It is another file than when this page was opened. Reload the page.');
  }
  return bytes;
}

/** Shows lines about the page; returns the item of each. */
function aboutList(lines: string[]): HTMLElement[] {
  const items = lines.map((line) => {
    const item = document.createElement('li');
    item.textContent = line;
    return item;
  });
  element('about-list').replaceChildren(...items);
  return items;
}

async function main(): Promise<void> {
  const runner = new Runner();
  const starting = runner.start();
  starting.catch(() => undefined); // handled below
  const facts = await loadFacts();
  const page = new Page(facts, runner);
  const runtime = await starting;
  await page.open();
  const [offline] = aboutList([
    'Being kept for use without a network …',
    `LiteRT.js ${__LITERT_VERSION__} (build: ${runtime.build}), ready after ${Math.round(runtime.milliseconds)} ms; ` +
      'one thread of the processor.',
    'No picture leaves this device.',
    crossOriginIsolated
      ? 'The page is isolated from other origins: the clock steps finely.'
      : 'The page is not isolated from other origins, so the clock is coarse: a run is many calls, timed together.',
    `Exported by keras_switcher ${facts.keras_switcher}.`,
  ]);
  offline!.textContent = await keepOffline([...runtime.urls, ...page.kept], page.areFew);
  document.documentElement.dataset.state = 'complete';
}

main().catch((error: unknown) => {
  const reason = error instanceof Error ? error.message : String(error);
  element('summary').textContent = 'This page could not start.';
  notice(`${reason} Reload the page; if that does not help, see whether the server still runs.`);
});
