/** Pictures as arrays of numbers. */

export interface Plane {
  rows: number;
  columns: number;
  channels: number;
  values: Float32Array;
}

/**
 * Scales a picture: each new pixel is the mean of the part of the picture that it covers. (How a
 * canvas scales down is left to the browser, and some browsers use a few pixels and skip the rest.)
 */
export function scaled(picture: Plane, rows: number, columns: number): Plane {
  const { channels } = picture;
  const across = weights(picture.columns, columns);
  const down = weights(picture.rows, rows);
  const narrow = new Float32Array(picture.rows * columns * channels);
  for (let row = 0; row < picture.rows; row++) {
    across.forEach((parts, column) => {
      for (const [from, share] of parts) {
        for (let channel = 0; channel < channels; channel++) {
          narrow[(row * columns + column) * channels + channel]! +=
            share * picture.values[(row * picture.columns + from) * channels + channel]!;
        }
      }
    });
  }
  const values = new Float32Array(rows * columns * channels);
  const line = columns * channels;
  down.forEach((parts, row) => {
    for (const [from, share] of parts) {
      for (let at = 0; at < line; at++) {
        values[row * line + at]! += share * narrow[from * line + at]!;
      }
    }
  });
  return { rows, columns, channels, values };
}

/** For each new pixel, which old ones it covers, and the share of each. */
function weights(from: number, to: number): [number, number][][] {
  const step = from / to;
  return Array.from({ length: to }, (_, index) => {
    const [start, end] = [index * step, (index + 1) * step];
    const parts: [number, number][] = [];
    for (let at = Math.floor(start); at < Math.min(Math.ceil(end - 1e-9), from); at++) {
      parts.push([at, (Math.min(end, at + 1) - Math.max(start, at)) / step]);
    }
    return parts;
  });
}

/** What a canvas shows, in one channel (its brightness) or in three. */
export function fromImage(image: ImageData, channels: number): Plane {
  const { width: columns, height: rows, data } = image;
  const values = new Float32Array(rows * columns * channels);
  for (let at = 0; at < rows * columns; at++) {
    const [red, green, blue] = [data[4 * at]!, data[4 * at + 1]!, data[4 * at + 2]!];
    if (channels === 1) values[at] = 0.299 * red + 0.587 * green + 0.114 * blue;
    else values.set([red, green, blue], 3 * at);
  }
  return { rows, columns, channels, values };
}

export function toImage(picture: Plane): ImageData {
  const image = new ImageData(picture.columns, picture.rows);
  for (let at = 0; at < picture.rows * picture.columns; at++) {
    for (let channel = 0; channel < 3; channel++) {
      const from = picture.channels === 1 ? at : at * picture.channels + channel;
      image.data[4 * at + channel] = Math.round(picture.values[from]!);
    }
    image.data[4 * at + 3] = 255;
  }
  return image;
}
