// One card for each trigger: what became of its events, how full its queue is, and what can be set.

const FALLEN = ["filtered", "duplicate", "dropped", "dead", "held", "deciding"];
const ENDS = ["completed", "compensated", "held", "retried", "dead"];
const SPARK_POINTS = 60;

function stage(name, look) {
  const fill = make("i");
  const [many, share, speed] = [make("td"), make("td.dim"), make("td.dim")];
  const node = make(`tr.${look}`, { "data-stage": name }, make("th", { scope: "row" }, name),
    make("td.bar", { "aria-hidden": "true" }, fill), many, share, speed);
  return {
    node,
    update({ count, from, total, speed: perSecond }) {
      fill.style.left = `${(100 * from) / total}%`;
      fill.style.width = `${(100 * count) / total}%`;
      put(many, number(count));
      put(share, count ? `${+((100 * count) / total).toPrecision(2)} %` : "");
      put(speed, known(perSecond) ? rate(perSecond) : "");
      mark(node, "data-none", count ? null : "");
    },
  };
}

// What falls away is taken off at the right, so what is left at the left is what was started.
function funnel(name) {
  const [events, ends] = [make("tbody"), make("tbody")];
  const why = make("summary");
  const list = make("ol.reasons");
  const reasons = make("details.why", null, why, list);
  const node = make("div.funnel", null, make("table", { "aria-label": `what became of the events of ${name}` }, events, ends), reasons);
  return {
    node,
    update({ counts, ends: ended, rates, reasons: found }) {
      const total = Math.max(1, counts.received || 0);
      let rest = counts.received || 0;
      const rows = [{ name: "received", count: rest, from: 0, look: "whole" }];
      for (const fallen of FALLEN) {
        const count = counts[fallen] || 0;
        rest = Math.max(0, rest - count);
        rows.push({ name: fallen, count, from: rest, look: "part" });
      }
      rows.push({ name: "started", count: counts.started || 0, from: 0, look: "whole" });
      const row = (one) => stage(one.name, one.look);
      const all = (one) => ({ ...one, total, speed: rates[one.name] });
      keyed(events, rows.map(all), (one) => one.name, row);
      let from = 0;
      const known = [...ENDS, ...Object.keys(ended).filter((end) => !ENDS.includes(end))];
      const shown = known.filter((end) => ended[end] || end === "completed").map((end) => {
        const count = Math.min(ended[end] || 0, 1e15);
        from += count;
        return { name: end, count, from: Math.min(from, total) - Math.min(count, total), look: "end" };
      });
      keyed(ends, shown.map(all), (one) => one.name, row);
      reasons.hidden = !found.length;
      if (!found.length) return;
      put(why, `${plural(found.length, "reason")}: ${found[0][1]} (${number(found[0][2])})${found.length > 1 ? ", …" : ""}`);
      if (reasons.open) keyed(list, found, ([kind, text]) => `${kind} ${text}`, reasonLine);
    },
  };
}

function reasonLine([kind, text]) {
  const many = make("b");
  return {
    node: make("li", null, many, make("span.dim", null, kind), make("span", null, text)),
    update: ([, , count]) => put(many, number(count)),
  };
}

function sparkline() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  svg.append(line);
  for (const [name, value] of Object.entries({ class: "spark", viewBox: `0 0 ${SPARK_POINTS - 1} 20`, preserveAspectRatio: "none", "aria-hidden": "true" })) {
    svg.setAttribute(name, value);
  }
  let drawn;
  return {
    node: svg,
    update({ series, column }, name) {
      if (drawn === series.version) return;
      drawn = series.version;
      const values = column(name).slice(-SPARK_POINTS);
      const most = Math.max(1e-9, ...values);
      const start = SPARK_POINTS - values.length;
      line.setAttribute("points", values.map((value, n) => `${start + n},${(19 - (18 * value) / most).toFixed(1)}`).join(" "));
    },
  };
}

function stat(label) {
  const value = make("b");
  return { node: make("span.stat", null, value, make("small", null, label)), set: (text) => put(value, text) };
}

function queueMeter(name) {
  const fill = make("i");
  const meter = make("span.meter", { role: "meter", "aria-label": `queue of ${name}`, "aria-valuemin": 0 }, fill);
  const text = make("span");
  return {
    meter, text,
    update({ queue, counts }) {
      const share = queue.size ? Math.min(1, queue.held / queue.size) : 0;
      fill.style.width = `${100 * share}%`;
      mark(meter, "data-tone", queue.blocking || share > 0.9 ? "bad" : share > 0.6 ? "warn" : null);
      mark(meter, "aria-valuenow", queue.held);
      mark(meter, "aria-valuemax", queue.size);
      mark(meter, "title", `${number(queue.held)} of ${number(queue.size)} held`);
      const words = [`${number(queue.held)} of ${number(queue.size)} held`, queue.strategy];
      if (queue.blocking) words.push("blocking now");
      if (queue.blocked_s) words.push(`blocked for ${span(queue.blocked_s)} in all`);
      words.push(`${number(counts.dropped || 0)} dropped`);
      put(text, words.join(" · "));
    },
  };
}

function triggerCard(board, { name }, open) {
  const note = make("span.note");
  const about = make("small.dim");
  const state = stateMark();
  const spark = sparkline();
  const stats = { received: stat("received"), started: stat("started"), live: stat("in flight"), lag: stat("lag") };
  const [queue, flow] = [queueMeter(name), funnel(name)];
  const [limits, params] = [make("div"), make("div")];
  const paramsTitle = make("h4", null, "Params");
  const head = make("summary", null, make("span.title", null, make("span.name", { title: name }, name), about), state.node, spark.node,
    ...Object.values(stats).map((one) => one.node), queue.meter);
  const body = make("div.body", null, flow.node, make("div.settings", null, make("h4", null, "Backpressure"),
    make("p.dim", null, queue.text), make("h4", null, "Limits"), limits, paramsTitle, params));
  const details = make("details", null, head, body);
  details.open = open;
  details.addEventListener("toggle", () => board.render());
  let paused = false;
  const pause = asking(board, "Pause", "", note, () => ({ cmd: paused ? "resume" : "pause", trigger: name }));
  const node = make("article.trigger", { "aria-label": `trigger ${name}` }, details, make("div.corner", null, pause, note));
  const set = (cmd) => (item, value) => ({ cmd, trigger: name, values: { [item]: value } });
  const limit = (item) => setting(board, item, set("set_limits"),
    item.name === "rate_limit_per_second" ? { label: "rate limit, per second", none: "no limit" } : { label: "runs at a time", least: 1 });
  return {
    node,
    update(trigger) {
      paused = trigger.state === "paused";
      put(pause, paused ? "Resume" : "Pause");
      mark(pause, "aria-label", `${paused ? "Resume" : "Pause"} ${name}`);
      pause.disabled = trigger.state !== "running" && !paused;
      put(about, `${trigger.source} · revision ${trigger.revision}`);
      mark(about, "title", about.textContent);
      state.update(trigger.state);
      spark.update({ series: board.feed.series, column: (one) => board.feed.column("received", one) }, name);
      stats.received.set(rate(trigger.rates.received));
      stats.started.set(rate(trigger.rates.started));
      stats.live.set(number(trigger.in_flight));
      stats.lag.set(span(trigger.lag_s));
      queue.update(trigger);
      if (!details.open) return;
      flow.update(trigger);
      const ofLimits = Object.entries(trigger.limits).map(([item, value]) => ({ name: item, kind: "number", ...value }));
      keyed(limits, ofLimits, (item) => item.name, limit);
      paramsTitle.hidden = !trigger.params.length;
      keyed(params, trigger.params, (item) => `${item.name} ${kindOf(item)}`, (item) => setting(board, item, set("set_params")));
    },
  };
}

function triggersSection(board) {
  const list = make("div");
  const part = section("Triggers", list);
  return {
    node: part.node,
    update({ triggers }) {
      part.count(triggers.length);
      keyed(list, triggers, (one) => one.name, (one) => triggerCard(board, one, triggers.length <= 4));
    },
  };
}

function sourcesSection() {
  const rows = table("Sources", ["source", "state", "received", "read by"], ({ name }) => {
    const state = stateMark();
    const [error, received, readers] = [make("div.note", { "data-tone": "bad" }), make("span"), make("span.dim")];
    return {
      cells: [name, make("div", null, state.node, error), received, readers],
      update(source) {
        state.update(source.state, `${source.state} since ${dated(source.since)}`);
        put(error, source.error || "");
        put(received, number(source.received));
        put(readers, source.read_by.join(", "));
      },
    };
  });
  const part = section("Sources", rows.node);
  return {
    node: part.node,
    update({ sources }) {
      part.count(sources.length);
      rows.update(sources, (one) => one.name);
    },
  };
}
