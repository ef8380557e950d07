// Listeners, certificates with their expiry, and the process.

import { h } from "./dom.js";
import { count, clock, day, duration } from "./format.js";
import { withElapsed, state } from "./store.js";
import { mark } from "./overview.js";
import { section } from "./service.js";

const SOON_S = 7 * 86400;
const NEAR_S = 21 * 86400;

export function draw() {
  const { proxy } = state;
  const listeners = proxy.listeners.map((one) => ({ key: one.name, cells: [one.name, h("code", null, one.address), { value: count(one.connections), kind: "number" }] }));
  const sorted = [...proxy.certificates].sort((a, b) => (a.expires_in_s ?? Infinity) - (b.expires_in_s ?? Infinity));
  return [
    h("h1", { key: "title" }, "Listeners and certificates"),
    section("listeners", "Listeners", ["Listener", "Address", "Open connections"], listeners),
    sorted.length ? section("certificates", "Certificates", ["Certificate", "Used by", "State", "Valid from", "Valid until", "File"], sorted.map(certificate)) : h("p", { class: "hint", key: "none" }, "No certificate is configured."),
    proxy.fleet && fleet(proxy.fleet),
    h("section", { class: "panel", key: "process", "aria-labelledby": "process-title" },
      h("h2", { id: "process-title" }, "Process"),
      h("dl", { class: "facts" },
        fact("Version", proxy.version), fact("Process ID", proxy.pid), fact("Phase", proxy.phase), fact("Up for", duration(withElapsed(proxy.uptime_s))),
        fact("Generation", `${proxy.generation} (adopted: ${proxy.adopted})`), fact("Published", clock(proxy.config.published)),
        fact("File", h("code", null, proxy.config.path)), fact("Hash", h("code", null, proxy.config.hash)))),
  ];
}

function fleet(one) {
  const link = one.connected ? [mark("ok"), `connected to etcd at ${one.endpoint}`] : [mark("warn"), `alone for ${duration(withElapsed(one.alone_s ?? 0))}; the members are those it saw last`];
  const rows = one.members.map((member) => ({ key: member.name, cells: [member.name === one.member ? `${member.name} (this one)` : member.name, member.version] }));
  const note = [link, one.error && h("span", { class: "reason bad" }, ` ${one.error}`)];
  const config = one.config && h("p", { class: "hint", key: "config" }, `Shared tables: ${one.config.key}, revision ${one.config.revision}${one.config.by ? ` by ${one.config.by}` : ""}`,
    one.config.error && h("span", { class: "reason bad" }, ` newer ones are refused: ${one.config.error}`));
  const disagreements = one.disagreements.map((text) => h("p", { class: "hint", key: text }, mark("warn"), ` ${text}`));
  return [section("fleet", `Fleet ${one.name}`, ["Member", "Program"], rows, note), config, disagreements, drivers()];
}

/** Who drives the rollouts that the fleet shares. */
function drivers() {
  const shared = [...state.services.values()].filter((service) => service.rollout?.fleet);
  if (!shared.length) return null;
  const rows = shared.map(({ name, rollout: { fleet } }) => ({
    key: name,
    cells: [name, fleet.is_driver ? `${fleet.driver} (this one)` : fleet.driver ?? "–", { value: count(fleet.term), kind: "number" }, fleet.takes_part ? [mark("ok"), "takes part"] : [mark("warn"), "stable only: another plan"]],
  }));
  return section("drivers", "Shared rollouts", ["Service", "Driver", "Term", "This member"], rows);
}

function fact(name, value) {
  return h("div", { key: name }, h("dt", null, name), h("dd", null, value));
}

function certificate(one) {
  const left = one.expires_in_s;
  const level = one.error || (left != null && left < SOON_S) ? "bad" : left != null && left < NEAR_S ? "warn" : "ok";
  const words = left == null ? "in use" : left < 0 ? `expired ${duration(-left)} ago` : `expires in ${duration(left)}`;
  const owner = one.listener ? `listener ${one.listener}` : `${one.service}, ${one.version}`;
  return {
    key: `${owner} ${one.file} ${one.names.join(" ")}`,
    kind: level,
    cells: [one.names.join(", ") || "–", owner, [mark(level), words, one.error && h("span", { class: "reason bad" }, ` ${one.error} (since ${clock(one.error_since)})`)], day(one.not_before), day(one.not_after), h("code", null, one.file)],
  };
}
