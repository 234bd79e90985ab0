// Each saga as a picture, with its revisions and what changed between them.

function sagaPart(board, { name }) {
  const note = make("span.note");
  const [head, drawing, about] = [make("span.name", null, name), make("div.wide.drawing"), make("small.dim")];
  const difference = make("pre.diff", { tabindex: 0, hidden: "" });
  let svg;
  let older = new Map();
  const rows = table(`Revisions of ${name}`, ["revision", "since", ""], ({ number: revision }) => {
    const since = make("span");
    const back = asking(board, "Roll back", `make revision ${revision} current again`, note, () => ({ cmd: "rollback", saga: name, number: revision }));
    const changes = asking(board, "Changes", "what changed from the revision before", note,
      () => ({ cmd: "diff", saga: name, old: older.get(revision), new: revision }),
      { then: ({ lines }) => showDifference(lines || [], `Changes of revision ${revision}`) });
    return {
      cells: [`${revision}`, since, make("div.row", null, changes, back)],
      update(one) {
        put(since, `${dated(one.at)}${one.current ? " · current" : one.kept ? "" : " · not kept"}`);
        back.hidden = one.current || !one.kept;
        changes.hidden = !older.has(revision);
      },
    };
  });
  function showDifference(lines, label) {
    mark(difference, "aria-label", label);
    difference.hidden = false;
    const looks = { "+": "ins", "-": "del", "@": "b" };
    difference.replaceChildren(make("b", null, `${label}\n`), ...lines.map((line) => make(looks[line[0]] || "span", null, `${line}\n`)));
  }
  const node = make("details.saga", null, make("summary", null, head, about),
    make("div.pair", null, drawing, make("div", null, rows.node, note, difference)));
  return {
    node,
    update(saga) {
      put(about, `revision ${saga.revision}`);
      // The drawing is made and escaped by the kernel side.
      if (saga.svg !== svg) drawing.innerHTML = svg = saga.svg;
      older = new Map(saga.revisions.slice(0, -1).map((one, n) => [one.number, saga.revisions[n + 1].number]));
      rows.update(saga.revisions, (one) => one.number);
    },
  };
}

function sagasSection(board) {
  const list = make("div");
  const part = section("Sagas", list);
  let shown;
  return {
    node: part.node,
    update({ sagas }) {
      if (sagas === shown) return;
      shown = sagas;
      part.count(sagas.length);
      keyed(list, sagas, (saga) => saga.name, (saga) => sagaPart(board, saga));
    },
  };
}
