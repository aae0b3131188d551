/**
 * The service worker: answers from its cache when the network does not. Files with a hash in their
 * name never change and come from the cache first; everything else comes from the network first,
 * since another run may be served at the same address. Only what the page asks for is kept, all of a
 * run or nothing, as something else may be served at the same address, too.
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

/** The page says what it needs. */
self.addEventListener('message', (event) => {
  const keep = async (): Promise<void> => {
    const cache = await caches.open(CACHE);
    const urls = event.data as string[];
    for (const url of urls.filter(isFixed)) {
      if (!(await cache.match(url))) await cache.add(url);
    }
    const changing = urls.filter((url) => !isFixed(url));
    await cache.addAll(changing.map((url) => new Request(url, { cache: 'no-cache' })));
    for (const { url } of await cache.keys()) {
      if (!urls.includes(url)) await cache.delete(url); // of an earlier run
    }
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
  return (await cache.match(request.url)) ?? fetch(request);
}

async function fromNetworkFirst(request: Request): Promise<Response> {
  try {
    const response = await fetch(request);
    if (response.status < 500) return response;
    throw new Error(`The server answered ${response.status}.`);
  } catch (error) {
    const cache = await caches.open(CACHE);
    const urls = request.mode === 'navigate' ? [request.url, PREFIX] : [request.url];
    let kept: Response | undefined;
    for (const url of urls) kept ??= await cache.match(url, { ignoreSearch: true });
    if (kept === undefined) throw error;
    return kept;
  }
}
