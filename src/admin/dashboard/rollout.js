// The rollout of a service: its steps with their clock, the evidence against the threshold, and when a verdict is in sight.

import { h } from "./dom.js";
import { evidence, interval } from "./charts.js";
import { clock, count, duration, factor, percent } from "./format.js";
import { isRunning, stateWords, subject } from "./store.js";
import { current } from "./series.js";
import { mark } from "./overview.js";

const LEVELS = { "rolled-back": "bad", aborted: "warn", held: "warn", paused: "warn", waiting: "warn", "awaiting-approval": "warn", step: "info", done: "ok" };

/** The panel of a rollout. */
export function panel(service, buttons) {
  const { rollout } = service;
  const level = LEVELS[rollout.state] ?? "info";
  const label = rollout.label ? ` (${rollout.label})` : "";
  return h("section", { class: `panel rollout ${level}`, key: "rollout", "aria-labelledby": "rollout-title" },
    h("header", null,
      h("h2", { id: "rollout-title" }, mark(level), `Rollout of ${subject(rollout)}${label}: ${stateWords(rollout)}`),
      h("div", { class: "buttons" }, buttons)),
    rollout.reason && h("p", { class: `reason ${level}`, key: "reason" }, rollout.reason),
    h("p", { class: "hint", key: "since" }, `Since ${clock(rollout.since)}. Reached share ${rollout.share}.${rollout.latched ? " It begins again only by a retry or with a changed plan." : ""}`),
    rollout.fleet && h("p", { class: "hint", key: "fleet" }, fleet(rollout.fleet)),
    rollout.warnings.map((warning, at) => h("p", { class: "reason warn", key: `warning ${at}` }, warning)),
    steps(rollout),
    h("div", { class: "proof", key: "proof" }, curve(rollout), facts(rollout)));
}

/** Who drives a rollout that a fleet shares. */
function fleet(one) {
  const counting = one.counting === 1 ? "1 process" : `${count(one.counting)} processes`;
  if (one.is_driver) return `The fleet shares it. This member drives it in term ${one.term} and adds up the counts of ${counting}.`;
  if (one.driver == null) return "The fleet shares it. No driver is known yet.";
  return `The fleet shares it. ${one.driver} drives it in term ${one.term}.${one.takes_part ? "" : " This member has another plan and keeps to stable."}`;
}

function steps(rollout) {
  const all = Array.from({ length: rollout.steps }, (_, at) => at + 1);
  const isOver = !isRunning(rollout);
  const part = rollout.hold_s ? Math.min(1, rollout.held_s / rollout.hold_s) : 0;
  const left = rollout.hold_s == null ? "ends by approval" : `${duration(rollout.held_s)} of ${duration(rollout.hold_s)}`;
  return h("ol", { class: "steps", key: "steps", "aria-label": "Steps" }, all.map((step) => {
    const isDone = step < rollout.step || rollout.state === "done";
    const isHere = step === rollout.step && rollout.state !== "done";
    const kind = isDone ? "done" : isHere ? (isOver ? "ended" : "here") : "ahead";
    const words = isDone ? "done" : isHere ? (isOver ? stateWords(rollout) : left) : "ahead";
    return h("li", { key: step, class: kind, "aria-current": isHere ? "step" : null },
      h("span", { class: "track", "aria-hidden": "true" }, h("i", { style: { width: isDone ? "100%" : isHere ? `${part * 100}%` : "0" } })),
      h("span", { class: "step" }, h("b", null, isDone ? "✓ " : isHere && isOver ? "✕ " : "", `Step ${step}`), h("span", null, isHere && !isOver ? `${rollout.share} · ${words}` : words)));
  }));
}

function curve(rollout) {
  const known = current()?.evidence ?? {};
  // The series has a value every five seconds, the last one is that of the status.
  const now = Object.entries({ ...rollout.evidence, total: rollout.total_evidence });
  const curves = now.map(([name, value]) => ({ name, values: [...(known[name] ?? []), value], isTotal: name === "total" }));
  return h("figure", { class: "curve" },
    h("figcaption", null, `Evidence that ${subject(rollout)} is worse than stable`),
    evidence({ curves, threshold: rollout.threshold }),
    h("table", { class: "guards" },
      h("thead", null, h("tr", null, h("th", { scope: "col" }, "Guard"), h("th", { scope: "col" }, "Evidence"), h("th", { scope: "col" }, "Rolls back at"))),
      h("tbody", null,
        Object.entries(rollout.evidence).map(([rule, value]) => guard(rule, value, null, rollout.verdict?.guard === rule && rollout.verdict)),
        guard("all together", rollout.total_evidence, rollout.threshold, null))));
}

function guard(name, value, threshold, verdict) {
  return h("tr", { key: name, class: verdict ? "verdict" : "" },
    h("th", { scope: "row" }, name, verdict && ` (verdict: ${verdict.outcome})`),
    h("td", null, factor(Math.max(0, value))),
    h("td", null, threshold == null ? "" : factor(threshold)));
}

function facts(rollout) {
  const { counted, ratio } = rollout;
  const fact = (name, value, note) => h("div", { key: name }, h("dt", null, name), h("dd", null, value, note && h("span", { class: "hint" }, note)));
  const side = (failures, requests) => `${count(failures)} of ${count(requests)}`;
  const part = (failures, requests) => (requests ? percent(failures / requests) : null);
  return h("div", { class: "estimate" },
    h("dl", { class: "facts" },
      fact("Canary failed", side(counted.canary_failures, counted.canary_requests), part(counted.canary_failures, counted.canary_requests)),
      fact("Stable failed", side(counted.stable_failures, counted.stable_requests), part(counted.stable_failures, counted.stable_requests)),
      fact("Verdict", rollout.verdict ? `${rollout.verdict.outcome} (${rollout.verdict.guard})` : "none yet"),
      isRunning(rollout) && fact("Verdict expected", rollout.time_to_verdict_s == null ? "none in sight" : `in ${duration(rollout.time_to_verdict_s)}`,
        rollout.time_to_verdict_p90_s == null ? null : `9 of 10 within ${duration(rollout.time_to_verdict_p90_s)}`)),
    ratio && h("figure", null,
      h("figcaption", null, `Error rate of the canary: ${ratio.ratio.toFixed(2)}× stable's`,
        h("span", { class: "hint" }, ` between ${(ratio.low ?? 0).toFixed(2)}× and ${ratio.high == null ? "∞" : `${ratio.high.toFixed(2)}×`}`)),
      interval(ratio)));
}
