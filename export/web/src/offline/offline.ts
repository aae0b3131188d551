/**
 * The service worker: answers from its cache when the network does not. Files with a hash in their
 * name never change and come from the cache first; everything else comes from the network first,
 * since another run may be served at the same address.
 */
export {};

declare const self: ServiceWorkerGlobalScope;
/** Changes with the page; the build inserts it. */
declare const __PAGE_VERSION__: string;

const PREFIX = new URL('./', self.location.href).href;
/** Caches belong to the whole host: other pages there have theirs. */
const CACHE = `${PREFIX} ${__PAGE_VERSION__}`;

self.addEventListener('install', () => void self.skipWaiting());

self.addEventListener('activate', (event) => {
  const clean = async (): Promise<void> => {
    for (const name of await caches.keys()) {
      if (name.startsWith(`${PREFIX} `) && name !== CACHE) await caches.delete(name);
    }
    await self.clients.claim();
  };
  event.waitUntil(clean());
});

/** The page says what it loaded before this worker was there. */
self.addEventListener('message', (event) => {
  const keep = async (): Promise<string> => {
    const cache = await caches.open(CACHE);
    for (const url of event.data as string[]) {
      if (isFixed(url) && (await cache.match(url))) continue;
      await cache.add(url);
    }
    return '';
  };
  const port = event.ports[0]!;
  event.waitUntil(
    keep().then(
      () => port.postMessage(''),
      (error: unknown) => port.postMessage(String(error)),
    ),
  );
});

self.addEventListener('fetch', (event) => {
  const { request } = event;
  if (request.method !== 'GET' || !request.url.startsWith(PREFIX)) return;
  event.respondWith(isFixed(request.url) ? fromCacheFirst(request) : fromNetworkFirst(request));
});

function isFixed(url: string): boolean {
  return url.startsWith(`${PREFIX}assets/`);
}

async function fromCacheFirst(request: Request): Promise<Response> {
  const cache = await caches.open(CACHE);
  return (await cache.match(request.url)) ?? fetched(cache, request);
}

async function fromNetworkFirst(request: Request): Promise<Response> {
  const cache = await caches.open(CACHE);
  try {
    return await fetched(cache, request);
  } catch (error) {
    const urls = request.mode === 'navigate' ? [request.url, PREFIX] : [request.url];
    let kept: Response | undefined;
    for (const url of urls) kept ??= await cache.match(url, { ignoreSearch: true });
    if (kept === undefined) throw error;
    return kept;
  }
}

async function fetched(cache: Cache, request: Request): Promise<Response> {
  const response = await fetch(request);
  // What is too much for this device's storage works as long as there is a network.
  if (response.ok) await cache.put(request.url, response.clone()).catch(() => undefined);
  return response;
}
