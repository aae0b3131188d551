/** The probabilities as bars, and the answer in words. */
import type { Facts } from './facts';

const MOST = 10; // bars; if there are more classes, the most probable ones

export class Answer {
  private readonly rows: { item: HTMLElement; name: HTMLElement; bar: HTMLElement; share: HTMLElement }[];
  /** What is to be spoken next, and the timer until then. */
  private unspoken = '';
  private timer = 0;

  constructor(
    private readonly labels: string[],
    private readonly list: HTMLElement,
    private readonly best: HTMLElement,
    private readonly bestShare: HTMLElement,
    private readonly spoken: HTMLElement,
  ) {
    const longest = Math.max(...labels.map((label) => label.length));
    list.style.setProperty('--name-width', `${0.65 * Math.min(longest, 12) + 0.5}rem`);
    this.rows = Array.from({ length: Math.min(labels.length, MOST) }, (_, index) => {
      const item = document.createElement('li');
      const [name, track, bar, share] = ['span', 'span', 'span', 'span'].map((tag) =>
        document.createElement(tag),
      ) as [HTMLElement, HTMLElement, HTMLElement, HTMLElement];
      name.className = 'name';
      name.textContent = labels[index]!;
      track.className = 'track';
      track.setAttribute('aria-hidden', 'true');
      track.append(bar);
      share.className = 'share';
      item.append(name, track, share);
      this.list.append(item);
      return { item, name, bar, share };
    });
  }

  /** Shows probabilities; null before there is an input. */
  show(probabilities: Float32Array | null): void {
    if (probabilities === null) {
      this.unspoken = '';
      this.best.textContent = '–';
      this.bestShare.textContent = '';
      for (const row of this.rows) this.fill(row, 0, false);
      return;
    }
    const order = [...probabilities.keys()].sort((a, b) => probabilities[b]! - probabilities[a]!);
    const winner = order[0]!;
    const shown = this.labels.length <= MOST ? [...probabilities.keys()] : order.slice(0, MOST);
    shown.forEach((index, place) => {
      const row = this.rows[place]!;
      row.name.textContent = this.labels[index]!;
      this.fill(row, probabilities[index]!, index === winner);
    });
    this.best.textContent = this.labels[winner]!;
    this.bestShare.textContent = percent(probabilities[winner]!);
    this.speakSoon(`${this.labels[winner]!}, ${percent(probabilities[winner]!)}`);
  }

  /** Not at every movement of the pen, or picture of the camera: a reader would never finish. */
  private speakSoon(text: string): void {
    this.unspoken = text;
    this.timer ||= window.setTimeout(() => {
      this.timer = 0;
      if (this.unspoken !== '') this.spoken.textContent = this.unspoken;
    }, 700);
  }

  private fill(row: (typeof this.rows)[number], share: number, isBest: boolean): void {
    row.item.classList.toggle('best', isBest);
    row.bar.style.transform = `scaleX(${share})`;
    row.share.textContent = percent(share);
  }
}

function percent(share: number): string {
  return `${(100 * share).toFixed(share >= 0.9995 || share < 0.0005 ? 0 : 1)} %`;
}

/** Turns the scores of a model into a probability for each of its classes. */
export function probabilities(outputs: Float32Array, scores: Facts['scores']): Float32Array {
  if (scores === 'softmax') return outputs;
  // One unit with a sigmoid gives the probability of the second of two classes.
  if (scores === 'sigmoid') return outputs.length > 1 ? outputs : Float32Array.of(1 - outputs[0]!, outputs[0]!);
  const largest = outputs.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = outputs.map((value) => Math.exp(value - largest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / total);
}
