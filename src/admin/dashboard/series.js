// The last 15 minutes of one service, as the proxy keeps them.

import { get, of } from "./api.js";
import { changed } from "./store.js";

const STEP_MS = 5000;

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
    // The page says that the connection is lost, or the service gone. What is known stays.
    return;
  }
  changed();
}
