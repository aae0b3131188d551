/** The picture of the live inputs: which inputs of the first switched layer still have a connection. */
import type { LiveInputs } from './facts';

const TINT = '96 211 148';
const SHADE = '11 13 10';

/**
 * Paints a cell per place: over a dark drawing area, a green one that is the stronger, the more of
 * its connections are on; over a picture, whose colours count, a shade where few or none are on.
 */
export function paintLive(canvas: HTMLCanvasElement, live: LiveInputs, overPicture: boolean): void {
  const [rows, columns] = grid(live);
  const cell = Math.max(1, Math.floor(560 / Math.max(rows, columns)));
  canvas.width = columns * cell;
  canvas.height = rows * cell;
  canvas.classList.toggle('glows', !overPicture);
  const context = canvas.getContext('2d')!;
  const most = Math.max(...live.connections, 1);
  const gap = overPicture || cell <= 3 ? 0 : Math.max(1, Math.round(cell / 14));
  live.connections.forEach((connections, at) => {
    const share = Math.sqrt(connections / most);
    if (overPicture) {
      context.fillStyle = `rgb(${SHADE} / ${connections === 0 ? 0.86 : 0.5 * (1 - share)})`;
    } else {
      if (connections === 0) return;
      context.fillStyle = `rgb(${TINT} / ${0.16 + 0.5 * share})`;
    }
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
export function describeLive(live: LiveInputs, overPicture: boolean): string {
  const share = (part: number, whole: number): string =>
    `${part.toLocaleString('en')} of ${whole.toLocaleString('en')}`;
  const count = share(live.live, live.inputs);
  const places = share(live.connections.filter((count) => count > 0).length, live.connections.length);
  const [rows, columns, channels] = live.shape;
  const [sign, degree] = overPicture ? ['Bright', 'the brighter'] : ['Green', 'the stronger'];
  const none = overPicture ? 'Nearly black: where no connection is left.' : 'Dark: no connection left.';
  switch (live.kind) {
    case 'pixels':
      return (
        `${sign}: the pixels that layer ${live.name} still reads, ${places}; ${degree}, the more ` +
        `connections are on. ${none}`
      );
    case 'features':
      return (
        `${sign}: where layer ${live.name} still reads the ${rows}x${columns} map of ${channels} ` +
        `features that the layers before it make of the picture; ${degree}, the more connections ` +
        `are on. ${count} features have one. ${none}`
      );
    case 'vector':
      return (
        `${sign}: which inputs of layer ${live.name} still have a connection, ${count}; they are ` +
        'features of the whole picture, and their order says nothing of a place in it.'
      );
  }
}
