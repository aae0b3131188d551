/** Whether everybody can use the page: axe's rules, light and dark, on a phone and on a desktop. */
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { launch, PHONE, RUNS, serve, tab, until } from './harness.mjs';

const AXE = createRequire(import.meta.url).resolve('axe-core/axe.min.js');
const DESKTOP = { viewport: { width: 1180, height: 800 } };

/** @type {import('playwright-core').Browser} */
let browser;

before(async () => {
  browser = await launch();
});

after(() => browser?.close());

for (const run of ['digits', 'refused', 'colours/export']) {
  test(`axe finds nothing on the page of ${run}`, async () => {
    const server = await serve(path.join(RUNS, run));
    for (const screen of [PHONE, DESKTOP]) {
      // The page's own policy forbids scripts from elsewhere, axe among them.
      const { page, context, errors } = await tab(browser, { ...screen, bypassCSP: true });
      await page.goto(server.url);
      await until(page, 'complete');
      await page.addScriptTag({ path: AXE });
      for (const colorScheme of /** @type {const} */ (['light', 'dark'])) {
        await page.emulateMedia({ colorScheme });
        const { violations, passes } = await page.evaluate(() => /** @type {any} */ (globalThis).axe.run());
        const found = violations.map((/** @type {any} */ { id, help, nodes }) => ({
          id,
          help,
          where: nodes.map((/** @type {any} */ node) => node.html),
        }));
        assert.deepEqual(found, [], colorScheme);
        assert.ok(passes.some((/** @type {any} */ rule) => rule.id === 'color-contrast'));
      }
      assert.deepEqual(errors, []);
      await context.close();
    }
    assert.equal(await server.end(), 0);
  });
}
