/** The table of the files: a choice, with the size of each and the time that it takes here. */
import type { ModelFile } from './facts';
import type { Loaded, Measured } from './messages';

interface Row {
  file: ModelFile;
  row: HTMLTableRowElement;
  radio: HTMLInputElement;
  load: HTMLElement;
  run: HTMLElement;
  note: HTMLElement;
  refused: boolean;
}

export class Files {
  private readonly rows = new Map<string, Row>();

  constructor(body: HTMLElement, files: ModelFile[], onChoice: (file: ModelFile) => void) {
    for (const file of files) {
      const row = this.made(file);
      row.radio.addEventListener('change', () => onChoice(file));
      this.rows.set(file.file, row);
      body.append(row.row);
      if (file.problems.length > 0) {
        this.refuse(file, `Not exported: ${file.problems.join('; ')}`);
      }
    }
  }

  /** The files that may run, in the order of the table. */
  get usable(): ModelFile[] {
    return [...this.rows.values()].filter((row) => !row.refused).map((row) => row.file);
  }

  /** Shows the files alone: none of them can be chosen. */
  disable(): void {
    for (const { radio } of this.rows.values()) radio.disabled = true;
  }

  choose(file: ModelFile): void {
    const chosen = this.rows.get(file.file)!;
    chosen.radio.checked = true;
    for (const { row } of this.rows.values()) row.classList.toggle('chosen', row === chosen.row);
  }

  loading(file: ModelFile): void {
    this.rows.get(file.file)!.load.textContent = '…';
  }

  loaded(file: ModelFile, loaded: Loaded): void {
    const { row, load, note } = this.rows.get(file.file)!;
    load.textContent = `${digits(loaded.milliseconds)} ms`;
    row.classList.remove('missing');
    note.textContent = described(file);
  }

  /** Shows that a file could not be fetched this time. */
  miss(file: ModelFile, reason: string): void {
    const { row, radio, load, note } = this.rows.get(file.file)!;
    radio.checked = false;
    row.classList.remove('chosen');
    row.classList.add('missing');
    load.textContent = '–';
    note.textContent = `Not there. ${reason}`;
  }

  measured(file: ModelFile, measured: Measured): void {
    const { run } = this.rows.get(file.file)!;
    run.textContent = duration(measured.medianMicroseconds);
    run.title = `Median of ${measured.runs} runs`;
    run.dataset.microseconds = measured.medianMicroseconds.toFixed(2);
  }

  /** Shows that a file does not run here, and why. */
  refuse(file: ModelFile, reason: string): void {
    const row = this.rows.get(file.file)!;
    row.refused = true;
    row.radio.disabled = true;
    row.radio.checked = false;
    row.row.classList.add('refused');
    row.row.classList.remove('chosen');
    row.load.textContent = row.run.textContent = '–';
    row.note.textContent = `Refused. ${reason.replace(/\.?$/, '.')}`;
  }

  private made(file: ModelFile): Row {
    const row = document.createElement('tr');
    const name = document.createElement('th');
    name.scope = 'row';
    const label = document.createElement('label');
    const radio = document.createElement('input');
    radio.type = 'radio';
    radio.name = 'file';
    const title = document.createElement('span');
    title.className = 'file';
    title.textContent = file.kind;
    label.append(radio, title);
    const note = document.createElement('span');
    note.className = 'note';
    note.textContent = described(file);
    name.append(label, note);
    const [bytes, accuracy, load, run] = ['Bytes', 'Accuracy', 'Load', 'A run'].map((column): HTMLElement => {
      const cell = document.createElement('td');
      cell.dataset.column = column;
      return cell;
    }) as [HTMLElement, HTMLElement, HTMLElement, HTMLElement];
    bytes.textContent = sized(file.bytes);
    bytes.title = `${file.bytes.toLocaleString('en')} bytes`;
    accuracy.textContent = file.accuracy === null ? '–' : `${(100 * file.accuracy).toFixed(2)} %`;
    load.textContent = run.textContent = '–';
    row.append(name, bytes, accuracy, load, run);
    return { file, row, radio, load, run, note, refused: false };
  }
}

const PRECISIONS: Record<string, string> = {
  float32: 'float32',
  float16: 'float16 weights',
  dynamic: 'int8 weights',
  int8: 'int8',
};

function described(file: ModelFile): string {
  return `${PRECISIONS[file.precision] ?? file.precision}; ${file.purpose}`;
}

export function sized(bytes: number): string {
  return bytes < 1e6 ? `${digits(bytes / 1e3)} kB` : `${digits(bytes / 1e6)} MB`;
}

function duration(microseconds: number): string {
  return microseconds < 1000 ? `${digits(microseconds)} µs` : `${digits(microseconds / 1000)} ms`;
}

function digits(value: number): string {
  return value.toLocaleString('en', { maximumSignificantDigits: 3 });
}
