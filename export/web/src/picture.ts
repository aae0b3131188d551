/** A picture from a file or from the camera, for models that read pictures. */
import { fromImage, scaled, toImage } from './pixels';
import type { Plane } from './pixels';

const LARGEST = 1024; // pixels per side that are used; a photograph has many more

type Shape = [rows: number, columns: number, channels: number];

/** A picture that can't be shown; the message is for people. */
export class NoPicture extends Error {}

/** The part of a picture that the network gets, as a person and as the network sees it. */
interface Cropped {
  seen: HTMLCanvasElement;
  read: Plane;
}

/** Returns the middle of the picture in a file. */
export async function pictureOf(file: File, shape: Shape): Promise<Cropped> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new NoPicture(
      `Expected a picture that this browser can show, such as PNG or JPEG. Received: ${file.name}, ` +
        `${file.type || 'of unknown type'}`,
    );
  }
  try {
    return cropped(bitmap, bitmap.width, bitmap.height, shape);
  } finally {
    bitmap.close();
  }
}

/** Returns the largest part in the middle that has the model's proportions. */
function cropped(source: CanvasImageSource, width: number, height: number, shape: Shape): Cropped {
  const [rows, columns, channels] = shape;
  const scale = Math.min(width / columns, height / rows);
  const [across, down] = [columns * scale, rows * scale];
  const seen = document.createElement('canvas');
  const shrink = Math.min(1, LARGEST / Math.max(across, down));
  seen.width = Math.max(1, Math.round(across * shrink));
  seen.height = Math.max(1, Math.round(down * shrink));
  const context = seen.getContext('2d', { willReadFrequently: true })!;
  // Where a picture is transparent, as on a page of paper.
  context.fillStyle = '#fff';
  context.fillRect(0, 0, seen.width, seen.height);
  context.imageSmoothingQuality = 'high';
  const [left, top] = [(width - across) / 2, (height - down) / 2];
  context.drawImage(source, left, top, across, down, 0, 0, seen.width, seen.height);
  const image = context.getImageData(0, 0, seen.width, seen.height);
  return { seen, read: scaled(fromImage(image, channels), rows, columns) };
}

export class Picture {
  private shown: Plane | null = null;
  private stream: MediaStream | null = null;
  private timer = 0;
  /** Counts what was asked for: what comes late, a picture or the camera, is not shown any more. */
  private asked = 0;
  /** Called when the camera came on or went off. */
  onCamera: () => void = () => undefined;

  constructor(
    private readonly area: HTMLCanvasElement,
    private readonly video: HTMLVideoElement,
    private readonly shape: Shape,
    private readonly onChange: () => void,
  ) {
    area.setAttribute('role', 'img');
    area.setAttribute('aria-label', 'No picture yet');
    this.clear();
  }

  values(): Plane {
    const [rows, columns, channels] = this.shape;
    return (
      this.shown ?? { rows, columns, channels, values: new Float32Array(rows * columns * channels) }
    );
  }

  get isEmpty(): boolean {
    return this.shown === null;
  }

  get hasCamera(): boolean {
    return this.stream !== null;
  }

  clear(): void {
    this.stop();
    this.shown = null;
    const context = this.area.getContext('2d')!;
    context.fillStyle = '#0b0d0a';
    context.fillRect(0, 0, this.area.width, this.area.height);
    this.area.setAttribute('aria-label', 'No picture yet');
    this.onChange();
  }

  /** Shows values of the model's own shape as they are. */
  show(example: Plane, what: string): void {
    this.stop();
    this.shown = example;
    const small = document.createElement('canvas');
    small.width = example.columns;
    small.height = example.rows;
    small.getContext('2d')!.putImageData(toImage(example), 0, 0);
    const context = this.area.getContext('2d')!;
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, this.area.width, this.area.height);
    this.area.setAttribute('aria-label', what);
    this.onChange();
  }

  /** Shows the middle of a picture in a file. */
  async open(file: File): Promise<void> {
    this.stop();
    const turn = this.asked;
    const picture = await pictureOf(file, this.shape);
    if (turn !== this.asked) return;
    this.take(picture);
    this.area.setAttribute('aria-label', `Picture ${file.name}`);
    this.onChange();
  }

  /** Shows what the camera sees until `stop`. */
  async startCamera(): Promise<void> {
    this.stop();
    const turn = this.asked;
    try {
      const stream = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: 'environment', width: { ideal: 640 }, height: { ideal: 640 } },
        audio: false,
      });
      if (turn !== this.asked) return release(stream);
      this.stream = stream;
      // Unplugged, or no longer allowed.
      stream.getVideoTracks()[0]!.addEventListener('ended', () => turn === this.asked && this.stop());
      this.video.srcObject = stream;
      this.onCamera();
      await this.video.play();
    } catch (error) {
      if (turn !== this.asked) return;
      this.stop();
      const name = error instanceof DOMException ? error.name : '';
      throw new NoPicture(
        name === 'NotAllowedError'
          ? 'The browser was not allowed to use the camera. Allow it in its settings for this page, or choose a picture.'
          : name === 'NotFoundError'
            ? 'No camera was found. Choose a picture instead.'
            : `The camera could not be used (${name || error}). Choose a picture instead.`,
      );
    }
    if (turn !== this.asked) return;
    this.area.setAttribute('aria-label', 'What the camera sees');
    const look = (): void => {
      if (this.stream === null) return;
      const { videoWidth, videoHeight } = this.video;
      if (videoWidth > 0 && videoHeight > 0) {
        this.take(cropped(this.video, videoWidth, videoHeight, this.shape));
        this.onChange();
      }
      this.timer = window.setTimeout(look, 150);
    };
    look();
  }

  /** Stops the camera; its last picture stays. */
  stop(): void {
    this.asked++;
    window.clearTimeout(this.timer);
    release(this.stream);
    this.stream = null;
    this.video.srcObject = null;
    this.onCamera();
  }

  private take({ seen, read }: Cropped): void {
    this.shown = read;
    const context = this.area.getContext('2d')!;
    context.imageSmoothingEnabled = true;
    context.drawImage(seen, 0, 0, this.area.width, this.area.height);
  }
}

function release(stream: MediaStream | null): void {
  stream?.getTracks().forEach((track) => track.stop());
}
