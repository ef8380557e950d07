// The last 15 minutes of one service: from the proxy, and until it answers from what the page has seen itself.

import { get, of } from "./api.js";
import { changed, clients, state } from "./store.js";

const STEP_MS = 5000;
const POINTS = 180;
const FIELDS = ["rate", "error_ratio", "p50_ms", "p99_ms"];

let timer = null;
let name = null;
/** The series that the views draw; null until there is one. */
let series = null;

/** Begins to follow a service. */
export function followSeries(service) {
  stopSeries();
  name = service;
  timer = setInterval(tick, STEP_MS);
  tick();
}

/** Stops following. */
export function stopSeries() {
  clearInterval(timer);
  timer = name = series = null;
}

/** The series of the followed service. */
export const current = () => series;

async function tick() {
  const asked = name;
  try {
    const found = await get(of(asked, "series"));
    if (name === asked) series = found;
  } catch {
    if (name === asked) collect(state.services.get(asked));
  }
  changed();
}

function collect(service) {
  if (!service) return;
  const at = Date.now() / 1000;
  series ??= { step_s: STEP_MS / 1000, until_s: at, clients: {}, versions: {}, evidence: {} };
  series.until_s = at;
  for (const field of FIELDS) push(series.clients, field, clients(service)[field]);
  for (const version of service.versions) {
    const lines = (series.versions[version.name] ??= {});
    for (const field of FIELDS) push(lines, field, version.red["10s"]?.[field]);
  }
  const { rollout } = service;
  if (!rollout) return;
  for (const [rule, value] of Object.entries(rollout.evidence)) push(series.evidence, rule, value);
  push(series.evidence, "total", rollout.total_evidence);
}

function push(lines, field, value) {
  const line = (lines[field] ??= Array(POINTS).fill(null));
  line.push(value ?? null);
  line.splice(0, line.length - POINTS);
}
