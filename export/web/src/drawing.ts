/** The area to draw in: with finger, pen or mouse, or with the keys. */
import { digit, SIDE } from './digit';
import type { Point } from './digit';
import { pictureOf } from './picture';
import { toImage } from './pixels';
import type { Plane } from './pixels';

const STEPS = 28; // the keys move the pen by one of this many parts of the area
const MOVES: Record<string, [number, number]> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

export class Drawing {
  private strokes: Point[][] = [];
  private drawing = false;
  private example: Plane | null = null;
  private readonly context: CanvasRenderingContext2D;
  private readonly pen: Point;
  private penIsDown = false;
  private hasKeys = false;
  /** Counts what was asked for: a picture that comes late is not shown any more. */
  private asked = 0;

  constructor(
    private readonly area: HTMLCanvasElement,
    private readonly onChange: () => void,
    private readonly say: (text: string) => void,
  ) {
    this.context = area.getContext('2d')!;
    this.pen = { x: area.width / 2, y: area.height / 4 };
    area.tabIndex = 0;
    area.setAttribute('role', 'application');
    area.setAttribute('aria-roledescription', 'drawing area');
    area.setAttribute(
      'aria-label',
      'Draw a digit. Arrow keys move the pen, space puts it down or lifts it, delete clears.',
    );
    area.addEventListener('pointerdown', (event) => this.begin(event));
    area.addEventListener('pointermove', (event) => this.go(event));
    for (const end of ['pointerup', 'pointercancel'] as const) {
      area.addEventListener(end, (event) => {
        if (event.isPrimary) this.drawing = false;
      });
    }
    area.addEventListener('keydown', (event) => this.key(event));
    area.addEventListener('blur', () => this.putKeysAway());
    this.paint();
  }

  /** The values for the network; all dark if nothing is drawn. */
  values(): Plane {
    return this.example ?? digit(this.strokes, this.area.width);
  }

  get isEmpty(): boolean {
    return this.example === null && this.strokes.length === 0;
  }

  clear(): void {
    this.asked++;
    this.drawing = false;
    this.strokes = [];
    this.example = null;
    this.penIsDown = false;
    this.changed();
  }

  show(example: Plane): void {
    this.clear();
    this.example = example;
    this.changed();
  }

  /** Shows the middle of a picture in a file. */
  async open(file: File): Promise<void> {
    const turn = ++this.asked;
    const { read } = await pictureOf(file, [SIDE, SIDE, 1]);
    if (turn !== this.asked) return;
    this.show(read);
    this.say(`Picture ${file.name}`);
  }

  private begin(event: PointerEvent): void {
    if (event.button !== 0 || !event.isPrimary) return;
    event.preventDefault();
    this.area.focus({ preventScroll: true });
    this.penIsDown = this.hasKeys = false;
    this.area.setPointerCapture(event.pointerId);
    this.drawing = true;
    this.startStroke(this.place(event));
  }

  private go(event: PointerEvent): void {
    if (!this.drawing || !event.isPrimary) return;
    // A fast finger moves several times between two frames.
    const events = event.getCoalescedEvents?.() ?? [];
    for (const one of events.length > 0 ? events : [event]) this.strokes.at(-1)!.push(this.place(one));
    this.changed();
  }

  private place(event: PointerEvent): Point {
    const box = this.area.getBoundingClientRect();
    const scale = this.area.width / box.width;
    return {
      x: this.inside((event.clientX - box.left) * scale),
      y: this.inside((event.clientY - box.top) * scale),
    };
  }

  /** What is drawn past the edge of the area, where nobody sees it, is drawn along the edge. */
  private inside(at: number, margin = 0): number {
    return Math.min(Math.max(at, margin), this.area.width - margin);
  }

  private startStroke(point: Point): void {
    this.asked++;
    this.example = null;
    this.strokes.push([point]);
    this.changed();
  }

  private key(event: KeyboardEvent): void {
    // These are the browser's, such as Alt+Left to go back.
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const move = MOVES[event.key];
    if (move !== undefined) {
      const step = this.area.width / STEPS;
      this.pen.x = this.inside(this.pen.x + move[0] * step, step);
      this.pen.y = this.inside(this.pen.y + move[1] * step, step);
      if (this.penIsDown) this.strokes.at(-1)!.push({ ...this.pen });
    } else if (event.key === ' ') {
      this.penIsDown = !this.penIsDown;
      if (this.penIsDown) this.startStroke({ ...this.pen });
      this.say(this.penIsDown ? 'Pen down' : 'Pen lifted');
    } else if (['Delete', 'Backspace', 'Escape'].includes(event.key)) {
      this.clear();
      this.say('Cleared');
    } else {
      return;
    }
    event.preventDefault();
    this.hasKeys = true;
    this.changed();
  }

  private putKeysAway(): void {
    this.penIsDown = this.hasKeys = false;
    this.paint();
  }

  private changed(): void {
    this.paint();
    this.onChange();
  }

  private paint(): void {
    const { context, area } = this;
    context.fillStyle = '#0b0d0a';
    context.fillRect(0, 0, area.width, area.height);
    // MNIST's digits lie in the middle 20 of 28 pixels.
    const margin = (area.width * 4) / 28;
    context.strokeStyle = '#8a9484';
    context.lineWidth = 1.5;
    context.setLineDash([6, 10]);
    context.strokeRect(margin, margin, area.width - 2 * margin, area.width - 2 * margin);
    context.setLineDash([]);
    if (this.example !== null) {
      const small = document.createElement('canvas');
      small.width = this.example.columns;
      small.height = this.example.rows;
      small.getContext('2d')!.putImageData(toImage(this.example), 0, 0);
      context.imageSmoothingEnabled = false;
      context.globalCompositeOperation = 'lighten';
      context.drawImage(small, 0, 0, area.width, area.height);
      context.globalCompositeOperation = 'source-over';
    }
    context.strokeStyle = '#fff';
    context.lineCap = context.lineJoin = 'round';
    context.lineWidth = (area.width * 2.2) / 28;
    for (const stroke of this.strokes) {
      context.beginPath();
      stroke.forEach((point, index) => {
        if (index === 0) context.moveTo(point.x, point.y);
        context.lineTo(point.x, point.y);
      });
      context.stroke();
    }
    if (this.hasKeys) {
      context.strokeStyle = this.penIsDown ? '#ffd166' : '#8ab4ff';
      context.lineWidth = 4;
      context.beginPath();
      context.arc(this.pen.x, this.pen.y, 16, 0, 2 * Math.PI);
      context.stroke();
    }
  }
}
