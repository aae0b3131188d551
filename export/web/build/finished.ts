/** What is left to do once the page is built: icons, the version of the cache, compressed files. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { brotliCompress, constants, gzip } from 'node:zlib';
import { Resvg } from '@resvg/resvg-js';
import type { Plugin } from 'vite';

// Level 11 takes a minute for the runtime, and saves 5 % over level 9.
const BROTLI = { params: { [constants.BROTLI_PARAM_QUALITY]: 9, [constants.BROTLI_PARAM_LGWIN]: 24 } };
const ICONS = [180, 192, 512];
const COMPRESSED = /\.(css|html|js|json|svg|wasm|webmanifest)$/;

export function finished(): Plugin {
  let out: string;
  return {
    name: 'finished',
    apply: 'build',
    configResolved: (config) => {
      out = join(config.root, config.build.outDir);
    },
    closeBundle: async () => {
      drawIcons(out);
      putVersion(out);
      await Promise.all(files(out).filter((path) => COMPRESSED.test(path)).map(compress));
    },
  };
}

function drawIcons(out: string): void {
  const picture = readFileSync(join(out, 'icon.svg'), 'utf8');
  for (const side of ICONS) {
    const drawn = new Resvg(picture, { fitTo: { mode: 'width', value: side } }).render();
    writeFileSync(join(out, `icon-${side}.png`), drawn.asPng());
  }
}

/** Names the cache after the content of every file. */
function putVersion(out: string): void {
  const digest = createHash('sha256');
  for (const path of files(out)) digest.update(path.slice(out.length)).update(readFileSync(path));
  const path = join(out, 'offline.js');
  const code = readFileSync(path, 'utf8');
  const put = code.replaceAll('__PAGE_VERSION__', JSON.stringify(digest.digest('hex').slice(0, 12)));
  if (put === code) throw new Error('Expected __PAGE_VERSION__ in offline.js. Received: none');
  writeFileSync(path, put);
}

async function compress(path: string): Promise<void> {
  const content = readFileSync(path);
  const encodings = [
    ['br', promisify(brotliCompress)(content, BROTLI)],
    ['gz', promisify(gzip)(content, { level: 9 })],
  ] as const;
  for (const [ending, made] of encodings) writeFileSync(`${path}.${ending}`, await made);
}

function files(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}
