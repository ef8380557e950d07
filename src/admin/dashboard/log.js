// The access log, live: the newest line first, with a bounded number of lines.

import { failure, send } from "./api.js";
import { h } from "./dom.js";
import { clock, ms } from "./format.js";
import { changed, state } from "./store.js";

const KEPT = 500;
const RETRY_MS = 2000;
const HEADS = ["Time", "Status", "Service", "Version", "Request", "Took", "Endpoint", "Why", "Client", "ID"];

const filter = { service: "", failed: false, canary: false };
let rows = [];
let told = "";
let isPaused = false;
let held = [];
let dropped = 0;
let number = 0;
let reading = null;

export function enter() {
  follow();
}

export function leave() {
  reading?.abort();
  reading = null;
}

async function follow() {
  reading?.abort();
  const mine = (reading = new AbortController());
  rows = held = [];
  dropped = 0;
  while (!mine.signal.aborted) {
    try {
      told = "";
      const query = new URLSearchParams();
      if (filter.service) query.set("service", filter.service);
      if (filter.failed) query.set("failed", "true");
      if (filter.canary) query.set("canary", "true");
      const response = await send(`/api/v1/logs?${query.toString().replaceAll("+", "%20")}`, { signal: mine.signal });
      if (!response.ok) {
        told = await failure(response);
        changed();
        return;
      }
      await read(response.body, mine);
    } catch (error) {
      if (mine.signal.aborted) return;
      told = error.status ? error.message : "The connection is lost; trying again.";
      changed();
      if (error.status) return;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

async function read(body, mine) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { done, value } = await reader.read();
    if (done || mine !== reading) return;
    const lines = (text + value).split("\n");
    text = lines.pop();
    for (const line of lines) if (line) take(JSON.parse(line));
    changed();
  }
}

function take(entry) {
  if (entry.dropped) {
    dropped += entry.dropped;
    return;
  }
  if (entry.handed_over) {
    told = "Another process has taken over; the log continues there.";
    return;
  }
  const row = { key: number++, entry };
  if (isPaused) held = [row, ...held].slice(0, KEPT);
  else rows = [row, ...rows].slice(0, KEPT);
}

function pause() {
  isPaused = !isPaused;
  if (!isPaused) {
    rows = [...held, ...rows].slice(0, KEPT);
    held = [];
  }
  changed();
}

function set(name, value) {
  filter[name] = value;
  follow();
  changed();
}

export function draw() {
  const check = (name, text) => h("span", { class: "check", key: name }, h("input", { id: `log-${name}`, type: "checkbox", onchange: (event) => set(name, event.target.checked) }), h("label", { for: `log-${name}` }, text));
  return [
    h("h1", { key: "title" }, "Log"),
    h("div", { class: "tools", key: "tools" },
      h("label", { for: "log-service" }, "Service"),
      h("select", { id: "log-service", value: filter.service, onchange: (event) => set("service", event.target.value) },
        h("option", { key: "", value: "" }, "all"), [...state.services.keys()].map((name) => h("option", { key: name, value: name }, name))),
      check("failed", "failed"), check("canary", "canary"),
      h("button", { type: "button", "aria-pressed": isPaused ? "true" : "false", onclick: pause }, isPaused ? `Continue (${held.length} new)` : "Pause"),
      h("p", { class: "hint" }, dropped ? `${dropped} lines were lost: they came too fast` : "")),
    told && h("p", { class: "refusal", key: "told", role: "status" }, told),
    h("div", { class: "panel scroll", key: "lines", tabindex: "0", role: "region", "aria-label": "Lines of the log, the newest first" },
      h("table", { class: "log" },
        h("thead", null, h("tr", null, HEADS.map((name) => h("th", { scope: "col", key: name, class: name === "Status" || name === "Took" ? "number" : null }, name)))),
        h("tbody", null, rows.map(line)))),
    !rows.length && !told && h("p", { class: "empty", key: "none" }, "Waiting for requests …"),
  ];
}

function line({ key, entry }) {
  const isFailed = entry.status >= 500 || entry.reason;
  const cell = (value, kind) => h("td", { class: kind }, value ?? "");
  return h("tr", { key, class: isFailed ? "bad" : "" },
    cell(clock(entry.time)), cell([isFailed ? h("i", { class: "sign", "aria-hidden": "true" }, "✕ ") : null, entry.status ?? "–"], "number"),
    cell(entry.service), cell(entry.version), cell(h("code", null, `${entry.method ?? ""} ${entry.host ?? ""}${entry.path ?? ""}`), "request"),
    cell(ms(entry.total_ms), "number"), cell(h("code", null, entry.endpoint ?? "")), cell([entry.reason, entry.cause].filter(Boolean).join(": ")),
    cell(h("code", null, entry.client ?? "")), cell(h("code", null, entry.id ?? "")));
}
