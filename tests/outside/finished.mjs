// Looks at a run's page from before its first step until its process is gone: node finished.mjs NODE_MODULES URL [PICTURE].
// Prints "open" once the page shows that the run has not started.
import { cutOff, look } from "./browser.mjs";
const [modules, url, picture] = process.argv.slice(2);

await look(modules, async (page, expect) => {
  const phase = (wanted) => page.waitForFunction((wanted) => document.getElementById("phase").textContent === wanted, wanted);
  const save = async (name) => { if (picture) await page.screenshot({ path: picture.replace(".png", `-${name}.png`), fullPage: true }); };
  await page.setViewportSize({ width: 360, height: 800 });
  await page.goto(url);
  await phase("starting");
  await page.waitForFunction(() => /waits for workers/.test(document.getElementById("state").textContent));
  console.log("open");
  await phase("training");
  await page.waitForSelector("figure svg");
  await save("training");
  await phase("done");
  await page.waitForFunction(() => /The process has ended. Last state received: done/.test(document.getElementById("link").textContent));
  expect((await page.textContent("#phase")) === "done", "the end of the process hides how the run ended");
  expect(/[0-9a-f]{64}/.test(await page.textContent("#result")), "the result has no hash");
  expect(/loss/.test(await page.textContent("#measures")), "the result has no loss");
  expect((await page.locator("#files a").count()) === 0, "files are offered that nobody serves");
  const axis = await page.locator("figure svg").first().textContent();
  expect(/step/.test(axis), "the curves are gone");
  for (const [width, scheme] of [[360, "light"], [390, "dark"], [1280, "light"], [1280, "dark"]]) {
    await page.setViewportSize({ width, height: 800 });
    await page.emulateMedia({ colorScheme: scheme });
    await page.waitForTimeout(400);
    expect(!(await cutOff(page)).length, `${width} px wide, cut off: ${(await cutOff(page)).join("; ")}`);
    await save(`${width}-${scheme}`);
  }
});
