/** Keeps the page for use without a network, where the browser allows it. */

/** Returns what to tell the user about it. */
export async function keepOffline(others: string[]): Promise<string> {
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
    // What this page loaded, and what it was given: the runtime's build, every file of the run.
    const used = performance.getEntriesByType('resource').map((entry) => entry.name);
    const urls = [location.href, './', ...used, ...others].map((url) => new URL(url, location.href).href);
    const own = urls.filter((url) => url.startsWith(new URL('./', location.href).href));
    await kept(active!, [...new Set(own)]);
    return 'Kept for use without a network; it can be installed.';
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
