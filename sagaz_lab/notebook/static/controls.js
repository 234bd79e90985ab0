// Whatever asks the kernel for something. A note beside each control says what came of it.

async function ask(board, control, note, content) {
  put(note, "");
  mark(control, "aria-busy", "true");
  const reply = await board.feed.ask(content);
  mark(control, "aria-busy", null);
  mark(note, "data-tone", reply.error ? "bad" : null);
  put(note, reply.error || "");
  if (reply.error) board.alarm(reply.error);
  return reply;
}

// With `sure`, the first press only asks back; leaving the button takes it back.
function asking(board, label, title, note, content, { then, sure } = {}) {
  const node = make("button", { type: "button", title }, label);
  node.addEventListener("blur", () => sure && put(node, label));
  node.addEventListener("click", async () => {
    if (node.hasAttribute("aria-busy")) return;
    if (sure && node.textContent !== sure) return put(node, sure);
    const reply = await ask(board, node, note, content());
    if (sure) put(node, label);
    if (!reply.error && then) then(reply.result || {});
  });
  return node;
}

function kindOf({ value, default: usual }) {
  const kind = typeof (usual === null ? value : usual);
  return kind === "boolean" || kind === "number" ? kind : "text";
}

function boundsOf({ value, default: usual }, least) {
  const around = known(usual) ? usual : value || 5;
  const low = Math.min(least || 0, 2 * around);
  const unit = !least && around >= 0 && around <= 1;
  const high = unit ? 1 : Math.max(1, 2 * around);
  const fine = 10 ** Math.floor(Math.log10((high - low) / 50));
  const whole = least || (!unit && Number.isInteger(usual) && Number.isInteger(value));
  return { low, high, step: whole ? Math.max(1, Math.round(fine)) : fine };
}

// A slider, field or box for one value. `none` is what null means, if it may be null; `least` the least whole number.
function setting(board, first, content, { label = first.name, none, least } = {}) {
  const kind = kindOf(first);
  const note = make("span.note");
  const field = make("input", { type: { boolean: "checkbox" }[kind] || kind, step: "any", placeholder: none || "", "aria-label": label });
  const slider = kind === "number" && make("input", { type: "range", "aria-label": `${label}, slider` });
  const usual = make("button.plain", { type: "button", title: `put ${label} back to its default`, click: () => send(latest.default) });
  const node = make("div.setting", { role: "group", "aria-label": label }, make("span.name", { title: label }, label),
    slider || make("span"), field, usual, note);
  const nullable = none || first.default === null;
  let latest = first;
  let inHand = false;
  let asked = 0;

  function show() {
    const { value } = latest;
    if (kind === "boolean") field.checked = Boolean(value);
    else field.value = value === null ? "" : value;
    if (!slider) return;
    const { low, high, step } = boundsOf(latest, least);
    slider.min = low;
    slider.max = Math.max(high, value || 0);
    slider.step = step;
    slider.value = value === null ? slider.max : value;
    mark(slider, "aria-valuetext", value === null ? none || "none" : null);
  }

  async function send(value) {
    inHand = false;
    asked++;
    const { error } = await ask(board, field, note, content(first.name, value));
    asked--;
    if (error && !asked && !inHand) show();
  }

  function changed(input) {
    inHand = false;
    if (kind === "boolean") return send(field.checked);
    if (input.validity.badInput) return put(note, "not a number");
    if (input.value === "" && nullable) return send(null);
    if (input.value === "" && kind === "number") return show();
    const guess = kind === "number" || (first.default === null && Number.isFinite(Number(input.value)));
    return send(guess ? Number(input.value) : input.value);
  }

  for (const input of slider ? [slider, field] : [field]) {
    input.addEventListener("pointerdown", () => (inHand = true));
    input.addEventListener("pointerup", () => (inHand = input === field));
    input.addEventListener("blur", () => (inHand = false));
    input.addEventListener("input", () => {
      inHand = true;
      if (slider) (input === slider ? field : slider).value = input.value;
    });
    input.addEventListener("change", () => changed(input));
  }
  return {
    node,
    update(item) {
      latest = item;
      put(usual, `default ${item.default === null ? none || "none" : item.default}`);
      usual.disabled = item.value === item.default;
      if (!inHand && !asked) show();
    },
  };
}
