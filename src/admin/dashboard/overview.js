// All services, those with problems first. Only the rows in sight are in the page.

import { h } from "./dom.js";
import { ms, percent, plural, rate, share } from "./format.js";
import { changed, clients, findings, state, urgency } from "./store.js";

const ROWS_BEYOND = 6;
const SIGNS = { bad: ["✕", "problem"], warn: ["!", "attention"], info: ["▸", "in progress"], ok: ["✓", "fine"] };

let sought = "";
let only = "all";

export function enter() {
  addEventListener("scroll", changed, { passive: true });
  addEventListener("resize", changed);
}

export function leave() {
  removeEventListener("scroll", changed);
  removeEventListener("resize", changed);
}

/** The mark of a level: a sign and a word. */
export function mark(level) {
  const [sign, word] = SIGNS[level];
  return h("span", { class: `mark ${level}`, title: word }, h("i", { "aria-hidden": "true" }, sign), h("span", { class: "heard" }, word));
}

/** Which look a version has: that of stable, of a canary, or of a third one. */
export function role(service, name) {
  if (name === service.stable) return "stable";
  const others = service.versions.filter((version) => version.name !== service.stable);
  return others[0]?.name === name ? "canary" : "other";
}

/** The split of a service: a bar of the effective shares, with marks where the configuration wants them. */
export function bar(service) {
  const named = service.versions.map((version) => ({
    name: version.name,
    role: role(service, version.name),
    effective: share(service.split.effective[version.name]) ?? 0,
    desired: service.split.desired[version.name],
  }));
  // A rollout sets the shares itself; what the file says of the others is not awaited then.
  const isPlanned = named.every((one) => one.desired !== "rollout");
  const differs = isPlanned && named.some((one) => share(one.desired) !== null && Math.abs(share(one.desired) - one.effective) > 0.005);
  const words = named.map((one) => `${one.name} ${trim(one.effective)}${differs && share(one.desired) !== null ? `, wanted ${one.desired}` : ""}`);
  let sum = 0;
  return h("div", { class: "split" },
    h("div", { class: "bar", role: "img", "aria-label": `Split: ${words.join("; ")}` },
      named.map((one) => h("span", { key: one.name, class: one.role, style: { width: `${one.effective}%` } })),
      differs && named.slice(0, -1).map((one) => {
        sum += share(one.desired) ?? one.effective;
        return h("i", { key: `wanted ${one.name}`, class: "wanted", style: { left: `${sum}%` } });
      })),
    h("p", { "aria-hidden": "true" }, named.filter((one) => one.effective > 0 || one.desired === "rollout" || (share(one.desired) ?? 0) > 0).map((one) =>
      h("span", { key: one.name, class: `name ${one.role}` }, h("b", null, one.name), ` ${trim(one.effective)}`,
        differs && share(one.desired) !== null && Math.abs(share(one.desired) - one.effective) > 0.005 ? h("em", null, ` → ${one.desired}`) : null))));
}

function trim(value) {
  return `${Number(value.toFixed(2))}%`;
}

/** The services in the order of the page: rows move when their urgency changes, not with every number. */
function sorted() {
  const all = [...state.services.values()].map((service, at) => {
    const found = findings(service);
    return { service, found, urgency: urgency(found), at };
  });
  return all.sort((a, b) => a.urgency - b.urgency || a.at - b.at);
}

export function draw() {
  const all = sorted();
  const text = sought.trim().toLowerCase();
  const shown = all.filter((one) => {
    if (only === "problems" && one.urgency > 1) return false;
    if (only === "rollouts" && !one.service.rollout) return false;
    if (!text) return true;
    return one.service.name.toLowerCase().includes(text) || one.service.versions.some((version) => version.name.toLowerCase().includes(text) || version.label?.toLowerCase().includes(text));
  });
  return [
    h("h1", { class: "heard", key: "title" }, "Overview"),
    summary(all),
    tools(all, shown),
    shown.length ? table(shown) : h("p", { class: "empty", key: "none" }, all.length ? "No service matches." : "The configuration has no services."),
  ];
}

function summary(all) {
  const total = all.reduce((sum, one) => sum + clients(one.service).rate, 0);
  const failed = all.reduce((sum, one) => sum + clients(one.service).rate * clients(one.service).error_ratio, 0);
  const number = (level) => all.filter((one) => one.urgency === level).length;
  const flight = all.reduce((sum, one) => sum + one.service.versions.reduce((n, version) => n + version.in_flight, 0), 0);
  const fact = (name, value, level) => h("div", { key: name, class: level ?? "" }, h("dt", null, name), h("dd", null, value));
  return h("dl", { class: "summary", key: "summary" },
    fact("Services", all.length),
    fact("Problems", number(0), number(0) ? "bad" : ""),
    fact("Attention", number(1), number(1) ? "warn" : ""),
    fact("Rollouts", all.filter((one) => one.service.rollout && !["done", "aborted", "rolled-back"].includes(one.service.rollout.state)).length),
    fact("Requests/s", rate(total)),
    fact("Errors", percent(total ? failed / total : 0), total && failed / total >= 0.01 ? "bad" : ""),
    fact("In flight", flight));
}

function tools(all, shown) {
  const choice = (value, text) => h("button", { key: value, type: "button", "aria-pressed": only === value ? "true" : "false", onclick: () => { only = value; scrollTo(0, 0); changed(); } }, text);
  return h("div", { class: "tools", key: "tools" },
    h("label", { class: "search" }, h("span", { class: "heard" }, "Search services"),
      h("input", { type: "search", placeholder: "Search services  ( / )", spellcheck: "false", autocomplete: "off", oninput: (event) => { sought = event.target.value; changed(); } })),
    h("div", { class: "choices", role: "group", "aria-label": "Which services" }, choice("all", "All"), choice("problems", "Problems"), choice("rollouts", "Rollouts")),
    h("p", { class: "hint" }, shown.length === all.length ? plural(all.length, "service") : `${shown.length} of ${plural(all.length, "service")}`));
}

function table(shown) {
  const list = document.getElementById("services");
  const height = Number.parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row"));
  const top = list ? -list.getBoundingClientRect().top : 0;
  const first = Math.max(0, Math.min(shown.length - 1, Math.floor(top / height) - ROWS_BEYOND));
  const last = Math.min(shown.length, Math.ceil((top + innerHeight) / height) + ROWS_BEYOND);
  const column = (name, kind) => h("span", { role: "columnheader", class: kind }, name);
  return h("div", { class: "table", role: "table", "aria-label": "Services, problems first", "aria-rowcount": shown.length + 1, key: "table" },
    h("div", { role: "rowgroup", class: "heads" },
      h("div", { role: "row", class: "row", "aria-rowindex": 1 },
        column("Service", "who"), column("Split", "how"), column("Req/s", "number"), column("Errors", "number"), column("p50", "number"), column("p99", "number"), column("State", "why"))),
    h("div", { role: "rowgroup", id: "services", style: { "padding-top": `${first * height}px`, "padding-bottom": `${Math.max(0, shown.length - last) * height}px` } },
      shown.slice(first, Math.max(last, first + 1)).map((one, at) => row(one, first + at + 2))));
}

function row({ service, found }, index) {
  const red = clients(service);
  const level = found[0]?.level ?? "ok";
  const cell = (kind, name, ...what) => h("span", { role: "cell", class: kind, "data-name": name }, what);
  const isFailing = red.rate > 0 && red.error_ratio >= 0.01;
  return h("div", { role: "row", class: `row ${level}`, key: service.name, "aria-rowindex": index },
    cell("who", null, mark(level), h("a", { href: `#/service/${encodeURIComponent(service.name)}`, title: service.name }, service.name)),
    cell("how", null, service.answer ? h("span", { class: "hint" }, service.answer) : bar(service)),
    cell("number", "Req/s", rate(red.rate)),
    cell(`number ${isFailing ? "bad" : ""}`, "Errors", red.rate ? percent(red.error_ratio) : "–"),
    cell("number", "p50", ms(red.p50_ms)),
    cell("number", "p99", ms(red.p99_ms)),
    cell("why", null, found.length ? found.slice(0, 2).map((one, at) => h("span", { key: at, class: one.level, title: one.text }, one.text)) : h("span", { class: "hint" }, "fine")));
}
