/**
 * Treats strokes as MNIST treated handwriting: scaled into a box of 20x20 without changing their
 * proportions, anti-aliased, and put into 28x28 so that their centre of mass is in the middle.
 */
import { fromImage, scaled } from './pixels';
import type { Plane } from './pixels';

export interface Point {
  x: number;
  y: number;
}

export const SIDE = 28;
const BOX = 20;
const PEN = 2.2; // pixels wide, about as in MNIST
const FINE = 10; // the strokes are painted this many times as large, then averaged

/** Returns pixels, 0 to 255, of strokes in any coordinates; `reach` is the side of their area. */
export function digit(strokes: Point[][], reach: number): Plane {
  const values = new Float32Array(SIDE * SIDE);
  const digit = { rows: SIDE, columns: SIDE, channels: 1, values };
  const points = strokes.flat();
  if (points.length === 0) return digit;
  const box = inBox(painted(points, strokes, reach));
  let [mass, x, y] = [0, 0, 0];
  box.values.forEach((value, at) => {
    mass += value;
    x += value * ((at % BOX) + 0.5);
    y += value * (Math.floor(at / BOX) + 0.5);
  });
  const left = Math.round(SIDE / 2 - x / mass);
  const top = Math.round(SIDE / 2 - y / mass);
  box.values.forEach((value, at) => {
    const [row, column] = [top + Math.floor(at / BOX), left + (at % BOX)];
    if (row >= 0 && row < SIDE && column >= 0 && column < SIDE) values[row * SIDE + column] = value;
  });
  return digit;
}

function painted(points: Point[], strokes: Point[][], reach: number): ImageData {
  const [xs, ys] = [points.map((point) => point.x), points.map((point) => point.y)];
  const [left, right, top, bottom] = [
    Math.min(...xs),
    Math.max(...xs),
    Math.min(...ys),
    Math.max(...ys),
  ];
  // A dot stays a dot: tiny strokes are not blown up.
  const extent = Math.max(right - left, bottom - top, reach / 20);
  const scale = ((BOX - PEN) * FINE) / extent;
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = BOX * FINE;
  const context = canvas.getContext('2d', { willReadFrequently: true })!;
  context.fillStyle = '#000';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.strokeStyle = '#fff';
  context.lineCap = context.lineJoin = 'round';
  context.lineWidth = PEN * FINE;
  const middle = (BOX * FINE) / 2;
  for (const stroke of strokes) {
    context.beginPath();
    stroke.forEach((point, index) => {
      const x = middle + (point.x - (left + right) / 2) * scale;
      const y = middle + (point.y - (top + bottom) / 2) * scale;
      if (index === 0) context.moveTo(x, y);
      context.lineTo(x, y);
    });
    context.stroke();
  }
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function inBox(image: ImageData): Plane {
  return scaled(fromImage(image, 1), BOX, BOX);
}
