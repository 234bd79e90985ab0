// Elements are made once and then changed in place, so that focus, hover and open details survive every tick.

function make(what, attributes, ...children) {
  const [tag, ...classes] = what.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

const keptParts = new WeakMap();

// One child of `parent` for each item: `create` gives {node, update}, `update` gets the item each time.
function keyed(parent, items, keyOf, create) {
  const old = keptParts.get(parent) || new Map();
  const parts = new Map();
  for (const item of items) {
    let key = String(keyOf(item));
    while (parts.has(key)) key += "+";
    parts.set(key, old.get(key) || create(item));
    old.delete(key);
    parts.get(key).update(item);
  }
  for (const part of old.values()) part.node.remove();
  let next = parent.firstChild;
  for (const { node } of parts.values()) {
    if (node === next) next = next.nextSibling;
    else parent.insertBefore(node, next);
  }
  keptParts.set(parent, parts);
}

// Rows of plain cells. `head`: the columns' names; `row` makes {cells, update}, the first cell is the row's heading.
function table(label, head, row) {
  const titles = head.map((name) => make("th", { scope: "col" }, name));
  const body = make("tbody");
  const node = make("div.wide", null,
    make("table", { "aria-label": label }, make("thead", null, make("tr", null, ...titles)), body));
  const create = (item) => {
    const { cells, update } = row(item);
    const boxes = cells.map((cell, n) => make(n ? "td" : "th", n ? null : { scope: "row" }, cell));
    return { node: make("tr", null, ...boxes), update };
  };
  return { node, update: (items, keyOf) => keyed(body, items, keyOf, create) };
}

function section(name, ...children) {
  const heading = make("h3", null, name);
  const none = make("p.dim", null, "none");
  const node = make("section", { role: "region", "aria-label": name }, heading, none, ...children);
  const count = (n, text) => {
    put(heading, n ? `${name} (${text || number(n)})` : name);
    none.hidden = n > 0;
    for (const child of children) child.hidden = !n;
  };
  return { node, count };
}

function stateMark() {
  const text = make("span");
  const node = make("span.state", null, make("i.dot", { "aria-hidden": "true" }), text);
  return {
    node,
    update(state, words) {
      mark(node, "data-tone", tone(state));
      put(text, words || state);
    },
  };
}

function tone(state) {
  if (/^(started|running|connected|completed)/.test(state)) return "ok";
  if (/^(failed|dead|compensation_failed|blocked)/.test(state)) return "bad";
  if (/^(connecting|reconnecting|stopping|held|partially|cut off|offline)/.test(state)) return "warn";
  return "idle";
}

const wholeNumbers = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const known = (value) => typeof value === "number" && Number.isFinite(value);
const two = (n) => String(n).padStart(2, "0");

function number(n) {
  if (!known(n)) return "–";
  return n < 1e10 ? wholeNumbers.format(n) : `${short(n)}`;
}

function short(n) {
  for (const [size, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (n >= size) return `${+(n / size).toPrecision(3)} ${letter}`;
  }
  return n >= 100 ? n.toFixed(0) : String(+n.toFixed(n < 1 ? 2 : 1));
}

function rate(n) {
  if (!known(n)) return "–";
  return n >= 1000 ? `${short(n)}/s` : `${n && n < 100 ? n.toFixed(n < 1 ? 2 : 1) : n.toFixed(0)}/s`;
}

function span(s) {
  if (!known(s)) return "–";
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 120) return `${s.toFixed(s < 10 ? 1 : 0)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min ${two(Math.floor(s % 60))} s`;
  return s < 172800 ? `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min` : `${Math.floor(s / 86400)} days`;
}

function clock(at, seconds = true) {
  const time = new Date(at * 1000);
  return `${two(time.getHours())}:${two(time.getMinutes())}${seconds ? `:${two(time.getSeconds())}` : ""}`;
}

function dated(at) {
  if (!known(at)) return "–";
  const time = new Date(at * 1000);
  const day = `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
  return time.toDateString() === new Date().toDateString() ? clock(at) : `${day} ${clock(at)}`;
}

const plural = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;
