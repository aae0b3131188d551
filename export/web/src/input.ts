/** What goes into the network: a drawing or a picture, depending on what the model takes. */
import { Drawing } from './drawing';
import { button, element, notice, say } from './elements';
import { exampleValues } from './facts';
import type { Facts } from './facts';
import { describeLive, paintLive } from './live';
import { NoPicture, Picture } from './picture';
import { toImage } from './pixels';
import type { Plane } from './pixels';

export class Input {
  private readonly shape: [rows: number, columns: number, channels: number] | null;
  private readonly shown: Drawing | Picture | null;
  private turn = 0;

  constructor(
    private readonly facts: Facts,
    private readonly onChange: () => void,
  ) {
    this.shape = facts.picture;
    this.shown = this.made();
    this.showLive();
  }

  get isEmpty(): boolean {
    return this.shown === null || this.shown.isEmpty;
  }

  /** The input, repeated as often as the file takes pictures in a call. */
  values(): Float32Array {
    const { facts } = this;
    const one =
      this.shown?.values().values ??
      new Float32Array(facts.inputs[0]!.shape.reduce((a, b) => a * b, 1));
    const all = new Float32Array(one.length * facts.batch);
    for (let place = 0; place < facts.batch; place++) all.set(one, place * one.length);
    return all;
  }

  showSeen(): void {
    const seen: Plane | undefined = this.shown?.values();
    if (seen) element<HTMLCanvasElement>('seen').getContext('2d')!.putImageData(toImage(seen), 0, 0);
  }

  private made(): Drawing | Picture | null {
    const { shape } = this;
    const area = element<HTMLCanvasElement>('area');
    const [title, hint] = [element('input-title'), element('input-hint')];
    if (shape === null) {
      title.textContent = 'Input';
      hint.textContent =
        'This model takes ' +
        this.facts.inputs.map((one) => `${one.name} of shape (${one.shape.join(', ')})`).join(' and ') +
        (!this.facts.takes_pixels
          ? ' with values other than pixels of 0 to 255. To draw for it or show it pictures, put the ' +
            'scaling into the model, such as a Rescaling(1 / 255) layer, and export it again.'
          : ', which can be neither drawn nor photographed.') +
        (this.facts.inputs.length > 1
          ? ' Here, only files of models with one input run.'
          : ' Its files can be measured below, on zeros.');
      element('input').hidden = true;
      return null;
    }
    const input =
      shape.join() === '28,28,1'
        ? this.drawing(area)
        : new Picture(area, element<HTMLVideoElement>('video'), shape, this.onChange);
    if (input instanceof Picture) {
      title.textContent = 'Show a picture';
      hint.textContent = 'A picture can be dropped on the dark area, too.';
      // The picture keeps its proportions.
      const [rows, columns] = shape;
      const { style } = element('stage');
      style.aspectRatio = `${columns} / ${rows}`;
      style.maxWidth = `${(62 * columns) / rows}vh`;
      area.width = Math.round((area.width * columns) / Math.max(rows, columns));
      area.height = Math.round((area.height * rows) / Math.max(rows, columns));
    } else {
      title.textContent = this.facts.labels ? 'Draw a digit' : 'Draw';
      hint.textContent =
        'Draw with a finger, a mouse, or the keys: arrows move the pen, space puts it down or lifts ' +
        'it, delete clears. A picture can be dropped on the dark area, too; it is read as it is, and ' +
        'MNIST’s digits are bright on black.';
    }
    if (this.facts.labels === null) {
      hint.textContent +=
        ' What this model puts out is not shown, as it has no score for each class; its files are ' +
        'measured below.';
    }
    this.addPictureControls(input);
    if (this.facts.examples.length > 0) button('Example', () => this.nextExample());
    const seen = element<HTMLCanvasElement>('seen');
    [seen.height, seen.width] = shape;
    element('seen-part').hidden = false;
    element('seen-text').textContent =
      input instanceof Drawing
        ? 'Your drawing, scaled and centred as MNIST’s digits are; a picture, at 28x28 pixels.'
        : `The middle of the picture, at ${shape[0]}x${shape[1]} pixels.`;
    return input;
  }

  private drawing(area: HTMLCanvasElement): Drawing {
    const drawing = new Drawing(area, this.onChange, say);
    button('Clear', () => drawing.clear());
    return drawing;
  }

  private addPictureControls(input: Drawing | Picture): void {
    const chooser = document.createElement('input');
    chooser.type = 'file';
    chooser.accept = 'image/*';
    chooser.id = 'chooser';
    chooser.hidden = true;
    chooser.setAttribute('aria-label', 'Picture file');
    element('controls').append(chooser);
    const open = async (file: File | undefined): Promise<void> => {
      if (file) await this.tried(() => input.open(file));
    };
    chooser.addEventListener('change', async () => {
      await open(chooser.files?.[0]);
      chooser.value = ''; // so that the same file can be chosen again
    });
    button('Picture', () => chooser.click()).title = 'Choose a picture file';
    const stage = element('stage');
    stage.addEventListener('dragover', (event) => event.preventDefault());
    stage.addEventListener('drop', (event) => {
      event.preventDefault();
      void open(event.dataTransfer?.files[0]);
    });
    // Browsers offer no camera to a page that comes from elsewhere without https.
    if (!(input instanceof Picture) || !navigator.mediaDevices) return;
    const camera = button('Camera', () => {
      if (input.hasCamera) input.stop();
      else void this.tried(() => input.startCamera());
    });
    input.onCamera = () => {
      camera.textContent = input.hasCamera ? 'Hold this picture' : 'Camera';
    };
  }

  private async tried(task: () => Promise<void>): Promise<void> {
    notice('');
    try {
      await task();
    } catch (error) {
      if (!(error instanceof NoPicture)) throw error;
      notice(error.message);
    }
  }

  nextExample(): void {
    const { examples, labels } = this.facts;
    if (this.shown === null || this.shape === null || examples.length === 0) return;
    notice('');
    const example = examples[this.turn++ % examples.length]!;
    const [rows, columns, channels] = this.shape;
    const plane = { rows, columns, channels, values: exampleValues(example) };
    const what = example.label === null ? 'Example' : `Example of ${labels?.[example.label]}`;
    this.shown.show(plane, what);
  }

  private showLive(): void {
    const { live_inputs: live } = this.facts;
    const canvas = element<HTMLCanvasElement>('live');
    canvas.hidden = true;
    if (live === null || this.shown === null) return;
    const overPicture = this.shown instanceof Picture;
    paintLive(canvas, live, overPicture);
    const text = element('live-text');
    text.hidden = false;
    text.textContent = describeLive(live, overPicture);
    const toggle = button('Live inputs', () => {
      canvas.hidden = !canvas.hidden;
      toggle.setAttribute('aria-pressed', String(!canvas.hidden));
    });
    toggle.setAttribute('aria-describedby', text.id);
    canvas.hidden = false;
    toggle.setAttribute('aria-pressed', 'true');
  }
}
