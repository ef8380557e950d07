// Who changed what, when; and the way back.

import { get } from "./api.js";
import { h } from "./dom.js";
import { ago, clock } from "./format.js";
import { changed, state } from "./store.js";
import { ofGeneration } from "./actions.js";

const CAUSES = { start: "start of the process", file: "edit of the file", cli: "command", api: "admin API", gate: "health gate", rollout: "rollout" };
const SHOWN = 200;

let report = null;
let error = null;
let fetched = null;
let sought = "";

async function load() {
  const wanted = mark();
  fetched = wanted;
  try {
    report = await get("/api/v1/history");
    error = null;
  } catch (failed) {
    error = failed.message;
  }
  changed();
}

/** Changes whenever there may be new entries. */
function mark() {
  return `${state.adoptions} ${state.proxy?.generation} ${state.connection}`;
}

export function enter(service) {
  sought = service;
  load();
}

export function draw() {
  if (fetched !== mark()) load();
  if (!report) return [h("h1", null, "History"), h("p", { class: "empty" }, error ? `No history: ${error}` : "Reading the history …")];
  const text = sought.trim().toLowerCase();
  const found = report.entries.filter((entry) => !text || entry.who?.toLowerCase().includes(text) || entry.changes.some((change) => change.text.toLowerCase().includes(text)));
  return [
    h("div", { class: "head", key: "head" }, h("h1", null, "History"), h("div", { class: "buttons" }, ofGeneration(null))),
    h("div", { class: "tools", key: "tools" },
      h("label", { class: "search" }, h("span", { class: "heard" }, "Search the history"),
        h("input", { type: "search", placeholder: "Search changes and authors  ( / )", spellcheck: "false", value: sought, oninput: (event) => { sought = event.target.value; changed(); } })),
      h("p", { class: "hint" }, report.stored ? "" : "Without a state directory the history ends with the process.")),
    error && h("p", { class: "refusal", key: "error" }, error),
    h("ol", { class: "history", key: "entries" }, found.slice(0, SHOWN).map((entry) => line(entry, entry === report.entries[0]))),
    !found.length && h("p", { class: "empty", key: "none" }, "No entry matches."),
    found.length > SHOWN && h("p", { class: "hint", key: "more" }, `${found.length - SHOWN} older entries: cutover history shows all.`),
  ];
}

function line(entry, isNewest) {
  return h("li", { key: `${entry.generation} ${entry.at}` },
    h("div", { class: "when" }, h("b", null, `Generation ${entry.generation}`), h("time", { datetime: entry.at, title: entry.at }, `${clock(entry.at)} (${ago(entry.at)} ago)`)),
    h("div", { class: "what" },
      h("p", { class: "hint" }, CAUSES[entry.by] ?? entry.by, entry.who && [" by ", h("b", null, entry.who)]),
      entry.changes.length ? h("ul", { class: "diff" }, entry.changes.map((change, at) => h("li", { key: at }, change.text))) : h("p", null, "Nothing that the running proxy does differently.")),
    h("div", { class: "buttons" }, !isNewest && ofGeneration(entry.generation)));
}
