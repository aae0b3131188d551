import { readFileSync } from 'node:fs';
import { defineConfig } from 'vite';
import { finished } from './build/finished.ts';

const litert = JSON.parse(readFileSync('node_modules/@litertjs/core/package.json', 'utf8')) as {
  version: string;
};

export default defineConfig({
  // The page works below any path.
  base: './',
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: {
      input: { index: 'index.html', offline: 'src/offline/offline.ts' },
      output: {
        // A service worker's scope is where it lies, and its name may not change.
        entryFileNames: ({ name }) =>
          name === 'offline' ? 'offline.js' : 'assets/[name]-[hash].js',
      },
    },
  },
  // Classic: LiteRT loads its script by `importScripts`, which module workers don't have.
  worker: { format: 'iife' },
  define: { __LITERT_VERSION__: JSON.stringify(litert.version) },
  plugins: [finished()],
});
