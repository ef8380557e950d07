// Makes the pictures of README from a running proxy: takes about four minutes.

import { writeFileSync } from "node:fs";
import { browser, until } from "./webdriver.mjs";
import { world } from "./world.mjs";

const [, , binary, directory, out] = process.argv;
const MOST_BYTES = 200_000;

const here = await world(binary, directory, { steps: ["10% for 30s", "25% for 10m", "100% for 10m"], others: 5 });
const page = await browser({ width: 1280, height: 800 });

const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

async function picture(name, view, { width = 1280, height = 800, dark = false } = {}) {
  await page.resize(width, height, dark);
  await page.run("location.hash = arguments[0]; scrollTo(0, 0)", view);
  await wait(2);
  const image = await page.screenshot();
  if (image.length > MOST_BYTES) throw new Error(`${name} has ${image.length} bytes`);
  writeFileSync(`${out}/${name}.png`, image);
  console.log(`${out}/${name}.png: ${image.length} bytes`);
}

try {
  let number = 0;
  here.host = () => (number++ % 3 ? "shop.example.com" : `plain-${number % 5}.example.com`);
  await page.open(`${here.admin}/#/service/shop`);
  await page.shows("live");
  await wait(40);
  await here.post("services/shop/deploy", { version: "v2", label: "1.6.0" });
  await page.shows("at step 2 of 3", 60_000);
  here.origins.v1.failing = 0.004;
  here.origins.v2.failing = 0.025;
  here.origins.v2.delay = 9;
  await until("some evidence", async () => {
    const { rollout } = await here.status();
    if (rollout.state === "rolled-back") throw new Error("rolled back too early for a picture");
    return rollout.total_evidence > rollout.threshold * 0.5;
  }, 120_000);
  // Holds it there while the pictures are taken.
  here.origins.v2.failing = 0.008;
  await here.post("services/plain-1/drain", { version: "v1", force: true });
  await picture("dashboard-rollout", "#/service/shop");
  await picture("dashboard-dark", "#/service/shop", { dark: true });
  await picture("dashboard-overview", "#/", { height: 560 });
  await page.run("location.hash = '#/service/shop'");
  here.origins.v2.failing = 0.2;
  await page.shows("rolled back", 60_000);
  await picture("dashboard-rollback", "#/service/shop");
  await picture("dashboard-narrow", "#/", { width: 360, height: 780 });
} finally {
  await page.close();
  await here.close();
}
