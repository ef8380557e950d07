// Changes: each opens a dialog that says what will happen, and closes only after the proxy's answer was shown.

import { ApiError, of, post } from "./api.js";
import { h, render } from "./dom.js";
import { announce, isRunning, subject } from "./store.js";

const box = document.getElementById("action-dialog");

/** What the open dialog shows; null while none is open. */
let open = null;
let opener = null;

function show() {
  render(box, open ? view() : []);
}

function close() {
  open = null;
  box.close();
  show();
  if (opener?.isConnected) opener.focus();
}

box.addEventListener("cancel", (event) => {
  event.preventDefault();
  if (!open?.isBusy) close();
});

/**
 * Opens a dialog. `fields` are {name, label, kind, value, options, hint}; `plan` takes the values and resolves to lines that say what
 * would change; `run` takes the values and resolves to what happened, in words.
 */
function ask(action) {
  opener = document.activeElement;
  const values = Object.fromEntries((action.fields ?? []).map((field) => [field.name, field.value ?? ""]));
  open = { ...action, values, plan_lines: null, error: null, done: null, isBusy: false };
  show();
  box.showModal();
  if (action.plan && !action.fields?.length) preview();
}

async function attempt(work) {
  const asked = open;
  asked.isBusy = true;
  asked.error = null;
  show();
  try {
    await work(asked);
  } catch (error) {
    asked.error = error instanceof ApiError ? error.message : "The proxy does not answer. Whether the change was made is not known.";
    announce(`Refused: ${asked.error}`);
  }
  asked.isBusy = false;
  if (open !== asked) return;
  show();
  // The button that was pressed may be gone.
  if (!box.contains(document.activeElement) || document.activeElement === box) box.querySelector("[data-next]")?.focus();
}

const preview = () => attempt(async (asked) => {
  asked.plan_lines = await asked.plan(asked.values);
});

const carryOut = () => attempt(async (asked) => {
  asked.done = await asked.run(asked.values);
  announce(asked.done);
});

function submit(event) {
  event.preventDefault();
  if (open.isBusy) return;
  if (open.done) close();
  else if (open.plan && open.plan_lines === null) preview();
  else carryOut();
}

function view() {
  const needsPlan = open.plan && open.plan_lines === null;
  const next = open.done ? "Close" : needsPlan ? "Show the plan" : open.verb;
  return h("form", { method: "dialog", onsubmit: submit, "aria-busy": open.isBusy ? "true" : "false" },
    h("h2", { id: "action-title" }, open.title),
    open.text && h("p", { key: "text" }, open.text),
    !open.done && (open.fields ?? []).map((field, at) => input(field, at === 0)),
    open.plan_lines && !open.done && h("div", { class: "plan", key: "plan" },
      h("h3", null, "Plan"),
      h("ul", null, open.plan_lines.map((line, at) => h("li", { key: at, class: line.kind }, line.text)))),
    open.error && h("p", { class: "refusal", key: "error", role: "alert" }, open.error),
    open.done && h("p", { class: "done", key: "done" }, open.done),
    h("div", { class: "buttons", key: "buttons" },
      !open.done && h("button", { type: "button", key: "cancel", onclick: close }, "Cancel"),
      h("button", { type: "submit", key: "next", "data-next": true, class: open.isDangerous ? "primary danger" : "primary", disabled: open.isBusy, autofocus: !open.fields?.length }, open.isBusy ? "Working …" : next)));
}

function input(field, isFirst) {
  const id = `field-${field.name}`;
  const change = (event) => {
    open.values[field.name] = event.target.type === "checkbox" ? event.target.checked : event.target.value;
    // Another value has another plan.
    open.plan_lines = null;
    show();
  };
  const common = { id, oninput: change, autofocus: isFirst, "aria-describedby": field.hint ? `${id}-hint` : null };
  const hint = field.hint && h("p", { class: "hint", id: `${id}-hint` }, field.hint);
  if (field.kind === "check") return h("p", { key: field.name, class: "check" }, h("input", { ...common, type: "checkbox" }), h("label", { for: id }, field.label), hint);
  const control = field.options
    ? h("select", { ...common, value: open.values[field.name] }, field.options.map((option) => h("option", { key: option, value: option }, option)))
    : h("input", { ...common, type: "text", value: field.value ?? "", autocomplete: "off", spellcheck: "false", required: !field.isOptional });
  return h("div", { key: field.name, class: "field" }, h("label", { for: id }, field.label), control, hint);
}

/** The lines of a plan, as the API answers a dry run or an undo that is only planned. */
function planned(report) {
  const lines = [];
  const add = (kind, texts) => {
    for (const text of texts ?? []) lines.push({ kind, text: text.text ?? text });
  };
  const plan = report.plan ?? report;
  add("change", plan.changes);
  for (const service of plan.services ?? []) {
    add("change", service.changes);
    add("effect", service.moves?.map((move) => `${move.users} of the users move from ${move.from} to ${move.to}`));
    add("effect", service.flags?.map((move) => `${move.users} of the users ${move.gain ? "gain" : "lose"} ${move.flag}`));
    add("effect", service.open?.filter((one) => one.requests + one.streams > 0).map((one) => `${one.version} has ${one.requests} requests and ${one.streams} streams in flight${one.leaving ? `, ${one.leaving} of them on endpoints that leave` : ""}`));
    add("effect", service.awaits);
    add("warn", service.warnings);
  }
  add("warn", plan.restart?.map((key) => `${key} takes effect only after a restart`));
  add("warn", plan.warnings);
  return lines.length ? lines : [{ kind: "effect", text: "Nothing would change." }];
}

function button(text, action, key = text) {
  return h("button", { type: "button", key, onclick: () => ask(action()) }, text);
}

/** An edit of the file: planned by a dry run, then made. */
function edit(path, body, rest) {
  return {
    ...rest,
    plan: async (values) => planned(await post(`${path(values)}?dry_run=true`, body(values))),
    run: async (values) => {
      const report = await post(path(values), body(values));
      return report.changed === false ? "Nothing changed." : `Done: generation ${report.generation} is running.`;
    },
  };
}

/** `25` means 25 %. */
const asShare = (text) => (/^\d+(\.\d+)?$/.test(text.trim()) ? `${text.trim()}%` : text.trim());
const list = (text) => text.split(/[\s,]+/).filter(Boolean);

/** Buttons of a service. */
export function ofService(service) {
  const others = service.versions.map((version) => version.name).filter((name) => name !== service.stable);
  if (!others.length) return [];
  return [
    button("Shift …", () => edit(() => of(service.name, "split"), ({ version, share }) => ({ [version]: asShare(share) }), {
      title: `Shift traffic of ${service.name}`,
      verb: "Shift",
      fields: [
        { name: "version", label: "Version", options: others, value: others[0] },
        { name: "share", label: "Share", value: service.split.effective[others[0]] ?? "0%", hint: `Of all traffic, such as 25%. ${service.stable} gets the rest. “rollout” follows the plan of the service, “stable” makes it the stable version.` },
      ],
    })),
    button("Deploy …", () => ({
      title: `Deploy to ${service.name}`,
      text: "Sets the endpoints and the label of a version, and starts what the service says: its rollout, or the cut-over after the health check.",
      verb: "Deploy",
      fields: [
        { name: "version", label: "Version", options: others, value: others[0] },
        { name: "endpoints", label: "Endpoints", isOptional: true, value: service.versions.find((version) => version.name === others[0]).endpoints.map((one) => one.address).join(", "), hint: "Separated by commas. Empty keeps the present ones." },
        { name: "label", label: "Label", isOptional: true, value: "", hint: "Such as 1.4.2. Empty keeps the present one." },
      ],
      plan: async ({ version, endpoints, label }) => {
        const body = {};
        if (list(endpoints).length) body.endpoints = list(endpoints);
        if (label.trim()) body.label = label.trim();
        const start = { kind: "effect", text: `then starts the rollout or the cut-over of ${version}` };
        if (!Object.keys(body).length) return [start];
        return [...planned(await post(`${of(service.name, "versions", version)}?dry_run=true`, body)), start];
      },
      run: async ({ version, endpoints, label }) => {
        const report = await post(of(service.name, "deploy"), {
          version,
          ...(list(endpoints).length && { endpoints: list(endpoints) }),
          ...(label.trim() && { label: label.trim() }),
        });
        return `Done: generation ${report.generation} is running.`;
      },
    })),
  ];
}

const VERBS = {
  pause: ["Pause", "The rollout keeps its share and its clock stops. The guard keeps watching."],
  resume: ["Resume", "The rollout goes on where it was paused."],
  approve: ["Approve", "The rollout goes on with the next step."],
  promote: ["Promote", "The version becomes stable, in the configuration file."],
  abort: ["Abort", "All traffic goes back to stable at once."],
  retry: ["Retry", "The rollout begins again with the first step."],
};

/** Buttons of a rollout: what its state allows. */
export function ofRollout(service) {
  const { rollout } = service;
  const verbs = [];
  if (rollout.state === "awaiting-approval") verbs.push("approve");
  if (rollout.state === "paused") verbs.push("resume");
  else if (isRunning(rollout)) verbs.push("pause");
  if (isRunning(rollout)) verbs.push("abort");
  if (isRunning(rollout) || rollout.state === "done") verbs.push("promote");
  if (rollout.latched && rollout.state !== "done") verbs.push("retry");
  return verbs.map((verb) => button(`${VERBS[verb][0]} …`, () => ({
    title: `${VERBS[verb][0]} the rollout of ${subject(rollout)}`,
    text: `${VERBS[verb][1]} Service ${service.name}, ${subject(rollout)} at ${rollout.share}.`,
    verb: VERBS[verb][0],
    isDangerous: verb === "abort",
    run: async () => {
      const after = await post(of(service.name, "rollout", verb), { by: "dashboard" });
      return `Done: the rollout is ${after.state}.`;
    },
  }), verb));
}

function drain(service, title, text, body, isDrained) {
  return button(isDrained ? "End drain …" : "Drain …", () => ({
    title: isDrained ? `End the drain of ${title}` : `Drain ${title}`,
    text: isDrained ? "It gets new requests again." : text,
    verb: isDrained ? "End drain" : "Drain",
    isDangerous: !isDrained,
    fields: isDrained ? [] : [{ name: "force", label: "Also if nothing else would answer", kind: "check", value: false }],
    run: async ({ force }) => {
      const sent = isDrained ? body : { ...body, force: force === true };
      const report = await post(of(service.name, "drain"), sent, { method: isDrained ? "DELETE" : "POST" });
      const open = report.endpoints.reduce((sum, one) => sum + one.requests + one.streams, 0);
      return isDrained ? "Done: the drain has ended." : `Done: ${open} requests and streams are still in flight.`;
    },
  }), "drain");
}

/** Buttons of a version. */
export function ofVersion(service, version) {
  const isDrained = version.endpoints.length > 0 && version.endpoints.every((one) => one.draining);
  return [drain(service, version.name, "None of its endpoints gets new requests; those in flight finish.", { version: version.name }, isDrained)];
}

/** Buttons of an endpoint. */
export function ofEndpoint(service, version, endpoint) {
  const body = { version: version.name, endpoint: endpoint.address };
  return [drain(service, endpoint.address, "It gets no new requests; those in flight finish.", body, endpoint.draining)];
}

/** Buttons of a flag. */
export function ofFlag(service, flag) {
  return [button("Change …", () => edit(() => of(service.name, "flags"), ({ share }) => ({ [flag.name]: asShare(share) }), {
    title: `Change the flag ${flag.name}`,
    verb: "Change",
    fields: [{ name: "share", label: "Share of the users", value: flag.share, hint: "Such as 25%. “rollout” follows the plan of the service." }],
  }))];
}

/** A button that goes back to a generation; without one it takes back the last change. */
export function ofGeneration(generation) {
  return button(generation ? "Go back …" : "Undo the last change …", () => {
    let expected = null;
    return {
      title: generation ? `Go back to generation ${generation}` : "Undo the last change",
      verb: generation ? "Go back" : "Undo",
      plan: async () => {
        const report = await post("/api/v1/undo", { ...(generation && { generation }), plan: true });
        expected = report.running;
        return planned(report);
      },
      run: async () => {
        // Refused if another text runs than the one that the plan was made for.
        const report = await post("/api/v1/undo", { ...(generation && { generation }), running: expected });
        return `Done: the text of generation ${report.to} runs again, as generation ${report.generation}.`;
      },
    };
  }, generation ?? "undo");
}
