// Runs in flight, held runs, dead letters, sagas.

const titleOf = ({ name, kind, state }) => `${kind === "action" ? "" : "↩ "}${name} ${state}`;

// Overlapping bars get separate lanes.
function barsOf(actions, now) {
  const ends = [];
  const part = (s) => `${(100 * Math.max(0, s)) / Math.max(now, 1e-3)}%`;
  const begun = actions.filter(({ start }) => known(start)).sort((a, b) => a.start - b.start);
  const bars = begun.map((action) => {
    const { name, kind, state, start, end, progress } = action;
    const free = ends.findIndex((past) => past <= start);
    const lane = free < 0 ? ends.length : free;
    const length = (end ?? now) - start;
    ends[lane] = end ?? Infinity;
    const title = titleOf(action);
    return h("li", { key: kind + name, tone: state, title: `${title}, ${span(length)}`, style: `left:${part(start)};width:${part(length)};top:${lane * 18}px` },
      h("i", { style: `width:${100 * progress}%` }), title);
  });
  return h("ol.bars", { style: `height:${18 * ends.length}px` }, bars);
}

function runLine(ui, now, { run_id, saga, revision, trigger, attempt, actions }) {
  const doing = actions.filter(({ end }) => !known(end)).map((action) =>
    `${titleOf(action)} ${action.note}${action.progress ? ` ${Math.round(100 * action.progress)} %` : ""}`);
  return h("article.run", { key: run_id, label: `run ${run_id}` },
    named(saga, words(`revision ${revision}`, trigger, `attempt ${attempt}`, run_id)),
    h("div", barsOf(actions, now), h("p", words(...doing)),
      ui.details(`log ${run_id}`, "log", () => ui.lines({ cmd: "log", run_id }, 3000, ([at, level, action, text]) => `${new Date(at * 1000).toLocaleTimeString()} ${level}  ${action}  ${text}\n`))),
    h("div.row", span(now), ui.button("compensate", { cmd: "compensate_run", run_id }, { sure: "stop and undo?" })));
}

const runsView = (ui, { now, runs, more_runs = 0 }) => section("Runs in flight", runs.length + more_runs,
  runs.map((run) => runLine(ui, now - run.started_at, run)), more_runs > 0 && h("p", `${number(more_runs)} more`));

const heldView = (ui, { held_runs }) => section("Held runs", held_runs.length,
  table("run, saga, status, ", held_runs.flatMap(({ run_id, saga, revision, status, error, failed }) => below(line(run_id,
    `${saga}, revision ${revision}`, stateOf(status),
    h("div.row", ui.button("resume", { cmd: "resume_run", run_id }), ui.button("compensate", { cmd: "compensate_run", run_id }, { sure: "undo it?" }))),
  [failed, error].filter(Boolean).join(": "), 4))));

function letterLine(ui, { cause, count, first_at, last_at, error }) {
  const key = `discard ${cause}`;
  const said = (done) => (result) => `${number(result.count)} ${done}`;
  const onsubmit = (event) => {
    event.preventDefault();
    ui.ask(key, { cmd: "discard", cause, reason: event.target.elements.reason.value }, said("discarded"));
  };
  return below(line(cause, number(count), `${dated(first_at)} – ${dated(last_at)}`, h("form.row", { onsubmit },
    ui.button("redrive", { cmd: "redrive", cause }, { said: said("put back") }),
    h("input", { name: "reason", required: "", size: 9, placeholder: "reason to…", label: `reason to discard ${cause}` }), h("button", "discard"), ui.note(key))), error, 4);
}

const lettersView = (ui, { letters }) => section("Dead letters", letters.open,
  table("cause, open, first and last, ", letters.causes.flatMap((letter) => letterLine(ui, letter))));

const diffLine = (text) => h({ "+": "ins", "-": "del" }[text[0]] || "span", `${text}\n`);

function sagaPart(ui, { name, revision, svg, revisions }) {
  const row = ({ number: n, at, current, kept }) => line(String(n), `${dated(at)}${current ? " current" : ""}`,
    kept && !current && ui.button("roll back", { cmd: "rollback", saga: name, number: n }));
  const change = ({ number: old }, n) => ui.details(`diff ${name} ${old}`, `changes from ${old}`,
    () => ui.lines({ cmd: "diff", saga: name, old, new: revisions[n].number }, 1e9, diffLine));
  return ui.details(`saga ${name}`, `${name}, revision ${revision}`, () => h("div.pair", h("div.wide", { html: svg }),
    h("div", table("revision, since, ", revisions.map(row)), revisions.slice(1).map(change))));
}

const sagasView = (ui, { sagas }) => section("Sagas", sagas.length, sagas.map((saga) => sagaPart(ui, saga)));
