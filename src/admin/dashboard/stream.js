// The event stream of the API, read with fetch, since an EventSource can't send the token. It reconnects by itself and resumes
// after the last event it has seen.

import { send, failure } from "./api.js";

const SHORTEST_MS = 250;
const LONGEST_MS = 8000;
/** The proxy sends a comment every 15 s. */
const SILENT_MS = 40_000;

/** Splits text into server-sent events: returns what is left over. Calls `event` with {id, type, data}. */
export function parse(text, event) {
  const blocks = text.split(/\r?\n\r?\n/);
  const rest = blocks.pop();
  for (const block of blocks) {
    const found = { id: null, type: "message", data: [] };
    for (const line of block.split(/\r?\n/)) {
      const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line);
      if (name === "id") found.id = value;
      else if (name === "event") found.type = value;
      else if (name === "data") found.data.push(value);
    }
    if (found.data.length) event({ ...found, data: found.data.join("\n") });
  }
  return rest;
}

/**
 * Follows `path` until `stop` is called on the result. `on` has the callbacks event(type, data, id), open(), lost(message) and
 * refused(message), the last for refusals of the API.
 */
export function follow(path, on) {
  const stopping = new AbortController();
  let last = null;
  let wait = SHORTEST_MS;
  let wake = () => {};

  async function once() {
    const attempt = new AbortController();
    const abort = () => attempt.abort();
    stopping.signal.addEventListener("abort", abort);
    let watchdog = setTimeout(abort, SILENT_MS);
    try {
      const headers = { accept: "text/event-stream" };
      if (last !== null) headers["last-event-id"] = last;
      const response = await send(path, { headers, signal: attempt.signal });
      if (!response.ok) {
        on.refused(await failure(response));
        return;
      }
      on.open();
      wait = SHORTEST_MS;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ; ) {
        const { done, value } = await reader.read();
        if (done) break;
        clearTimeout(watchdog);
        watchdog = setTimeout(abort, SILENT_MS);
        text = parse(text + value, ({ id, type, data }) => {
          on.event(type, JSON.parse(data), id);
          if (id !== null) last = id;
        });
      }
      on.lost("the proxy closed the connection");
    } catch (error) {
      if (!stopping.signal.aborted) on.lost(error.status ? error.message : "the proxy does not answer");
    } finally {
      clearTimeout(watchdog);
      stopping.signal.removeEventListener("abort", abort);
    }
  }

  async function loop() {
    while (!stopping.signal.aborted) {
      await once();
      await new Promise((resolve) => {
        wake = resolve;
        // Pages that lost the same proxy don't come back at the same instant.
        setTimeout(resolve, wait * (0.75 + Math.random() / 2));
      });
      wait = Math.min(wait * 2, LONGEST_MS);
    }
  }

  const retry = () => {
    wait = SHORTEST_MS;
    wake();
  };
  addEventListener("online", retry);
  document.addEventListener("visibilitychange", () => document.hidden || retry());
  loop();
  return { stop: () => stopping.abort(), retry };
}
