// Looks at a run's page as people do: node dashboard.mjs NODE_MODULES URL TOKEN PICTURE. Exits with 0 if all is as it should be.
import { cutOff, look } from "./browser.mjs";
const [modules, url, token, picture] = process.argv.slice(2);

await look(modules, async (page, expect) => {
  const hosts = new Set();
  page.on("request", (request) => hosts.add(new URL(request.url()).origin));
  page.on("console", (message) => expect(message.type() !== "error" || message.text().includes("401"), `console: ${message.text()}`));
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
  expect((await page.textContent("#phase")) === "training", "the page does not say that the run trains");
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
  // On a phone nothing is wider than the screen or hidden, and dark is dark.
  await page.emulateMedia({ colorScheme: "dark" });
  for (const width of [360, 390]) {
    await page.setViewportSize({ width, height: 800 });
    await page.waitForTimeout(1500);
    expect(!(await cutOff(page)).length, `${width} px wide, cut off: ${(await cutOff(page)).join("; ")}`);
  }
  const back = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
  expect(back.every((part) => part < 60), `dark mode is ${back}`);
  if (picture) await page.screenshot({ path: picture.replace(".png", "-phone.png"), fullPage: true });
  expect(hosts.size === 1, `it asks ${[...hosts].join(", ")}`);
});
