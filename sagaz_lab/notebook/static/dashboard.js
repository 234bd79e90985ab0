// The page: head line, charts and sections, drawn anew when there is news and when they can be seen.

class Dashboard {
  constructor(model, el) {
    this.frame = 0;
    this.visible = true;
    this.alert = make("div.unseen", { "aria-live": "assertive" });
    this.spoken = make("div.unseen", { "aria-live": "polite" });
    const render = () => this.render();
    this.feed = new Feed(model, render);
    const board = { feed: this.feed, render, alarm: (text) => put(this.alert, text) };
    this.makeHead(board);
    this.charts = new Charts(this.feed);
    this.sections = [triggersSection(board), sourcesSection(), runsSection(board), heldSection(board), lettersSection(board), sagasSection(board)];
    const [triggers, ...others] = this.sections.map((part) => part.node);
    this.body = make("fieldset", null, make("div.columns", null, triggers, make("div", null, ...others)));
    // JupyterLab's own keys must not act on what is typed here.
    this.root = make("div.sagaz-lab", { role: "region", "aria-label": "sagaz_lab dashboard", "data-lm-suppress-shortcuts": "true" },
      this.head, this.notice, this.warnings, this.charts.node, this.body, this.alert, this.spoken);
    el.append(this.root);
    this.observer = new IntersectionObserver((seen) => {
      this.visible = seen.at(-1).isIntersecting;
      this.render();
    });
    this.observer.observe(this.root);
    this.render();
  }

  destroy() {
    cancelAnimationFrame(this.frame);
    this.destroyed = true;
    this.observer.disconnect();
    this.feed.destroy();
    this.charts.destroy();
    this.root.remove();
  }

  makeHead(board) {
    const note = make("span.note");
    this.state = stateMark();
    this.live = make("span");
    this.store = make("span.dim.store");
    this.status = make("span.status");
    this.notice = make("p.notice", { hidden: "" });
    this.warnings = make("ul.warnings", { "aria-label": "warnings" });
    this.start = asking(board, "Start", "start the triggers", note, () => ({ cmd: "start" }));
    this.stop = asking(board, "Stop", "stop the triggers", note, () => ({ cmd: "stop" }));
    this.head = make("fieldset", null, make("div.row.head", null, this.state.node, this.live, this.store, this.status, note,
      make("span.row.ends", null, this.start, this.stop)));
  }

  render() {
    if (!this.frame && !this.destroyed) this.frame = requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = 0;
    if (!this.visible || document.hidden) return;
    const { feed } = this;
    const state = feed.state || NOTHING;
    this.drawHead(state);
    for (const node of [this.charts.node, this.body]) node.hidden = !feed.state;
    this.head.disabled = this.body.disabled = !feed.live;
    if (!feed.state) return;
    this.charts.update();
    for (const part of this.sections) part.update(state);
  }

  drawHead({ lab, now }) {
    const { feed } = this;
    const silence = (Date.now() - feed.heard) / 1000;
    const waited = Date.now() - feed.opened > 2900;
    this.state.update(lab.started ? "started" : "not started");
    put(this.live, known(lab.live) ? `${plural(lab.live, "run")} in flight` : "");
    put(this.store, lab.store || "");
    mark(this.store, "title", lab.store);
    this.start.disabled = lab.started;
    this.stop.disabled = !lab.started;
    const busy = feed.busy || (lab.busy_s >= 1 ? lab.busy_s : 0);
    let said = "";
    let shown = "";
    if (silence > 3 && feed.live) [said, shown] = ["no news from the kernel", `no news for ${Math.floor(silence)} s`];
    else if (busy) [said, shown] = ["kernel busy, intake waits", `kernel busy ${busy.toFixed(1)} s, intake waits`];
    else if (!feed.live) [said, shown] = waited ? ["no kernel is connected"] : ["waiting for the kernel"];
    put(this.status, shown || said);
    mark(this.status, "data-tone", shown ? "warn" : null);
    // Only changes are spoken, not each number.
    put(this.spoken, `${feed.live ? this.state.node.textContent : ""} ${said}`.trim());
    this.notice.hidden = feed.live || !feed.state;
    put(this.notice, `as of ${new Date((now || 0) * 1000).toLocaleString()}; no kernel is connected`);
    keyed(this.warnings, lab.warnings || [], (text) => text, (text) => ({ node: make("li", null, text), update() {} }));
  }
}

export default {
  render({ model, el }) {
    const dashboard = new Dashboard(model, el);
    return () => dashboard.destroy();
  },
};
