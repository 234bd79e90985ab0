// Runs that are under way as bars over time, runs that are held, and dead letters.

const SIGNS = { completed: "✓", failed: "✕", "cut off": "✂", stopping: "■", running: "▸" };

function actionWords({ name, kind, state, start, end, note, progress }, now) {
  const words = [`${kind === "compensation" ? "compensation of " : ""}${name}: ${state}`];
  if (known(start)) words.push(span((known(end) ? end : now) - start));
  if (note) words.push(note);
  if (known(progress)) words.push(`${Math.round(100 * progress)} %`);
  return words.join(", ");
}

function actionBar() {
  const text = make("span");
  const done = make("i");
  const node = make("li", null, done, text);
  return {
    node,
    update({ action, lane, now, length }) {
      const end = known(action.end) ? action.end : now;
      node.style.left = `${(100 * action.start) / length}%`;
      node.style.width = `${(100 * Math.max(0, end - action.start)) / length}%`;
      node.style.top = `${lane * 18}px`;
      done.style.width = known(action.progress) ? `${100 * Math.min(1, action.progress)}%` : "0";
      mark(node, "data-state", action.state);
      mark(node, "data-kind", action.kind);
      mark(node, "title", actionWords(action, now));
      put(text, `${action.kind === "compensation" ? "↩ " : ""}${SIGNS[action.state] || ""} ${action.name}`);
    },
  };
}

// Actions that overlap in time go on lanes of their own.
function inLanes(actions, now) {
  const ends = [];
  const begun = actions.filter((action) => known(action.start)).sort((a, b) => a.start - b.start);
  return begun.map((action) => {
    let lane = ends.findIndex((end) => end <= action.start);
    if (lane < 0) lane = ends.length;
    ends[lane] = known(action.end) ? action.end : Infinity;
    return { action, lane, now, length: Math.max(now, 0.001) };
  });
}

function logLines(board, note) {
  const lines = make("pre", { tabindex: 0, "aria-label": "log" });
  let asked = 0;
  return {
    node: lines,
    async update(run_id) {
      if (Date.now() - asked < 3000) return;
      asked = Date.now();
      const { error, result } = await ask(board, lines, note, { cmd: "log", run_id });
      if (error) return;
      const text = result.lines.map(([action, line]) => `${action}  ${line}`).join("\n");
      put(lines, text || "nothing was logged yet");
    },
  };
}

function runLine(board, { run_id }) {
  const note = make("span.note");
  const [title, about, elapsed, doing] = [make("span.name"), make("small.dim"), make("span"), make("p.dim")];
  const bars = make("ol.bars", { "aria-label": "actions" });
  const log = logLines(board, note);
  const details = make("details", null, make("summary", null, "log"), log.node);
  details.addEventListener("toggle", () => details.open && log.update(run_id));
  const undo = asking(board, "Compensate", "stop this run and undo what it did", note,
    () => ({ cmd: "compensate_run", run_id }), { sure: "Stop and undo?" });
  const node = make("article.run", { "aria-label": `run ${run_id}` },
    make("div.about", null, title, about), make("div.lanes", null, bars, doing, details),
    make("div.end", null, elapsed, undo, note));
  return {
    node,
    update(run) {
      const now = Math.max(0, board.feed.state.now - run.started_at);
      const placed = inLanes(run.actions, now);
      put(title, run.saga);
      put(about, [`revision ${run.revision}`, run.trigger, run.attempt > 1 && `attempt ${run.attempt}`, run_id].filter(Boolean).join(" · "));
      mark(about, "title", about.textContent);
      put(elapsed, span(now));
      bars.style.height = `${18 * (1 + Math.max(0, ...placed.map((one) => one.lane)))}px`;
      keyed(bars, placed, ({ action }) => `${action.kind} ${action.name}`, actionBar);
      const busy = run.actions.filter((action) => /running|stopping/.test(action.state)).map((action) => actionWords(action, now));
      const waiting = run.actions.filter((action) => action.state === "waiting").map((action) => action.name);
      if (waiting.length) busy.push(`then ${waiting.join(", ")}`);
      put(doing, busy.join(" · "));
      if (details.open) log.update(run_id);
    },
  };
}

function runsSection(board) {
  const [list, more] = [make("div"), make("p.dim")];
  const part = section("Runs in flight", list, more);
  return {
    node: part.node,
    update({ runs, more_runs }) {
      part.count(runs.length + (more_runs || 0));
      keyed(list, runs, (run) => run.run_id, (run) => runLine(board, run));
      put(more, more_runs ? `${number(more_runs)} more` : "");
    },
  };
}

function heldSection(board) {
  const rows = table("Held runs", ["run", "status", "error", ""], ({ run_id }) => {
    const [status, failed, error, note, about] = [stateMark(), make("b"), make("span"), make("span.note"), make("small.dim")];
    const saga = make("span.name");
    const resume = asking(board, "Resume", "go on with this run", note, () => ({ cmd: "resume_run", run_id }));
    const undo = asking(board, "Compensate", "undo what this run did", note, () => ({ cmd: "compensate_run", run_id }), { sure: "Undo it?" });
    return {
      cells: [make("div", null, saga, about), status.node, make("div.error", null, failed, error), make("div.row", null, resume, undo, note)],
      update(run) {
        put(saga, run.saga);
        put(about, `revision ${run.revision} · ${run_id}`);
        status.update(run.status, run.status.replace("_", " "));
        put(failed, run.failed ? `${run.failed}: ` : "");
        put(error, run.error);
      },
    };
  });
  const part = section("Held runs", rows.node);
  return {
    node: part.node,
    update({ held_runs }) {
      part.count(held_runs.length);
      rows.update(held_runs, (run) => run.run_id);
    },
  };
}

function lettersSection(board) {
  const rows = table("Dead letters by cause", ["cause", "open", "first", "last", ""], ({ cause }) => {
    const [many, first, last, error, note] = [make("b"), make("span"), make("span"), make("div.dim.error"), make("span.note")];
    const said = (done) => ({ then: ({ count }) => put(note, `${plural(count, "letter")} ${done}`) });
    const redrive = asking(board, "Redrive", "put these letters back", note, () => ({ cmd: "redrive", cause }), said("put back"));
    const reason = make("input", { type: "text", required: "", placeholder: "reason", "aria-label": `reason to discard ${cause}` });
    const form = make("form.row", null, reason, make("button", { type: "submit" }, "Discard"), make("button.plain", { type: "button", click: () => show(false) }, "Cancel"));
    const discard = make("button", { type: "button", title: "settle these letters without putting them back", click: () => show(true) }, "Discard…");
    const choices = make("div.row", null, redrive, discard);
    function show(asked) {
      form.hidden = !asked;
      choices.hidden = asked;
      (asked ? reason : discard).focus();
    }
    form.hidden = true;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (form.hasAttribute("aria-busy")) return;
      const reply = await ask(board, form, note, { cmd: "discard", cause, reason: reason.value });
      if (reply.error) return;
      reason.value = "";
      show(false);
      said("discarded").then(reply.result || {});
    });
    return {
      cells: [make("div", null, make("span.name", null, cause), error), many, first, last, make("div", null, choices, form, note)],
      update(letter) {
        put(many, number(letter.count));
        put(first, dated(letter.first_at));
        put(last, dated(letter.last_at));
        put(error, letter.error || "");
      },
    };
  });
  const part = section("Dead letters", rows.node);
  return {
    node: part.node,
    update({ letters }) {
      part.count(letters.causes.length, `${number(letters.open)} open`);
      rows.update(letters.causes, (letter) => letter.cause);
    },
  };
}
