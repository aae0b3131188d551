/** Keeps the page for use without a network, where the browser allows it. */

/**
 * Keeps the page with all that it has loaded, and returns what to tell the user about it.
 *
 * @param others What is to be kept, too: the runtime's build, and files of the run.
 * @param areAll Whether these are all files of the run.
 */
export async function keepOffline(others: string[], areAll: boolean): Promise<string> {
  if (!isSecureContext || !('serviceWorker' in navigator)) {
    return 'Not kept for use without a network: for that, a browser wants https, or localhost.';
  }
  try {
    const registration = await navigator.serviceWorker.register('./offline.js');
    // Of a page that has changed, the worker is replaced, and its cache with it.
    if (registration.active) await registration.update().catch(() => undefined); // no network
    const next = registration.installing ?? registration.waiting;
    if (next) await activated(next);
    const { active } = await navigator.serviceWorker.ready;
    const used = performance
      .getEntriesByType('resource')
      .map((entry) => entry.name)
      .filter((url) => areAll || !url.endsWith('.tflite'));
    const urls = [location.href, './', ...used, ...others].map(
      (url) => new URL(url, location.href).href.split('#')[0]!,
    );
    const own = urls.filter((url) => url.startsWith(new URL('./', location.href).href));
    await kept(active!, [...new Set(own)]);
    return areAll
      ? 'Kept for use without a network; it can be installed.'
      : 'Kept for use without a network, with the chosen file alone; it can be installed.';
  } catch (error) {
    return `Not kept for use without a network: ${error instanceof Error ? error.message : error}`;
  }
}

function activated(worker: ServiceWorker): Promise<void> {
  return new Promise((resolve, reject) => {
    const look = (): void => {
      if (worker.state === 'activated') resolve();
      if (worker.state === 'redundant') reject(new Error('the page was changed again meanwhile.'));
    };
    worker.addEventListener('statechange', look);
    look();
  });
}

function kept(worker: ServiceWorker, urls: string[]): Promise<void> {
  const channel = new MessageChannel();
  return new Promise((resolve, reject) => {
    channel.port1.onmessage = ({ data }: MessageEvent<string>) =>
      data === '' ? resolve() : reject(new Error(data));
    worker.postMessage(urls, [channel.port2]);
  });
}
