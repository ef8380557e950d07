// One service: versions side by side, its rollout, endpoints, new errors, mirror, flags and goals.

import { h } from "./dom.js";
import { lines } from "./charts.js";
import { ago, clock, count, ms, percent, rate } from "./format.js";
import { clients, findings, isOff, state } from "./store.js";
import { current, followSeries, stopSeries } from "./series.js";
import { bar, mark, role } from "./overview.js";
import { panel } from "./rollout.js";
import { ofEndpoint, ofFlag, ofRollout, ofService, ofVersion } from "./actions.js";

export const enter = (name) => followSeries(name);
export const leave = stopSeries;

export function draw(name) {
  const service = state.services.get(name);
  if (!service) return [h("h1", null, name), h("p", { class: "empty" }, "The configuration has no such service.")];
  const found = findings(service);
  return [
    h("div", { class: "head", key: "head" },
      h("h1", null, mark(found[0]?.level ?? "ok"), service.name),
      h("div", { class: "buttons" }, h("a", { class: "button", href: `#/history/${encodeURIComponent(service.name)}` }, "History"), ofService(service))),
    found.length > 0 && h("ul", { class: "findings", key: "findings", "aria-label": "What needs attention" },
      found.map((one) => h("li", { key: one.text, class: one.level }, mark(one.level), one.text))),
    service.answer ? h("p", { class: "panel", key: "answer" }, `The proxy answers itself: ${service.answer}.`) : h("section", { class: "panel wide", key: "split", "aria-label": "Split" }, bar(service)),
    service.rollout && panel(service, ofRollout(service)),
    versions(service),
    charts(service),
    endpoints(service),
    errors(service),
    mirror(service),
    flags(service),
    goals(service),
  ];
}

/** A section with a table; the rows are lists of cells, each text, a description, or {value, kind}. */
export function section(key, title, heads, rows, note) {
  const kinds = rows[0]?.cells.map((value) => (value !== null && typeof value === "object" && "kind" in value ? value.kind.split(" ")[0] : null)) ?? [];
  const cell = (value, at) => {
    const { value: what, kind } = value !== null && typeof value === "object" && "kind" in value ? value : { value, kind: null };
    return at === 0 ? h("th", { scope: "row" }, what) : h("td", { class: kind, "data-name": heads[at] }, what);
  };
  return h("section", { class: "panel", key, "aria-labelledby": `${key}-title` },
    h("h2", { id: `${key}-title` }, title),
    note && h("p", { class: "hint" }, note),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Table: ${title}` },
      h("table", null,
        h("thead", null, h("tr", null, heads.map((head, at) => h("th", { scope: "col", key: head, class: kinds[at] }, head)))),
        h("tbody", null, rows.map((row) => h("tr", { key: row.key, class: row.kind }, row.cells.map(cell)))))));
}

const numeric = (value, isBad) => ({ value, kind: `number${isBad ? " bad" : ""}` });

function versions(service) {
  const red = (window) => [numeric(rate(window.rate)), numeric(window.rate ? percent(window.error_ratio) : "–", window.rate && window.error_ratio >= 0.01), numeric(ms(window.p50_ms)), numeric(ms(window.p99_ms))];
  const rows = service.versions.map((version) => ({
    key: version.name,
    cells: [
      [h("b", { class: `name ${role(service, version.name)}` }, version.name), version.name === service.stable ? h("span", { class: "tag" }, "stable") : null, version.label ? h("span", { class: "hint" }, ` ${version.label}`) : null],
      numeric(version.share), numeric(service.split.desired[version.name] ?? "–"),
      ...red(version.red["10s"] ?? none),
      numeric(percent((version.red["1m"] ?? none).error_ratio)), numeric(ms((version.red["1m"] ?? none).p99_ms)),
      numeric(count(version.in_flight)),
      numeric(`${version.endpoints.filter((one) => !isOff(one)).length} of ${version.endpoints.length}`, version.endpoints.some(isOff)),
      h("span", { class: "buttons" }, ofVersion(service, version)),
    ],
  }));
  const all = clients(service);
  rows.push({ key: "clients", kind: "total", cells: ["Clients", numeric(""), numeric(""), ...red(all), numeric(percent(clients(service, "1m").error_ratio)), numeric(ms(clients(service, "1m").p99_ms)), numeric(""), numeric(""), ""] });
  return section("versions", "Versions", ["Version", "Share", "Wanted", "Req/s", "Errors", "p50", "p99", "Errors 1m", "p99 1m", "In flight", "Usable", "Actions"], rows);
}

function charts(service) {
  const series = current();
  if (!series) return null;
  const of = (field) => [
    ...service.versions.filter((version) => series.versions[version.name]).map((version) => ({ name: version.name, role: role(service, version.name), values: series.versions[version.name][field] })),
    { name: "clients", role: "clients", values: series.clients[field] },
  ];
  return h("section", { class: "panel", key: "charts", "aria-labelledby": "charts-title" },
    h("h2", { id: "charts-title" }, "The last minutes"),
    h("div", { class: "charts" },
      lines({ title: "Requests per second", lines: of("rate"), show: rate }),
      lines({ title: "Errors", lines: of("error_ratio"), show: percent, least: 0.01 }),
      lines({ title: "Median duration", lines: of("p50_ms"), show: ms }),
      lines({ title: "99th percentile", lines: of("p99_ms"), show: ms })));
}

/** What keeps an endpoint from its full share, in words. */
function condition(endpoint) {
  const parts = [];
  if (["down", "unproven"].includes(endpoint.health)) parts.push(`${endpoint.health}${endpoint.since ? ` for ${ago(endpoint.since)}` : ""}`);
  if (endpoint.ejected != null) parts.push(`ejected for another ${endpoint.ejected}s`);
  if (endpoint.draining) parts.push("draining");
  if (!parts.length) parts.push(endpoint.health === "unchecked" ? "no health check" : endpoint.health);
  if (endpoint.ramp !== "100%") parts.push(`slow start at ${endpoint.ramp}`);
  return parts.join(", ");
}

function endpoints(service) {
  const rows = service.versions.flatMap((version) => version.endpoints.map((endpoint) => ({
    key: `${version.name} ${endpoint.address}`,
    kind: isOff(endpoint) ? "bad" : "",
    cells: [
      h("code", null, endpoint.address), h("b", { class: `name ${role(service, version.name)}` }, version.name),
      [mark(isOff(endpoint) ? "bad" : endpoint.ramp !== "100%" ? "info" : "ok"), condition(endpoint)],
      endpoint.reason ?? "", endpoint.since ? clock(endpoint.since) : "–",
      numeric(count(endpoint.active)), numeric(count(endpoint.streams)), numeric(count(endpoint.weight)),
      h("span", { class: "buttons" }, ofEndpoint(service, version, endpoint)),
    ],
  })));
  return rows.length ? section("endpoints", "Endpoints", ["Endpoint", "Version", "State", "Last failed check", "Since", "In flight", "Streams", "Weight", "Actions"], rows) : null;
}

function errors(service) {
  if (!service.new_errors?.length) return null;
  const rows = service.new_errors.map((group) => ({
    key: `${group.version} ${group.path} ${group.status} ${group.reason}`,
    cells: [h("code", null, group.path), group.version, numeric(group.status), group.reason, numeric(count(group.count)), h("code", null, group.samples.join(" "))],
  }));
  return section("errors", "Errors that stable doesn't have", ["Path", "Version", "Status", "Reason", "Count", "Request IDs"], rows);
}

function mirror(service) {
  const found = service.mirror;
  if (!found) return null;
  const outcomes = Object.entries(found.outcomes).map(([name, number]) => `${name} ${count(number)}`).join(" · ");
  const kinds = found.kinds.map((kind) => `${kind.kind} ${count(kind.count)}`).join(" · ");
  const rows = found.differences.map((one) => ({
    key: one.id,
    cells: [h("code", null, `${one.method} ${one.path}`), clock(one.at), one.version,
      h("ul", { class: "plain" }, one.findings.map((finding, at) => h("li", { key: at }, h("b", null, finding.kind), ": ", h("code", null, finding.live), " became ", h("code", null, finding.copy))))],
  }));
  return section("mirror", `Mirror to ${found.to}: ${found.share} of the requests`, ["Request", "At", "Served by", "Differences"], rows, `${outcomes}${kinds ? `. Differences: ${kinds}` : ""}`);
}

function conversion(one) {
  return one ? `${percent(one.ratio)} (${percent(one.low)} to ${percent(one.high)}, ${count(one.reached)} of ${count(one.requests)})` : "–";
}

function flags(service) {
  if (!service.flags?.length) return null;
  const rows = service.flags.map((flag) => ({
    key: flag.name,
    cells: [flag.name, numeric(flag.rollout ? `${flag.share} (rollout)` : flag.share), flag.when ?? "", numeric(count(flag.requests.on)), numeric(count(flag.requests.off)),
      h("ul", { class: "plain" }, Object.entries(flag.goals ?? {}).map(([goal, states]) => h("li", { key: goal }, `${goal}: on ${conversion(states.on)}, off ${conversion(states.off)}`))),
      h("span", { class: "buttons" }, ofFlag(service, flag))],
  }));
  return section("flags", "Flags", ["Flag", "Share", "Always on when", "On", "Off", "Goals", "Actions"], rows);
}

function goals(service) {
  const names = [...new Set(service.versions.flatMap((version) => Object.keys(version.goals ?? {})))];
  if (!names.length) return null;
  const rows = names.map((name) => ({ key: name, cells: [name, ...service.versions.map((version) => conversion(version.goals?.[name]))] }));
  return section("goals", "Goals", ["Goal", ...service.versions.map((version) => version.name)], rows, "Share of the requests that reached the goal, with its interval of 95 %.");
}
