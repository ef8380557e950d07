// A WebDriver client with what the tests of the dashboard need. It speaks to chromedriver over HTTP.

import { spawn } from "node:child_process";

const ELEMENT = "element-6066-11e4-a52e-4f735466cecf";
const KEYS = { Tab: "\uE004", Enter: "\uE007", Escape: "\uE00C", Space: " ", Shift: "\uE008", Control: "\uE009", Backspace: "\uE003" };
const PATIENCE_MS = 15_000;

/** Calls `look` until it returns something true. */
export async function until(what, look, patience = PATIENCE_MS) {
  const end = Date.now() + patience;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

/** Starts chromedriver and opens a browser. */
export async function browser({ width = 1300, height = 900, dark = false, acceptsAnyCertificate = false } = {}) {
  const driver = spawn("chromedriver", ["--port=0"], { stdio: ["ignore", "pipe", "inherit"] });
  const port = await new Promise((resolve, reject) => {
    let text = "";
    driver.stdout.on("data", (data) => {
      const found = /successfully on port (\d+)/.exec((text += data));
      if (found) resolve(found[1]);
    });
    driver.on("exit", () => reject(new Error(`chromedriver ended: ${text}`)));
  });
  const base = `http://127.0.0.1:${port}/session`;
  const options = { args: ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", `--window-size=${width},${height}`] };
  try {
    const { sessionId } = await call(base, "POST", { capabilities: { alwaysMatch: { acceptInsecureCerts: acceptsAnyCertificate, "goog:chromeOptions": options, "goog:loggingPrefs": { browser: "ALL" } } } });
    const page = new Page(`${base}/${sessionId}`, driver);
    await page.resize(width, height, dark);
    return page;
  } catch (error) {
    driver.kill();
    throw error;
  }
}

async function call(url, method, body) {
  const response = await fetch(url, { method, body: body && JSON.stringify(body), headers: { "content-type": "application/json" } });
  const { value } = await response.json();
  if (!response.ok) throw new Error(`${value.error}: ${value.message.split("\n")[0]}`);
  return value;
}

class Page {
  constructor(session, driver) {
    this.session = session;
    this.driver = driver;
  }

  post(path, body = {}) {
    return call(`${this.session}/${path}`, "POST", body);
  }

  cdp(cmd, params = {}) {
    return this.post("goog/cdp/execute", { cmd, params });
  }

  /** Sets the size of the page and the colours that it prefers. */
  async resize(width, height, dark) {
    await this.cdp("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });
    await this.cdp("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }] });
  }

  open(url) {
    return this.post("url", { url });
  }

  /** Runs the body of a function in the page. */
  run(script, ...args) {
    return this.post("execute/sync", { script, args });
  }

  runAsync(script, ...args) {
    return this.post("execute/async", { script, args });
  }

  /** All text that is visible. */
  text() {
    return this.run("return document.body.innerText");
  }

  /** Waits until the page shows a text. */
  async shows(text, patience) {
    try {
      await until(JSON.stringify(text), async () => (await this.text()).includes(text), patience);
    } catch (error) {
      throw new Error(`${error.message}\nthe page shows:\n${await this.text()}`);
    }
  }

  /** Waits for a link or button with this text, below `within`. */
  async control(text, within = "body") {
    const found = await until(`control ${text}`, () => this.run(
      `const [text, within] = arguments;
       return [...document.querySelectorAll(within + " :is(a, button)")].find((one) => one.innerText.trim() === text && one.offsetParent);`, text, within));
    return found[ELEMENT];
  }

  async click(text, within) {
    await this.post(`element/${await this.control(text, within)}/click`);
  }

  /** Replaces the value of a field by typing. */
  async type(selector, text) {
    const found = await until(selector, () => this.run("return document.querySelector(arguments[0])", selector));
    await this.post(`element/${found[ELEMENT]}/clear`);
    await this.post(`element/${found[ELEMENT]}/value`, { text });
  }

  /** Presses keys, by name or as they are. */
  async keys(...names) {
    const actions = names.flatMap((name) => {
      const value = KEYS[name] ?? name;
      return [{ type: "keyDown", value }, { type: "keyUp", value }];
    });
    await this.post("actions", { actions: [{ type: "key", id: "keyboard", actions }] });
  }

  /** Presses Tab until a control with this text has the focus. */
  async tabTo(text) {
    for (let pressed = 0; pressed < 80; pressed++) {
      await this.keys("Tab");
      const focused = await this.run("return document.activeElement.innerText?.trim() ?? ''");
      if (focused === text) return;
    }
    throw new Error(`${text} is not reached by Tab`);
  }

  /** What the browser has written to its console since the last call. */
  console() {
    return this.post("se/log", { type: "browser" });
  }

  async screenshot() {
    const { data } = await this.cdp("Page.captureScreenshot", { format: "png" });
    return Buffer.from(data, "base64");
  }

  async close() {
    await call(this.session, "DELETE").catch(() => {});
    this.driver.kill();
  }
}
