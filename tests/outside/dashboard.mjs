// Looks at a run's page as people do: node dashboard.mjs NODE_MODULES URL TOKEN PICTURE. Exits with 0 if all is as it should be.
import { createRequire } from "node:module";
const [modules, url, token, picture] = process.argv.slice(2);
const { chromium } = createRequire(modules + "/")("playwright-core");
const flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: flags });
const problems = [];
const expect = (is, what) => { if (!is) problems.push(what); };
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  const hosts = new Set();
  page.on("request", (request) => hosts.add(new URL(request.url()).origin));
  page.on("pageerror", (error) => problems.push(`script: ${error.message}`));
  page.on("console", (message) => { if (message.type() === "error" && !message.text().includes("401")) problems.push(`console: ${message.text()}`); });
  await page.goto(url);
  if (token) {
    await page.fill("#token", "this-is-not-the-token");
    await page.click("button");
    expect(await page.isVisible("#token"), "a wrong token lets in");
    await page.fill("#token", token);
    await page.click("button");
  }
  await page.waitForSelector("figure svg");
  await page.waitForSelector("#rounds svg .gradient");
  await page.waitForSelector("#confusion td");
  expect((await page.textContent("#live")) !== "not reached", "it is not live");
  expect((await page.locator("#workers tr").count()) >= 3, "two workers are not in the table");
  // A click on another scale draws the curves anew.
  const loss = () => page.locator("figure svg").first().innerHTML();
  await page.click('[data-scale="linear"]');
  await page.waitForTimeout(1500);
  const linear = await loss();
  await page.click('[data-scale="log"]');
  await page.waitForTimeout(1500);
  expect((await loss()) !== linear, "the scale does not change the curves");
  expect((await page.getAttribute('[data-scale="log"]', "aria-pressed")) === "true", "the button does not show that it is on");
  await page.click("#pause");
  expect((await page.getAttribute("#pause", "aria-pressed")) === "true", "the rounds are not held");
  if (picture) await page.screenshot({ path: picture, fullPage: true });
  // On a phone nothing is wider than the screen, and dark is dark.
  await page.setViewportSize({ width: 390, height: 800 });
  await page.emulateMedia({ colorScheme: "dark" });
  await page.waitForTimeout(1500);
  expect(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "the page is wider than a phone");
  const back = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
  expect(back.every((part) => part < 60), `dark mode is ${back}`);
  if (picture) await page.screenshot({ path: picture.replace(".png", "-phone.png"), fullPage: true });
  expect(hosts.size === 1, `it asks ${[...hosts].join(", ")}`);
} catch (error) {
  problems.push(error.message);
} finally {
  await browser.close();
}
problems.forEach((problem) => console.error(problem));
process.exit(problems.length ? 1 : 0);
