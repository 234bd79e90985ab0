// Controls that send a command to the kernel and show its reply.

function makeControls(feed, changed) {
  const [notes, drafts, opened, texts] = [new Map(), new Map(), new Map(), new Map()];
  const ui = { feed, alarm: "", ask, note, button, details, setting, lines };
  const keep = (map, key, value) => {
    map.set(key, value);
    changed();
  };
  let armed;
  return ui;

  async function ask(key, content, said) {
    keep(notes, key, { busy: "true" });
    const { error, result } = await feed.ask(content);
    if (error) ui.alarm = error;
    keep(notes, key, { text: error || said?.(result), tone: error && "bad" });
  }

  function note(key) {
    const { text, tone } = notes.get(key) || {};
    return text && h("span.note", { tone }, text);
  }

  function button(label, content, { sure, disabled, said, ...props } = {}) {
    const key = JSON.stringify(content);
    const busy = notes.get(key)?.busy;
    const onclick = () => {
      if (busy) return;
      const asked = sure && armed !== key;
      armed = asked && key;
      if (asked) changed();
      else ask(key, content, said);
    };
    const onblur = () => (armed = null);
    return [h("button", { type: "button", onclick, onblur, disabled: disabled && "", "aria-busy": busy, ...props }, armed === key ? sure : label), note(key)];
  }

  function details(key, summary, body, usual = false) {
    const open = opened.get(key) ?? usual;
    // Also fires when the page opens it, which is not a choice of the user.
    const ontoggle = ({ target }) => target.open !== (opened.get(key) ?? usual) && keep(opened, key, target.open);
    return h("details", { key, open: open && "", ontoggle }, h("summary", summary), open && body());
  }

  // A value being edited is a draft, which no tick overwrites.
  function setting(trigger, cmd, { name, value, default: usual, range }, label = name, none = "none", limit = false) {
    const key = `${cmd} ${trigger} ${name}`;
    const box = typeof usual === "boolean";
    const numeric = limit || typeof (usual ?? value) === "number";
    const free = () => notes.get(key)?.busy || drafts.delete(key);
    const send = async (wanted) => {
      drafts.set(key, wanted ?? "");
      await ask(key, { cmd, trigger, values: { [name]: wanted } });
      free();
      changed();
    };
    const oninput = ({ target }) => keep(drafts, key, target.value);
    const onchange = ({ target }) => {
      const wanted = target.value;
      if (box) send(target.checked);
      else if (wanted === "" && (limit || usual === null)) send(null);
      else if (wanted !== "" || !numeric) send(numeric ? Number(wanted) : wanted);
    };
    // JupyterLab keeps Enter from reaching the field.
    const onkeyup = ({ key: pressed, target }) => pressed === "Enter" && onchange({ target });
    const hand = { label, oninput, onchange, onkeyup, onblur: free };
    const shown = drafts.get(key) ?? value ?? "";
    const around = usual ?? value ?? 5;
    const max = Math.max(around >= 0 && around <= 1 ? 1 : 2 * around, shown);
    const step = max > 1 && Number.isInteger(around) ? 1 : max / 100;
    const [low, high, by] = range || [limit ? step : Math.min(0, 2 * around), max, step];
    return h("div.setting", { key }, h("span", label),
      numeric ? h("input", { ...hand, type: "range", min: low, max: high, step: by, value: shown === "" ? high : shown }) : h("span"),
      box ? h("p", h("input", { label, onchange, type: "checkbox", checked: shown })) : h("input", { ...hand, type: numeric ? "number" : "text", step: "any", placeholder: none, value: shown }),
      h("button", { disabled: value === usual && "", onclick: () => send(usual) }, `reset to ${usual ?? none}`), note(key));
  }

  function lines(content, age, view) {
    const key = JSON.stringify(content);
    const text = texts.get(key) || { at: 0, lines: [] };
    texts.set(key, text);
    if (Date.now() - text.at > age) {
      text.at = Date.now();
      ask(key, content, (result) => void (text.lines = result.lines));
    }
    return [h("pre", { tabindex: 0 }, text.lines.map(view)), note(key)];
  }
}
