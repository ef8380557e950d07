// Builds and updates parts of the page. A view describes what it wants to see; `render` changes only what differs, so that focus,
// selection and scroll positions survive live updates. Text enters the page as text nodes and attribute values only.

const SVG = "http://www.w3.org/2000/svg";

/** The description that a node was last made to match. */
const described = new WeakMap();

/** Event handlers of a node by event name. */
const handlers = new WeakMap();

/** Describes an element. Children are descriptions, strings, numbers, or arrays of these; null and false are left out. */
export function h(tag, attributes, ...children) {
  const { key = null, ...rest } = attributes ?? {};
  return { tag, key, attributes: rest, children: flat(children) };
}

function flat(children) {
  const found = [];
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === true) continue;
    found.push(typeof child === "object" ? child : String(child));
  }
  return found;
}

/** Makes the children of `root` match the descriptions, and keeps the focus where it was. */
export function render(root, wanted) {
  const focused = document.activeElement;
  patch(root, flat([wanted]), root.namespaceURI === SVG);
  if (focused && focused !== document.activeElement && focused.isConnected && root.contains(focused)) {
    // An element that is moved loses the focus.
    focused.focus({ preventScroll: true });
  }
}

function patch(parent, wanted, isSvg) {
  const keyed = new Map();
  const keys = new Set();
  for (const want of wanted) if (want.key != null) keys.add(want.key);
  for (const node of [...parent.childNodes]) {
    const key = described.get(node)?.key;
    if (key == null) continue;
    if (keys.has(key)) keyed.set(key, node);
    else node.remove();
  }
  let cursor = parent.firstChild;
  for (const want of wanted) {
    let node = want.key == null ? cursor : keyed.get(want.key);
    if (node && !fits(node, want)) node = null;
    if (!node) {
      parent.insertBefore(create(want, isSvg), cursor);
      continue;
    }
    if (node === cursor) cursor = cursor.nextSibling;
    else parent.insertBefore(node, cursor);
    update(node, want, isSvg);
  }
  while (cursor) {
    const next = cursor.nextSibling;
    cursor.remove();
    cursor = next;
  }
}

function fits(node, want) {
  if (typeof want === "string") return node.nodeType === Node.TEXT_NODE;
  const before = described.get(node);
  return before !== undefined && before.tag === want.tag && before.key === want.key;
}

function create(want, isSvg) {
  if (typeof want === "string") return document.createTextNode(want);
  const inSvg = isSvg || want.tag === "svg";
  const node = inSvg ? document.createElementNS(SVG, want.tag) : document.createElement(want.tag);
  described.set(node, { tag: want.tag, key: want.key, attributes: {} });
  update(node, want, inSvg);
  return node;
}

function update(node, want, isSvg) {
  if (typeof want === "string") {
    if (node.nodeValue !== want) node.nodeValue = want;
    return;
  }
  const before = described.get(node).attributes;
  // Children come first: a select takes its value only once it has its options.
  patch(node, want.children, isSvg || want.tag === "svg");
  for (const name of Object.keys(before)) {
    if (!(name in want.attributes)) assign(node, name, null, before[name]);
  }
  for (const [name, value] of Object.entries(want.attributes)) assign(node, name, value, before[name]);
  described.set(node, want);
}

function assign(node, name, value, before) {
  if (name.startsWith("on")) {
    listen(node, name.slice(2), value);
  } else if (name === "style") {
    restyle(node, value ?? {}, before ?? {});
  } else if (value === before) {
    return;
  } else if (name === "value" || name === "checked" || name === "indeterminate") {
    // Only a new description overrides what was typed.
    node[name] = value ?? "";
  } else if (value === null || value === undefined || value === false) {
    node.removeAttribute(name);
  } else {
    node.setAttribute(name, value === true ? "" : String(value));
  }
}

function restyle(node, wanted, before) {
  for (const name of Object.keys(before)) if (!(name in wanted)) node.style.removeProperty(name);
  for (const [name, value] of Object.entries(wanted)) {
    if (before[name] !== value) node.style.setProperty(name, value);
  }
}

function listen(node, event, handler) {
  let known = handlers.get(node);
  if (!known) handlers.set(node, (known = new Map()));
  if (!known.has(event)) node.addEventListener(event, (what) => handlers.get(node).get(event)?.(what));
  known.set(event, handler);
}
