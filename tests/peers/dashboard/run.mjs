// The tests. Each step waits for what it expects; the first failure ends the run.

import { readFileSync } from "node:fs";
import { browser, until } from "./webdriver.mjs";
import { TOKEN, world } from "./world.mjs";

const [, , binary, directory, axeFile] = process.argv;
const HOSTILE = "/<img src=x onerror=\"document.title='owned'\">";

const here = await world(binary, directory, { steps: ["50% until approved", "100% for 10m"] });
const page = await browser().catch(async (error) => {
  await here.close();
  throw error;
});
let failure = null;

function check(holds, message) {
  if (!holds) throw new Error(message);
}

/** Whatever the console says is a finding, except for what `isExpected` says of a restart. */
async function quiet(isExpected = () => false) {
  const entries = (await page.console()).filter((entry) => !isExpected(entry.message));
  check(entries.length === 0, `the console says: ${JSON.stringify(entries, null, 1)}`);
}

async function accessible(view) {
  if (!axeFile) return;
  await page.run(readFileSync(axeFile, "utf8"));
  const found = await page.runAsync("const done = arguments[0]; axe.run().then((result) => done(result.violations.map((one) => ({ id: one.id, nodes: one.nodes.map((node) => node.html.slice(0, 200) + ' ' + node.failureSummary) }))), (error) => done([String(error)]))");
  check(found.length === 0, `axe-core finds in ${view}: ${JSON.stringify(found, null, 1)}`);
}

const share = (version, wanted) => page.shows(`${version} ${wanted}`);

const steps = {
  async "the overview shows the services and is live"() {
    await page.open(`${here.admin}/`);
    await page.shows("live");
    await page.shows("shop");
    await page.shows("plain-0");
    await share("v1", "100%");
    await quiet();
    await accessible("the overview");
  },

  async "traffic is shifted by clicks, after the plan and the token"() {
    await page.click("shop");
    await page.click("Shift …");
    await page.type("#field-share", "25");
    await accessible("the dialog");
    await page.click("Show the plan", "#action-dialog");
    await page.type("#token-input", "wrong");
    await page.click("Use token");
    await page.shows("This token was refused");
    await page.type("#token-input", TOKEN);
    await page.click("Use token");
    await page.shows("v2 0% -> 25%");
    check((await here.status()).split.effective.v2 === "0%", "a plan must change nothing");
    await page.click("Shift", "#action-dialog");
    await page.shows("Done: generation");
    await page.click("Close", "#action-dialog");
    await share("v2", "25%");
    check((await here.status()).split.effective.v2 === "25%", "the shift is not in effect");
    const refusals = (message) => message.includes("401");
    await quiet(refusals);
    await accessible("a service");
  },

  async "a refusal is shown in the proxy's own words"() {
    await page.click("Shift …");
    await page.type("#field-share", "lots");
    await page.keys("Enter");
    await page.shows("no percent sign");
    await page.keys("Escape");
    const focused = await page.run("return document.activeElement.innerText");
    check(focused === "Shift …", `the focus went to ${focused}`);
    await quiet((message) => message.includes("400"));
  },

  async "the shift is undone by keyboard"() {
    await page.run("document.querySelector('.brand').focus()");
    await page.tabTo("History");
    await page.keys("Enter");
    await page.shows("Undo the last change …");
    await page.shows("dashboard");
    await page.tabTo("Undo the last change …");
    await page.keys("Enter");
    await page.shows("v2 25% -> 0%");
    await page.keys("Enter");
    await page.shows("Done: the text of generation");
    await page.keys("Enter");
    check((await here.status()).split.effective.v2 === "0%", "the undo is not in effect");
    await quiet();
    await accessible("the history");
  },

  async "a rollout is approved by keyboard"() {
    await here.post("services/shop/deploy", { version: "v2", label: "1.6.0" });
    await page.open(`${here.admin}/#/service/shop`);
    await page.run("location.hash = '#/service/shop'");
    await until("approval is awaited", async () => (await here.status()).rollout.state === "awaiting-approval");
    await page.shows("Approve …");
    await page.run("document.getElementById('main').focus()");
    await page.tabTo("Approve …");
    await page.keys("Enter");
    await page.shows("goes on with the next step");
    await page.keys("Enter");
    await page.shows("Done: the rollout is");
    await page.keys("Enter");
    await page.shows("at step 2 of 2");
    await accessible("a rollout");
    await quiet();
  },

  async "a bad canary is seen to be rolled back within a second of the verdict"() {
    await here.post("services/shop/rollout/abort", {});
    await here.post("services/shop/deploy", { version: "v2", label: "1.7.0" });
    await page.shows("Rollout of v2 (1.7.0): awaits approval");
    await page.run(`window.seen = null;
      new MutationObserver(() => { window.seen ??= document.querySelector(".rollout")?.innerText.includes("rolled back") ? Date.now() : null; })
        .observe(document.body, { childList: true, subtree: true, characterData: true, attributes: true });`);
    here.path = () => HOSTILE.replaceAll(" ", "%20").replaceAll('"', "%22").replaceAll("<", "%3C").replaceAll(">", "%3E");
    here.origins.v2.failing = 0.3;
    await until("the verdict", async () => (await here.status()).rollout.state === "rolled-back", 60_000);
    const seen = await until("the page shows it", () => page.run("return window.seen"), 5000);
    // The status has whole seconds; the history has the moment at which the traffic was taken back.
    const [entry] = (await here.get("history")).entries;
    check(entry.by === "rollout", `the newest entry of the history is by ${entry.by}`);
    const late = seen - Date.parse(entry.at);
    check(late < 1000, `the page showed the rollback ${late} ms after the verdict`);
    console.log(`    seen ${late} ms after the verdict`);
    await page.shows("v1 100%");
    await accessible("a rollback");
  },

  async "hostile names are shown as text"() {
    await page.shows("Errors that stable doesn't have");
    await page.click("Log");
    await page.shows("img", 20_000);
    check((await page.run("return document.querySelectorAll('img').length")) === 0, "a path became markup");
    check(!(await page.run("return document.title")).includes("owned"), "a path became a script");
    await accessible("the log");
    here.origins.v2.failing = 0;
    here.path = () => "/cart";
  },

  async "a request is explained"() {
    await page.click("Explain");
    await page.type("#url", "http://shop.example.com/cart?id=1");
    await page.keys("Enter");
    await page.shows("goes to shop");
    await accessible("the explanation");
    await page.click("Listeners");
    await page.shows("Open connections");
    await accessible("the listeners");
    await quiet();
  },

  async "the page finds its way back after a restart"() {
    await page.click("Overview");
    await here.stop();
    await page.shows("Connection lost since");
    await here.start();
    await page.shows("The proxy was restarted");
    await page.shows("live");
    await quiet((message) => message.includes("ERR_CONNECTION_REFUSED") || message.includes("ERR_INCOMPLETE_CHUNKED_ENCODING") || message.includes("ERR_CONNECTION_RESET") || message.includes("ERR_EMPTY_RESPONSE"));
  },

  async "a listener that others reach asks for the token, once"() {
    await page.open(`${here.exposed}/`);
    await page.shows("It is kept in the memory of this page only.");
    await page.keys("Escape");
    await page.shows("Connection lost since");
    await new Promise((resolve) => setTimeout(resolve, 2000));
    check(!(await page.run("return document.getElementById('token-dialog').open")), "the question came back by itself");
    await accessible("a page without the token");
    await page.click("Enter the token");
    await page.type("#token-input", TOKEN);
    await page.keys("Enter");
    await page.shows("plain-0");
    await quiet((message) => message.includes("401"));
    await page.open(`${here.admin}/`);
  },

  async "the search is reached by a key, and narrows the list"() {
    await page.run("document.activeElement.blur()");
    await page.keys("/", "p", "l", "a", "i", "n");
    await until("one service", () => page.run("const rows = document.querySelectorAll('#services .row'); return rows.length === 1 && rows[0].innerText.includes('plain-0')"));
    await quiet();
  },

  async "it fits narrow pages, also in the dark"() {
    await page.resize(360, 800, true);
    for (const view of ["", "service/shop", "history", "explain", "listeners"]) {
      await page.run("location.hash = '#/' + arguments[0]", view);
      await until("drawn", () => page.run("return document.querySelector('h1')"));
      const wide = await page.run("return document.documentElement.scrollWidth");
      const culprits = wide > 360 && await page.run("return [...document.querySelectorAll('body *')].filter((one) => one.getBoundingClientRect().right > 360).map((one) => `${one.tagName} ${one.className.baseVal ?? one.className} ${one.parentElement.className} ${Math.round(one.getBoundingClientRect().right)}`).slice(0, 40)");
      check(wide <= 360, `${view || "the overview"} is ${wide} pixels wide: ${JSON.stringify(culprits, null, 1)}`);
      await accessible(`${view || "the overview"} in the dark`);
    }
    await quiet();
  },
};

try {
  if (!axeFile) console.log("skipped: axe-core can't be fetched, so accessibility is not checked");
  for (const [name, step] of Object.entries(steps)) {
    console.log(name);
    await step();
  }
} catch (error) {
  failure = error;
} finally {
  await page.close();
  await here.close();
}
if (failure) {
  console.error(failure.message);
  process.exit(1);
}
console.log(`${Object.keys(steps).length} steps passed`);
