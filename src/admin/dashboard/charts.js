// Small charts as SVG. Colours come from the style sheet; every line also has its own dashes, and a text that says what it shows.

import { h } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 84;
const LEFT = 44;
const BOTTOM = 14;
const TOP = 8;

/** A number that is at least `value` and reads well on an axis. */
function ceiling(value) {
  if (!(value > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((n) => n * unit).find((n) => n >= value);
}

/** The path of a line with gaps where values are null. */
function path(values, x, y) {
  let text = "";
  let isOpen = false;
  values.forEach((value, at) => {
    if (value == null) {
      isOpen = false;
      return;
    }
    text += `${isOpen ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    // A point without neighbours would not be visible.
    if (!isOpen && values[at + 1] == null) text += "h.1";
    isOpen = true;
  });
  return text;
}

function axis(x1, x2, y, text) {
  return [
    h("line", { class: "grid", x1, x2, y1: y, y2: y }),
    h("text", { class: "tick", x: LEFT - 5, y: y + 3, "text-anchor": "end" }, text),
  ];
}

/** Steps of 5 s in a minute. */
const STEPS = 12;

/**
 * Cuts off the time before the first value that any line has, in whole minutes, at least two: {all, minutes}. Charts of a young
 * process are not empty at the left.
 */
function sinceFirst(all) {
  const points = Math.max(0, ...all.map((line) => line.values.length));
  const first = Math.min(points, ...all.map((line) => line.values.findIndex((value) => value != null)).filter((at) => at >= 0));
  const minutes = Math.max(2, Math.ceil((points - first) / STEPS));
  return { all: all.map((line) => ({ ...line, values: line.values.slice(-minutes * STEPS) })), minutes };
}

/** The newest value that is known. */
export function latest(values) {
  return values?.findLast((value) => value != null) ?? null;
}

/**
 * Lines over the same minutes. `lines` are {name, values, role} with the role `stable`, `canary` or `clients`; `show` formats a
 * value.
 */
export function lines({ title, lines: given, show, least = 0 }) {
  const { all, minutes } = sinceFirst(given);
  const points = Math.max(2, ...all.map((line) => line.values.length));
  const top = ceiling(Math.max(least, ...all.flatMap((line) => line.values.filter((value) => value != null))));
  const x = (at) => LEFT + (at / (points - 1)) * (WIDTH - LEFT - 4);
  const y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - BOTTOM - TOP);
  const said = all.map((line) => `${line.name} ${show(latest(line.values))}`).join(", ");
  return h("figure", { class: "chart", key: title },
    h("figcaption", null, h("span", null, title),
      ...all.map((line) => h("span", { class: `legend ${line.role}` },
        h("i", { "aria-hidden": "true" }), line.name, " ", h("b", null, show(latest(line.values)))))),
    h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}, last ${minutes} minutes. Now: ${said}.` },
      axis(LEFT, WIDTH - 4, y(0), show(0)),
      axis(LEFT, WIDTH - 4, y(top / 2), show(top / 2)),
      axis(LEFT, WIDTH - 4, y(top), show(top)),
      h("text", { class: "tick", x: LEFT, y: HEIGHT - 2 }, `−${minutes} min`),
      h("text", { class: "tick", x: WIDTH - 4, y: HEIGHT - 2, "text-anchor": "end" }, "now"),
      ...all.map((line) => h("path", { class: `line ${line.role}`, d: path(line.values, x, y) }))));
}

/** Letters keep their size on narrow screens. */
const width = () => (innerWidth < 700 ? 340 : 640);

/** A power of ten for the axis of the evidence. */
function power(log10) {
  return log10 === 0 ? "1" : log10 < 4 ? (10 ** log10).toLocaleString("en-US") : `10^${log10}`;
}

/**
 * The evidence against a canary over time: log10 on the axis, with the line at which it is rolled back. `curves` are {name,
 * values, isTotal}; evidence below 1 is drawn at the lower edge.
 */
export function evidence({ curves: given, threshold }) {
  const { all: curves, minutes } = sinceFirst(given);
  const wide = width();
  const high = 190;
  const left = 58;
  const points = Math.max(2, ...curves.map((curve) => curve.values.length));
  const known = curves.flatMap((curve) => curve.values.filter((value) => value != null));
  const top = Math.ceil(Math.max(threshold + 0.5, ...known));
  const bottom = -1;
  const x = (at) => left + (at / (points - 1)) * (wide - left - 8);
  const y = (value) => high - 20 - ((Math.max(value, bottom) - bottom) / (top - bottom)) * (high - 32);
  const step = Math.max(1, Math.ceil((top - bottom) / 6));
  const marks = [];
  for (let mark = 0; mark <= top; mark += step) marks.push(mark);
  const total = curves.find((curve) => curve.isTotal);
  const now = latest(total?.values);
  const said = now == null ? "nothing yet" : `${(10 ** (now - threshold) * 100).toPrecision(2)} percent of what a rollback takes`;
  return h("svg", { class: "evidence", viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": `Evidence against the canary on a logarithmic scale. Now: ${said}.` },
    ...marks.map((mark) => [
      h("line", { class: "grid", x1: left, x2: wide - 8, y1: y(mark), y2: y(mark) }),
      h("text", { class: "tick", x: left - 7, y: y(mark) + 4, "text-anchor": "end" }, power(mark)),
    ]),
    h("rect", { class: "danger", x: left, width: wide - 8 - left, y: y(top), height: Math.max(0, y(threshold) - y(top)) }),
    h("line", { class: "threshold", x1: left, x2: wide - 8, y1: y(threshold), y2: y(threshold) }),
    h("text", { class: "threshold-name", x: left + 6, y: y(threshold) - 5 }, "rolls back here"),
    h("text", { class: "tick", x: left, y: high - 4 }, `−${minutes} min`),
    h("text", { class: "tick", x: wide - 8, y: high - 4, "text-anchor": "end" }, "now"),
    ...curves.map((curve) => h("path", { class: curve.isTotal ? "line total" : "line rule", d: path(curve.values, x, y) })),
    now == null ? null : h("circle", { class: "now", cx: x(points - 1), cy: y(now), r: 4 }));
}

/** A ratio with its interval on a log scale from 0.1 to 10, with the line of equality. */
export function interval({ ratio, low, high }) {
  const wide = width();
  const at = (value) => 58 + ((Math.log10(Math.min(10, Math.max(0.1, value))) + 1) / 2) * (wide - 66);
  return h("svg", { class: "interval", viewBox: `0 0 ${wide} 44`, role: "img", "aria-label": `Error rate of the canary divided by stable's: ${ratio.toFixed(2)}, between ${low == null ? "0" : low.toFixed(2)} and ${high == null ? "unlimited" : high.toFixed(2)}.` },
    ...[0.1, 0.3, 1, 3, 10].map((mark) => [
      h("line", { class: mark === 1 ? "equal" : "grid", x1: at(mark), x2: at(mark), y1: 4, y2: 28 }),
      h("text", { class: "tick", x: at(mark), y: 41, "text-anchor": "middle" }, `${mark}×`),
    ]),
    h("line", { class: "whisker", x1: at(low ?? 0.1), x2: at(high ?? 10), y1: 16, y2: 16 }),
    h("circle", { class: "estimate", cx: at(ratio), cy: 16, r: 5 }));
}
