/** The page's side of the worker: starts it, asks it one thing at a time, replaces a broken one. */
import type { Answers, Reply, Request, Runtime } from './messages';

/** A file that the runtime refused, crashed on, or did not finish in time. */
export class Refused extends Error {}

/** A file that could not be fetched this time. */
export class Unreachable extends Error {}

const SECONDS = 60;

export class Runner {
  private worker: Worker | null = null;
  private last: Promise<unknown> = Promise.resolve();
  private numbers = 0;
  private starting: Promise<Runtime> | null = null;
  /** Called when the worker was replaced: no file is loaded any more. */
  onReplaced: () => void = () => undefined;

  /** Loads the runtime, if it is not there yet. */
  start(): Promise<Runtime> {
    this.starting ??= this.queued(() => this.started());
    return this.starting;
  }

  /** Asks for one thing, after all that was asked before. */
  ask<Kind extends Request['kind']>(
    request: Extract<Request, { kind: Kind }>,
    transfer: Transferable[] = [],
  ): Promise<Answers[Kind]> {
    return this.queued(async () => {
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

  private queued<T>(task: () => Promise<T>): Promise<T> {
    const result = this.last.then(task);
    this.last = result.catch(() => undefined);
    return result;
  }

  private async started(): Promise<Runtime> {
    this.worker = new Worker(new URL('./worker/worker.ts', import.meta.url));
    try {
      return await this.answered({ kind: 'start' }, []);
    } catch (error) {
      this.end();
      throw error;
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
      const timer = setTimeout(
        () => reject(new Refused(`The runtime did not finish within ${SECONDS} s.`)),
        SECONDS * 1000,
      );
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
