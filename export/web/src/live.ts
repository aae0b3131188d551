/** The picture of the live inputs: which inputs of the first switched layer still have a connection. */
import type { LiveInputs } from './facts';

const TINT = [96, 211, 148] as const; // as --live in style.css

/** Paints a cell per place: the more of its connections are on, the stronger. */
export function paintLive(canvas: HTMLCanvasElement, live: LiveInputs): void {
  const [rows, columns] = grid(live);
  const cell = Math.max(1, Math.floor(560 / Math.max(rows, columns)));
  canvas.width = columns * cell;
  canvas.height = rows * cell;
  const context = canvas.getContext('2d')!;
  context.clearRect(0, 0, canvas.width, canvas.height);
  const most = Math.max(...live.connections, 1);
  const gap = cell > 3 ? Math.max(1, Math.round(cell / 14)) : 0;
  live.connections.forEach((connections, at) => {
    if (connections === 0) return;
    const strength = 0.16 + 0.5 * Math.sqrt(connections / most);
    context.fillStyle = `rgb(${TINT.join(' ')} / ${strength})`;
    const [row, column] = [Math.floor(at / columns), at % columns];
    context.fillRect(column * cell, row * cell, cell - gap, cell - gap);
  });
}

/** Rows and columns of the picture; inputs without a place are laid out in a square. */
function grid(live: LiveInputs): [number, number] {
  if (live.kind !== 'vector') return [live.shape[0], live.shape[1]];
  const side = Math.ceil(Math.sqrt(live.inputs));
  return [Math.ceil(live.inputs / side), side];
}

/** Says what the picture shows. */
export function describeLive(live: LiveInputs): string {
  const count = `${live.live.toLocaleString('en')} of ${live.inputs.toLocaleString('en')}`;
  const [rows, columns, channels] = live.shape;
  switch (live.kind) {
    case 'pixels':
      return (
        `Green: the pixels that layer ${live.name} still reads, ${count}; the stronger, the more ` +
        'of its units read them. Without any connection: the rest.'
      );
    case 'features':
      return (
        `Green: where layer ${live.name} still reads the ${rows}x${columns} map of ${channels} features ` +
        `that the layers before it make of the picture; the stronger, the more connections are on. ` +
        `${count} features have one.`
      );
    case 'vector':
      return (
        `Green: which inputs of layer ${live.name} still have a connection, ${count}; they are ` +
        'features of the whole picture, and their order says nothing of a place in it.'
      );
  }
}
