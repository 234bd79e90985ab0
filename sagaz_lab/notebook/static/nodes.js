// Nodes are created once and updated in place, which keeps the focus.

function h(what, ...children) {
  const props = children[0]?.constructor === Object && !children[0].what ? children.shift() : {};
  return { what, props, children: children.flat(2) };
}

function fill(parent, children) {
  const old = parent.made || new Map();
  const made = (parent.made = new Map());
  children.forEach((child, n) => {
    if (!child) return;
    let key = `${child.what} ${child.props?.key ?? n}`;
    while (made.has(key)) key += "+";
    made.set(key, child instanceof Node ? child : drawn(old.get(key), child));
    old.delete(key);
  });
  for (const node of old.values()) node.remove();
  [...made.values()].forEach((node, n) => {
    if (node !== parent.childNodes[n]) parent.insertBefore(node, parent.childNodes[n] || null);
  });
}

function drawn(node, child) {
  const { what, props, children } = child;
  if (!what) {
    node ||= document.createTextNode("");
    if (node.data !== child) node.data = child;
    return node;
  }
  const [tag, look = ""] = what.split(".");
  if (!node) {
    node = document.createElement(tag);
    node.className = look;
  }
  for (const name in props) {
    const value = props[name];
    if (typeof value === "function") node[name] = value;
    else if (value === node.given?.[name]) continue;
    else if (name === "html") node.innerHTML = value;
    else if (name === "value" || name === "checked") continue; // see below
    else if (name === "tone") node.dataset.tone = toneOf(value);
    else if ((value ?? false) === false) node.removeAttribute(name);
    else node.setAttribute(name === "label" ? "aria-label" : name, value);
  }
  node.given = props;
  if (!props.html) fill(node, children);
  if ("checked" in props) node.checked = props.checked;
  if ("value" in props && node.value !== String(props.value)) node.value = props.value;
  return node;
}

function toneOf(state) {
  const tones = { bad: /^(fail|cut|dead|drop|compensation|block|bad)/, warn: /connecting|^(held|compensated|retr|stopping|part|interrupted|warn)/, ok: /^(connected|completed)/, run: /^(started|running)/ };
  return Object.keys(tones).find((tone) => tones[tone].test(state)) || "";
}

const stateOf = (state, text = state) => h("span.state", { tone: state }, text);
const named = (name, about) => h("span.title", h("b", name), h("small", { title: about }, about));
const line = (first, ...cells) => h("tr", { key: first }, h("th", { scope: "row" }, first), cells.map((cell) => h("td", cell)));
// A long text gets the full width, below its row.
const below = (row, text, columns) => [row, text && h("tr.below", { key: `${row.props.key} below` }, h("td", { colspan: columns }, text))];
const table = (head, ...rows) => h("div.wide", h("table", h("thead", h("tr", head.split(", ").map((name) => h("th", { scope: "col" }, name)))), h("tbody", rows)));
const section = (label, count, ...children) => h("section", { label },
  h("h3", count ? `${label} (${number(count)})` : label), count ? h(count > 8 ? "div.many" : "div", children) : h("p", "none"));

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const date = new Intl.DateTimeFormat("sv", { dateStyle: "short", timeStyle: "medium" });
const known = Number.isFinite;
const number = (n) => (known(n) ? (n < 1e9 ? whole : compact).format(n) : "–");
const rate = (n) => (known(n) ? `${compact.format(n).replace("K", " k")}/s` : "–");
const dated = (at) => (at ? date.format(at * 1000).slice(Date.now() / 1000 - at < 43200 ? 11 : 0) : "–");
const words = (...parts) => parts.filter(Boolean).join(" · ");

function span(s) {
  if (!known(s)) return "–";
  return s < 1 ? `${Math.round(s * 1000)} ms` : s < 120 ? `${s.toPrecision(s < 10 ? 2 : 3)} s` : `${number(s / 60)} min`;
}
