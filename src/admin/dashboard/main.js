// The frame of the page: navigation, what the connection is doing, and the view of the address.

import { h, render } from "./dom.js";
import { clock, duration, plural } from "./format.js";
import { findings, withElapsed, retry, start, state, subscribe, urgency } from "./store.js";
import { lacksToken, offerToken } from "./api.js";
import * as overview from "./overview.js";
import * as service from "./service.js";
import * as history from "./history.js";
import * as explain from "./explain.js";
import * as listeners from "./listeners.js";
import * as log from "./log.js";

const VIEWS = {
  "": { view: overview, title: "Overview" },
  service: { view: service, title: "Service" },
  history: { view: history, title: "History" },
  explain: { view: explain, title: "Explain" },
  listeners: { view: listeners, title: "Listeners" },
  log: { view: log, title: "Log" },
};

/** A certificate with less time than this is mentioned on every view. */
const EXPIRES_SOON_S = 7 * 86400;

const main = document.getElementById("main");
let current = { name: null, argument: "" };

function route() {
  if (location.hash === "#main") return { name: "", argument: "", ...(current.name !== null && current) };
  const [name, argument = ""] = location.hash.replace(/^#\/?/, "").split("/");
  try {
    return { name: name in VIEWS ? name : "", argument: decodeURIComponent(argument) };
  } catch {
    return { name: "", argument: "" };
  }
}

function navigate() {
  const next = route();
  if (next.name === current.name && next.argument === current.argument) return;
  const isFirst = current.name === null;
  VIEWS[current.name]?.view.leave?.();
  current = next;
  render(main, []);
  VIEWS[next.name].view.enter?.(next.argument);
  draw();
  scrollTo(0, 0);
  // Keyboards and screen readers continue in the new view.
  if (!isFirst) main.focus({ preventScroll: true });
}

function draw() {
  const { view, title } = VIEWS[current.name];
  const all = [...state.services.values()];
  const bad = all.filter((one) => urgency(findings(one)) === 0).length;
  const shown = current.name === "service" ? current.argument : title;
  document.title = `${bad ? `(${bad}) ` : ""}${shown} · cutover`;
  render(document.getElementById("top"), head());
  render(document.getElementById("notices"), notices());
  if (state.proxy) render(main, view.draw(current.argument));
  else if (state.connection !== "connecting") render(main, [h("h1", { class: "heard" }, title), h("p", { class: "empty" }, `Nothing to show: ${state.why}.`)]);
}

function head() {
  const link = (name, text) => {
    const isHere = current.name === name || (name === "" && current.name === "service");
    return h("a", { key: name, href: `#/${name}`, "aria-current": isHere ? "page" : null }, text);
  };
  const { proxy } = state;
  const live = { connecting: ["◌", "connecting"], live: ["●", "live"], lost: ["✕", "not connected"], refused: ["✕", "refused"] };
  const [sign, words] = live[state.connection];
  return [
    h("a", { class: "brand", href: "#/" }, "cutover"),
    h("nav", { "aria-label": "Views" }, link("", "Overview"), link("history", "History"), link("explain", "Explain"), link("listeners", "Listeners"), link("log", "Log")),
    h("p", { class: "facts" },
      proxy && h("span", { title: "Generation of the running configuration" }, `generation ${proxy.generation}`),
      proxy && h("span", { title: `Version ${proxy.version}, process ${proxy.pid}` }, `up ${duration(withElapsed(proxy.uptime_s))}`),
      h("span", { class: `connection ${state.connection}` }, h("i", { "aria-hidden": "true" }, sign), ` ${words}`)),
  ];
}

function useToken() {
  offerToken();
  retry();
}

function notice(key, level, text, detail, button) {
  const sign = { bad: "✕", warn: "!", info: "i" }[level];
  return h("div", { class: `notice ${level}`, key }, h("i", { "aria-hidden": "true" }, sign), h("p", null, text), detail && h("pre", null, detail), button);
}

function notices() {
  const all = [];
  const { proxy } = state;
  if (state.lostAt) all.push(notice("lost", "bad", `Connection lost since ${clock(new Date(state.lostAt).toISOString())}: ${state.why}. What is shown may be old; the page reconnects by itself.`, null,
    lacksToken() && h("button", { type: "button", onclick: useToken }, "Enter the token")));
  const restarted = state.restartedAt && Date.now() - state.restartedAt < 60_000;
  if (restarted) all.push(notice("restart", "info", `The proxy was restarted ${duration((Date.now() - state.restartedAt) / 1000)} ago. Counters begin again.`));
  if (!proxy) return all;
  if (proxy.phase !== "ready") all.push(notice("phase", "warn", `The proxy is ${proxy.phase}.`));
  if (!proxy.config.ok) all.push(notice("config", "bad", `The configuration file was refused; generation ${proxy.generation} keeps running.`, proxy.config.error));
  if (proxy.adopted < proxy.generation) all.push(notice("adopting", "info", `Generation ${proxy.generation} is being adopted.`));
  const soon = proxy.certificates.filter((one) => one.error || (one.expires_in_s != null && one.expires_in_s < EXPIRES_SOON_S));
  if (soon.length) all.push(notice("certificates", "warn", `${plural(soon.length, "certificate")} ${soon.length === 1 ? "needs" : "need"} attention: see Listeners.`));
  const { fleet } = proxy;
  if (fleet && !fleet.connected) all.push(notice("alone", "warn", `Cut off from the fleet ${fleet.name} for ${duration(withElapsed(fleet.alone_s ?? 0))}: see Listeners.`));
  if (fleet?.disagreements.length) all.push(notice("disagree", "warn", `Members of the fleet ${fleet.name} disagree: see Listeners.`));
  return all;
}

addEventListener("hashchange", navigate);
addEventListener("keydown", (event) => {
  const isTyping = event.target.closest?.("input, select, textarea, dialog");
  if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  const search = document.querySelector("[type=search]");
  if (!search) return;
  event.preventDefault();
  search.focus();
  search.select();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  // The address says which view is shown, so the link must not change it.
  event.preventDefault();
  main.focus();
});
subscribe(draw);
navigate();
start();
