/** The page's side of the worker: starts it, asks it one thing at a time, replaces a broken one. */
import type { Answers, Reply, Request, Runtime } from './messages';
import { Queue } from './queue';

/** A file that the runtime refused, crashed on, or did not finish in time. */
export class Refused extends Error {}

/** A file that could not be fetched this time. */
export class Unreachable extends Error {}

/** How long a task may take; the start may take as long as the network needs for the runtime. */
const SECONDS = 60;

export class Runner {
  private worker: Worker | null = null;
  private readonly tasks = new Queue();
  private numbers = 0;
  /** Called when the worker was replaced: no file is loaded any more. */
  onReplaced: () => void = () => undefined;

  /** Loads the runtime. */
  start(): Promise<Runtime> {
    return this.tasks.add(() => this.started());
  }

  /** Asks for one thing, after all that was asked before. */
  ask<Kind extends Request['kind']>(
    request: Extract<Request, { kind: Kind }>,
    transfer: Transferable[] = [],
  ): Promise<Answers[Kind]> {
    return this.tasks.add(async () => {
      if (this.worker === null) await this.started();
      try {
        return await this.answered(request, transfer);
      } catch (error) {
        // Whatever failed may have left the runtime's memory in any state.
        if (request.kind !== 'unload') this.end();
        throw error;
      }
    });
  }

  private async started(): Promise<Runtime> {
    this.worker = new Worker(new URL('./worker/worker.ts', import.meta.url));
    try {
      return await this.answered({ kind: 'start' }, []);
    } catch (error) {
      this.end();
      // No file is to blame for it.
      throw new Unreachable(error instanceof Error ? error.message : String(error));
    }
  }

  private end(): void {
    this.worker?.terminate();
    this.worker = null;
    this.onReplaced();
  }

  private answered<Kind extends Request['kind']>(
    request: Extract<Request, { kind: Kind }>,
    transfer: Transferable[],
  ): Promise<Answers[Kind]> {
    const worker = this.worker!;
    const id = ++this.numbers;
    return new Promise((resolve, reject) => {
      const late = (): void => reject(new Refused(`The runtime did not finish within ${SECONDS} s.`));
      const timer = request.kind === 'start' ? 0 : setTimeout(late, SECONDS * 1000);
      worker.onmessage = ({ data }: MessageEvent<Reply>) => {
        if (data.id !== id) return;
        clearTimeout(timer);
        if (data.ok) resolve(data.value as Answers[Kind]);
        else reject(new Refused(data.reason));
      };
      worker.onerror = (event) => {
        event.preventDefault(); // it is shown on the page
        clearTimeout(timer);
        reject(new Refused(event.message || 'The worker of the runtime could not be started.'));
      };
      worker.postMessage({ id, request }, transfer);
    });
  }
}
