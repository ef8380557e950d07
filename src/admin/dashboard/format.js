// Numbers, durations and times as the page shows them.

const DASH = "–";

/** Requests per second: `0`, `0.4`, `38`, `1.2k`. */
export function rate(value) {
  if (value == null) return DASH;
  if (value >= 999_500) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 9_995) return `${(value / 1e3).toFixed(value >= 99_950 ? 0 : 1)}k`;
  if (value >= 10 || value === 0) return value.toFixed(0);
  return value.toFixed(1);
}

/** A count with separators of thousands. */
export function count(value) {
  return value == null ? DASH : value.toLocaleString("en-US");
}

/** A ratio in 0 to 1 as a percentage: `0%`, `0.03%`, `4.2%`, `38%`. */
export function percent(ratio) {
  if (ratio == null) return DASH;
  const value = ratio * 100;
  if (value === 0) return "0%";
  if (value < 0.01) return "<0.01%";
  if (value < 1) return `${value.toFixed(2)}%`;
  return `${value.toFixed(value < 10 ? 1 : 0)}%`;
}

/** Milliseconds: `0.42 ms`, `5.8 ms`, `142 ms`, `1.4 s`. */
export function ms(value) {
  if (value == null) return DASH;
  if (value === 0) return "0 ms";
  if (value < 1) return `${value.toFixed(2)} ms`;
  if (value < 9.95) return `${value.toFixed(1)} ms`;
  if (value < 999.5) return `${value.toFixed(0)} ms`;
  return `${(value / 1000).toFixed(value < 9950 ? 1 : 0)} s`;
}

/** A duration in seconds: `8s`, `4m 05s`, `3h 20m`, `12d 4h`. */
export function duration(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return DASH;
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m ${String(s % 60).padStart(2, "0")}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}m`;
  return `${Math.floor(s / 86400)}d ${Math.floor((s % 86400) / 3600)}h`;
}

/** How long ago an RFC 3339 time was. */
export function ago(time, now = Date.now()) {
  const then = Date.parse(time ?? "");
  return Number.isNaN(then) ? DASH : duration((now - then) / 1000);
}

/** The clock of an RFC 3339 time, with the date if it isn't today. */
export function clock(time) {
  const at = new Date(time ?? "");
  if (Number.isNaN(at.getTime())) return DASH;
  const two = (n) => String(n).padStart(2, "0");
  const hours = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  if (at.toDateString() === new Date().toDateString()) return hours;
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${hours}`;
}

/** The date of an RFC 3339 time. */
export function day(time) {
  return time ? time.slice(0, 10) : DASH;
}

/** Parses a share such as `12.5%` into a number in 0 to 100; null for words such as `rollout`. */
export function share(text) {
  const value = Number.parseFloat(text);
  return Number.isFinite(value) && String(text).endsWith("%") ? value : null;
}

/** `1 endpoint`, `3 endpoints`. */
export function plural(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}

/** log10 evidence as a factor: `1`, `38`, `1,200`, `10^5.2`. */
export function factor(log10) {
  if (log10 == null) return DASH;
  if (log10 < 4) return count(Number((10 ** log10).toPrecision(2)));
  return `10^${log10.toFixed(1)}`;
}
