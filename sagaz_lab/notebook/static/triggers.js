// Triggers: outcomes of events, and settings.

// Each stage cuts off its share at the right; the rest was started.
function funnel({ name, counts, resumed, ends, rates }) {
  let rest = counts.received;
  let past = 0;
  const stages = [["received", rest, 0]];
  for (const stage of ["filtered", "duplicate", "dropped", "dead", "waiting", "deciding"]) stages.push([stage, counts[stage], (rest -= counts[stage])]);
  stages.push(["started", counts.started, 0], ...(resumed ? [["resumed", resumed, counts.started]] : []));
  for (const [end, count] of Object.entries({ completed: 0, ...ends })) stages.push([end, count, (past += count) - count]);
  const share = (count) => `${Math.min(100, (100 * count) / Math.max(counts.received, counts.started + resumed, past, 1))}%`;
  return h("table", { label: `events of ${name}` }, stages.map(([stage, count, from]) => h(count ? "tr" : "tr.dim", { tone: stage === "waiting" ? "warn" : stage },
    h("th", { scope: "row" }, stage), h("td.bar", h("i", { style: `left:${share(from)};width:${share(count)}` })),
    h("td", number(count)), h("td.dim", stage in rates && rate(rates[stage])))));
}

function spark(values) {
  const most = Math.max(1e-9, ...values);
  const x = (n) => `${(100 * (n + 60 - values.length)) / 59}%`;
  return h("i.spark", { style: `clip-path:polygon(${x(0)} 100%,${values.map((value, n) => `${x(n)} ${100 - (95 * value) / most}%`)},100% 100%)` });
}

function triggerCard(ui, trigger, usual) {
  const { name, state, rates, limits, params, reasons } = trigger;
  const { waiting, size, blocking, strategy, blocked_s } = trigger.queue;
  const stat = (label, text) => h("span.stat", h("b", text), h("small", label));
  const queued = `${number(waiting)} of ${number(size)} queued`;
  const head = [named(name, `${trigger.source} · revision ${trigger.revision}`), stateOf(state), spark([0, ...ui.feed.column("received", name, 59)]),
    stat("received", rate(rates.received)), stat("started", rate(rates.started)), stat("in flight", number(trigger.in_flight)), stat("lag", span(trigger.lag_s)),
    h("span.meter", { role: "meter", label: queued, title: queued, "aria-valuenow": waiting, "aria-valuemax": size, tone: blocking ? "bad" : "running", style: `--part:${(100 * waiting) / size}%` })];
  const why = reasons.map(([outcome, text, count]) => h("li", `${number(count)} ${outcome}: ${text}`));
  const body = () => h("div.pair", h("div.funnel", funnel(trigger), why[0] && ui.details(`why ${name}`, `reasons: ${reasons[0][1]}…`, () => h("ol", why))), h("div",
    h("p", words(queued, strategy, blocking && "blocking now", blocked_s && `blocked for ${span(blocked_s)}`, `${number(trigger.counts.dropped)} dropped`)),
    Object.entries(limits).map(([item, limit]) => ui.setting(name, "set_limits", { name: item, ...limit },
      ...(/rate/.test(item) ? ["rate limit per second", "no limit", true] : ["runs at a time", "", true]))),
    params.map((param) => ui.setting(name, "set_params", param))));
  const cmd = state === "paused" ? "resume" : "pause";
  return h("article", { key: name, label: name }, ui.details(`trigger ${name}`, head, body, usual),
    h("div.corner", ui.button(cmd, { cmd, trigger: name }, { label: `${cmd} ${name}`, disabled: !/running|paused/.test(state) })));
}

const triggersView = (ui, { triggers }) => section("Triggers", triggers.length, triggers.map((trigger) => triggerCard(ui, trigger, triggers.length < 5)));

const sourcesView = (ui, { sources }) => section("Sources", sources.length,
  table("source, state, received", sources.flatMap(({ name, state, since, error, received }) => below(
    line(name, stateOf(state, `${state} since ${dated(since)}`), number(received)), error && h("p.note", { tone: "bad" }, error), 3))));
