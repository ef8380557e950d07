// What the page knows about the proxy, from the events, and what deserves attention.

import { plural, share } from "./format.js";
import { follow } from "./stream.js";

/** The state of the page. Views read it; only this file changes it. */
export const state = {
  /** The status without its services; null before the first event. */
  proxy: null,
  /** When the status was told, as a time in milliseconds. */
  toldAt: null,
  /** Services by name, in the order of the configuration. */
  services: new Map(),
  /** `connecting`, `live`, `lost` or `refused`. */
  connection: "connecting",
  /** Why the connection is lost, and since when, as a time in milliseconds. */
  why: "",
  lostAt: null,
  /** When another process began to answer, as a time in milliseconds. */
  restartedAt: null,
  /** Counts adopted generations, so that views fetch the history again. */
  adoptions: 0,
};

const listeners = new Set();
let scheduled = false;
let epoch = null;

/** Calls `listener` after changes, at most once a frame. */
export function subscribe(listener) {
  listeners.add(listener);
}

/** Has the page drawn again. */
export function changed() {
  if (scheduled) return;
  scheduled = true;
  const draw = () => {
    scheduled = false;
    for (const listener of listeners) listener();
  };
  // Hidden pages get no frames, but their title tells of problems.
  if (document.hidden) setTimeout(draw, 1000);
  else requestAnimationFrame(draw);
}

/** Sentences for screen readers, about changes of state only. */
export function announce(text) {
  const region = document.getElementById("announcements");
  const line = document.createElement("p");
  line.textContent = text;
  region.append(line);
  while (region.childElementCount > 3) region.firstElementChild.remove();
}

let stream = null;

/** Tries at once what is tried again later otherwise. */
export const retry = () => stream.retry();

/** Follows the proxy's events. */
export function start() {
  stream = follow("/api/v1/events", {
    open: connected,
    lost,
    refused(why) {
      lost(why);
      state.connection = "refused";
    },
    event(type, data, id) {
      noteProcess(id.slice(0, id.lastIndexOf("-")));
      apply(type, data);
      changed();
    },
  });
  setInterval(changed, 1000);
}

function connected() {
  if (state.connection === "lost") announce("Connected again.");
  state.connection = "live";
  state.lostAt = null;
  changed();
}

function lost(why) {
  if (state.connection === "live" || state.connection === "connecting") {
    state.lostAt = Date.now();
    announce("Connection to the proxy lost.");
  }
  state.connection = "lost";
  state.why = why;
  changed();
}

function noteProcess(process) {
  if (epoch !== null && epoch !== process) {
    state.restartedAt = Date.now();
    announce("The proxy has been restarted.");
  }
  epoch = process;
}

function noteProxy(proxy) {
  state.proxy = proxy;
  state.toldAt = Date.now();
}

/** A number of seconds that the proxy told, with the time since then: events don't tell that time has passed. */
export const withElapsed = (seconds) => seconds + (Date.now() - state.toldAt) / 1000;

function apply(type, data) {
  if (type === "status") {
    const { services, ...proxy } = data;
    noteProxy(proxy);
    const before = state.services;
    state.services = new Map(services.map((service) => [service.name, service]));
    for (const service of services) compare(before.get(service.name), service);
  } else if (type === "proxy") {
    noteProxy(data);
  } else if (type === "service") {
    compare(state.services.get(data.name), data);
    state.services.set(data.name, data);
  } else if (type === "removed") {
    state.services.delete(data.name);
  } else if (type === "adopted") {
    state.adoptions += 1;
  }
}

/** Announces what a person would want to hear of a change. */
function compare(before, after) {
  if (!before) return;
  const [was, is] = [before.rollout, after.rollout];
  if (is && (was?.state !== is.state || was?.step !== is.step)) {
    announce(`${after.name}: rollout of ${subject(is)} ${stateWords(is)}${is.reason ? `, ${is.reason}` : ""}.`);
  }
  if (JSON.stringify(before.split.effective) !== JSON.stringify(after.split.effective) && !is) {
    announce(`${after.name}: ${Object.entries(after.split.effective).map(([v, s]) => `${v} ${s}`).join(", ")}.`);
  }
}

/** Computes `of` once for each description of a service: an event brings a new one. */
function once(of) {
  const known = new WeakMap();
  return (service) => {
    let found = known.get(service);
    if (found === undefined) known.set(service, (found = of(service)));
    return found;
  };
}

/** What follows the rollout: a version or a flag. */
export function subject(rollout) {
  return rollout.flag ? `flag ${rollout.flag}` : rollout.version;
}

/** Whether a rollout has not ended. */
export function isRunning(rollout) {
  return Boolean(rollout) && !["done", "aborted", "rolled-back"].includes(rollout.state);
}

/** The state of a rollout in words. */
export function stateWords(rollout) {
  switch (rollout.state) {
    case "step": return `at step ${rollout.step} of ${rollout.steps}`;
    case "held": return `held at step ${rollout.step} of ${rollout.steps}`;
    case "awaiting-approval": return "awaits approval";
    case "rolled-back": return "rolled back";
    default: return rollout.state;
  }
}

/** Whether an endpoint gets no requests. */
export function isOff(endpoint) {
  return endpoint.health === "down" || endpoint.health === "unproven" || endpoint.ejected != null || endpoint.draining;
}

const NOTHING = { rate: 0, error_ratio: 0, p50_ms: null, p99_ms: null };

/** What the clients of a service get over a window: `10s` or `1m`. */
export const clients = (service, window = "10s") => service.clients?.[window] ?? NOTHING;

/** What deserves attention in a service, the worst first: {level, text} with the level `bad`, `warn` or `info`. */
export const findings = once(inspect);

function inspect(service) {
  const found = [];
  const add = (level, text) => found.push({ level, text });
  for (const version of service.versions) {
    const off = version.endpoints.filter(isOff).length;
    const gets = share(service.split.desired[version.name]);
    if (off && off === version.endpoints.length && (gets ?? 1) > 0) add("bad", `${version.name}: no usable endpoint`);
    else if (off) add("warn", `${version.name}: ${off} of ${version.endpoints.length} endpoints off`);
  }
  const { rollout } = service;
  if (rollout) {
    const text = `${subject(rollout)} ${stateWords(rollout)}`;
    const why = rollout.reason ? `${text}: ${rollout.reason}` : text;
    if (rollout.state === "rolled-back") add("bad", why);
    else if (rollout.state === "aborted") add("warn", why);
    else if (["held", "paused", "waiting", "awaiting-approval"].includes(rollout.state)) add("warn", why);
    else if (rollout.state !== "done") add("info", why);
    for (const warning of rollout.warnings ?? []) add("warn", warning);
  }
  const now = clients(service);
  if (now.rate > 0 && now.error_ratio >= 0.05) add("bad", "many requests fail");
  else if (now.rate > 0 && now.error_ratio >= 0.01) add("warn", "requests fail");
  for (const version of service.awaiting) add("warn", `${version} awaits a passing health check`);
  for (const warning of service.warnings) add("warn", warning);
  if (service.new_errors?.length) add("warn", `${plural(service.new_errors.length, "kind")} of errors that stable doesn't have`);
  const order = { bad: 0, warn: 1, info: 2 };
  return found.sort((a, b) => order[a.level] - order[b.level]);
}

/** How urgent the findings of a service are: 0 bad, 1 warn, 2 info, 3 none. */
export function urgency(found) {
  return found.length ? { bad: 0, warn: 1, info: 2 }[found[0].level] : 3;
}
