// Requests to the admin API. The token stays in memory: it is asked for when the API first wants it, and gone with the page.

import { h, render } from "./dom.js";

/** The API's own message for a request that failed. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let token = null;
/** The question that is being asked; all requests wait for the same answer. */
let asking = null;

/** Whether the question was dismissed: reads don't ask again by themselves then. */
let isDeclined = false;

/** Whether reads fail because no token was given. */
export const lacksToken = () => isDeclined;

/** Lets the next request ask for the token. */
export function offerToken() {
  isDeclined = false;
}

/** Sends a request and asks for the token where it is needed. Returns the response, whatever its status. */
export async function send(path, { method = "GET", body, headers = {}, signal } = {}) {
  for (;;) {
    const used = token;
    const all = { ...headers };
    if (used !== null) all.authorization = `Bearer ${used}`;
    if (body !== undefined) all["content-type"] = "application/json";
    const response = await fetch(path, {
      method,
      headers: all,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "omit",
    });
    if (response.status !== 401) return response;
    const message = await failure(response);
    if (isDeclined && method === "GET") throw new ApiError(401, message);
    // Another request may have got a token in the meantime.
    if (token === used && !(await ask(message, used !== null))) throw new ApiError(401, message);
  }
}

/** Reads a JSON document. Throws an ApiError with the proxy's own message. */
export async function get(path, options) {
  return document_of(await send(path, options));
}

/** Posts a change and returns the JSON answer. Throws an ApiError with the proxy's own message. */
export async function post(path, body, { method = "POST" } = {}) {
  // The author, for the history.
  return document_of(await send(path, { method, body, headers: { "x-cutover-by": "dashboard" } }));
}

async function document_of(response) {
  if (!response.ok) throw new ApiError(response.status, await failure(response));
  return response.json();
}

/** The message of a failed response. */
export async function failure(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error ?? text;
  } catch {
    return text || `the proxy answered ${response.status}`;
  }
}

/** The path of something below a service. */
export function of(service, ...rest) {
  return ["/api/v1/services", ...[service, ...rest].map(encodeURIComponent)].join("/");
}

function ask(message, isWrong) {
  asking ??= dialog(message, isWrong).finally(() => (asking = null));
  return asking;
}

/** Asks for the token. Resolves to whether one was given. */
function dialog(message, isWrong) {
  const box = document.getElementById("token-dialog");
  const before = document.activeElement;
  return new Promise((resolve) => {
    const done = (given) => {
      isDeclined = !given;
      box.close();
      render(box, []);
      before?.focus?.();
      resolve(given);
    };
    const submit = (event) => {
      event.preventDefault();
      const value = box.querySelector("input").value.trim();
      if (!value) return;
      token = value;
      done(true);
    };
    render(box, [
      h("form", { method: "dialog", onsubmit: submit },
        h("h2", { id: "token-title" }, "Token"),
        h("p", { class: isWrong ? "refusal" : "hint" }, isWrong ? `This token was refused: ${message}` : message),
        h("label", { for: "token-input" }, "The token in the proxy's token_file"),
        h("input", { id: "token-input", type: "password", autocomplete: "off", spellcheck: "false", required: true }),
        h("p", { class: "hint" }, "It is kept in the memory of this page only."),
        h("div", { class: "buttons" },
          h("button", { type: "button", onclick: () => done(false) }, "Cancel"),
          h("button", { type: "submit", class: "primary" }, "Use token"))),
    ]);
    box.oncancel = (event) => {
      event.preventDefault();
      done(false);
    };
    box.showModal();
    box.querySelector("input").focus();
  });
}
