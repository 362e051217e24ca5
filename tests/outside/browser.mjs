// What the scripts that look at a run's page share.
import { createRequire } from "node:module";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

/** Runs `look(page, expect)` in Chromium and exits: with 0 if all that was expected is so. */
export async function look(modules, look) {
  const { chromium } = createRequire(modules + "/")("playwright-core");
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: FLAGS });
  const problems = [];
  try {
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    page.on("pageerror", (error) => problems.push(`script: ${error.message}`));
    await look(page, (is, what) => { if (!is) problems.push(what); });
  } catch (error) {
    problems.push(error.message);
  } finally {
    await browser.close();
  }
  problems.forEach((problem) => console.error(problem));
  process.exit(problems.length ? 1 : 0);
}

/** What reaches beyond the screen, or is hidden in a part that scrolls sideways. */
export const cutOff = (page) => page.evaluate(() => [...document.querySelectorAll("body, body *")]
  .filter((it) => it.getBoundingClientRect().right > innerWidth + 0.5
    || (!it.closest("svg") && it.clientWidth && it.scrollWidth > it.clientWidth + 1))
  .map((it) => `${it.tagName.toLowerCase()}#${it.id || it.closest("[id]")?.id}: ${it.textContent.slice(0, 40)}`));
