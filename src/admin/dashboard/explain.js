// Where a request would go, and why.

import { get } from "./api.js";
import { h } from "./dom.js";
import { changed } from "./store.js";

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

const asked = { url: "", method: "GET", headers: "", ip: "" };
let answer = null;
let error = null;

async function submit(event) {
  event.preventDefault();
  const query = new URLSearchParams({ url: asked.url.trim(), method: asked.method });
  for (const header of asked.headers.split("\n")) if (header.trim()) query.append("header", header.trim());
  if (asked.ip.trim()) query.set("ip", asked.ip.trim());
  try {
    // The API reads %20, not the + of forms.
    answer = await get(`/api/v1/explain?${query.toString().replaceAll("+", "%20")}`);
    error = null;
  } catch (failed) {
    answer = null;
    error = failed.message;
  }
  changed();
}

export function draw() {
  const set = (name) => (event) => { asked[name] = event.target.value; };
  return [
    h("h1", { key: "title" }, "Explain"),
    h("form", { class: "panel explain", key: "form", onsubmit: submit },
      h("div", { class: "field method" }, h("label", { for: "method" }, "Method"), h("select", { id: "method", value: asked.method, oninput: set("method") }, METHODS.map((method) => h("option", { key: method, value: method }, method)))),
      h("div", { class: "field url" }, h("label", { for: "url" }, "URL"), h("input", { id: "url", type: "text", required: true, placeholder: "https://shop.example.com/cart?id=7", spellcheck: "false", autocomplete: "off", value: asked.url, oninput: set("url") })),
      h("div", { class: "field ip" }, h("label", { for: "ip" }, "Client address"), h("input", { id: "ip", type: "text", placeholder: "192.0.2.7", spellcheck: "false", autocomplete: "off", value: asked.ip, oninput: set("ip") })),
      h("div", { class: "field headers" }, h("label", { for: "headers" }, "Headers, one a line"), h("textarea", { id: "headers", rows: "3", placeholder: "cookie: uid=42", spellcheck: "false", value: asked.headers, oninput: set("headers") })),
      h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Explain"))),
    error && h("p", { class: "refusal", key: "error", role: "alert" }, error),
    answer && result(),
  ];
}

function result() {
  const to = answer.version ?? answer.candidates.map((one) => `${one.version} (${one.share})`).join(" or ");
  return h("section", { class: "panel", key: "answer", "aria-labelledby": "answer-title", role: "status" },
    h("h2", { id: "answer-title" }, h("code", null, answer.request), answer.answer ? ` is answered by the proxy: ${answer.answer}` : ` goes to ${answer.service ?? "no service"}, ${to}`),
    h("ol", { class: "why" }, answer.why.map((step, at) => h("li", { key: at }, step))),
    h("dl", { class: "facts" },
      fact("Listeners", answer.listeners.join(", ")), fact("Route", answer.route), fact("Rule", answer.rule),
      fact("Cohort", answer.cohort && `${answer.cohort.key} at ${answer.cohort.place.toFixed(4)}`),
      fact("Session", answer.session && [answer.session.version, answer.session.endpoint].filter(Boolean).join(" at ")),
      fact("Flags", answer.flags?.length && answer.flags.map((flag) => `${flag.name} ${flag.on ? "on" : "off"}`).join(", "))),
    answer.candidates.length > 0 && h("ul", { class: "candidates" }, answer.candidates.map((one) => h("li", { key: one.version },
      h("b", null, `${one.version} ${one.share}`), " ", one.endpoints.map((endpoint) => `${endpoint.address} ${endpoint.health}`).join(", "), one.instead && ` – instead: ${one.instead}`))));
}

function fact(name, value) {
  return value || value === 0 ? h("div", { key: name }, h("dt", null, name), h("dd", null, value)) : null;
}
