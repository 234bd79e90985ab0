// The whole page, drawn on news while it is visible.

function openDashboard(model, el) {
  // Keep JupyterLab's shortcuts from acting on input here.
  const root = drawn(null, h("div.sagaz-lab", { "data-lm-suppress-shortcuts": "true" }));
  const observer = new IntersectionObserver((entries) => {
    seen = entries.at(-1).isIntersecting;
    changed();
  });
  let seen = true;
  let frame = 0;
  const feed = openFeed(model, changed);
  const chart = makeChart(feed, changed);
  const ui = makeControls(feed, changed);
  el.append(root);
  observer.observe(root);
  return () => {
    seen = false;
    cancelAnimationFrame(frame);
    observer.disconnect();
    feed.close();
    chart.close();
    root.remove();
  };

  function changed() {
    if (seen) frame ||= requestAnimationFrame(draw);
  }

  function draw() {
    frame = 0;
    const { state, live } = feed;
    const dead = !live || feed.lost || silence() > 20;
    const views = (...all) => h("div", all.map((view) => view(ui, state)));
    fill(root, [
      h("fieldset", { disabled: dead && "" }, head(state || NOTHING), state && [chart.view(),
        h("div.columns", { key: "columns" }, views(triggersView), views(sourcesView, runsView, heldView, lettersView, sagasView))]),
      h("div.unseen", { "aria-live": "assertive" }, ui.alarm),
    ]);
  }

  function silence() {
    return Math.floor((Date.now() - feed.heard) / 1000);
  }

  function status() {
    if (feed.lost || (feed.live && silence() > 20)) return "not live: the kernel is gone or was restarted; run the cell again";
    if (feed.live && silence() > 3) return `no news for ${silence()} s`;
    if (feed.busy) return `kernel busy ${feed.busy.toFixed(1)} s, intake ${feed.state?.lab.isolated ? "continues" : "waits"}`;
    return feed.live ? "" : "waiting for the kernel";
  }

  function head({ lab }) {
    const state = lab.started ? "started" : "not started";
    const shown = status();
    // Announced without the seconds, so that only changes are spoken.
    const spoken = shown.replace(/( for)? [\d.]+ s/, "");
    return [
      h("div.row", stateOf(state), `${number(lab.live)} in flight`, h("span.dim", lab.store), h("b.note", { tone: "warn" }, shown),
        ui.button("start", { cmd: "start" }, { disabled: lab.started }), ui.button("stop", { cmd: "stop" }, { disabled: !lab.started })),
      h("div.unseen", { "aria-live": "polite" }, `${state} ${spoken}`),
      lab.away && ui.details("away", lab.away[0], () => h("ol", lab.away.slice(1).map((text) => h("li", text)))),
      lab.warnings?.map((text) => h("p.notice", { key: text }, text)),
    ];
  }
}

export default {
  render: ({ model, el }) => openDashboard(model, el),
};
