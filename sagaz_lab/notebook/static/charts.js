// Throughput and lag over the last five minutes.

const WINDOW_S = 300;

class Chart {
  constructor(label, curves, format) {
    this.label = label;
    this.format = format;
    this.curves = curves;
    this.data = [[], ...curves.map(() => [])];
    this.values = curves.map(() => make("b"));
    const legend = curves.map(({ name, color }, n) => {
      const button = make("button.curve", { type: "button", "aria-pressed": "true" },
        make(`i.line.curve-${name}`, { style: `color:var(${color})`, "aria-hidden": "true" }), `${name} `, this.values[n]);
      button.addEventListener("click", () => {
        const shown = button.getAttribute("aria-pressed") !== "true";
        mark(button, "aria-pressed", shown ? "true" : "false");
        if (this.plot) this.plot.setSeries(n + 1, { show: shown });
      });
      this.curves[n].button = button;
      return button;
    });
    this.holder = make("div.plot", { role: "img", "aria-label": label });
    this.node = make("div.chart", null, make("div.legend", null, ...legend), this.holder);
    this.observer = new ResizeObserver(() => this.fit());
    this.observer.observe(this.holder);
  }

  destroy() {
    this.observer.disconnect();
    if (this.plot) this.plot.destroy();
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.holder;
    if (!width) return;
    if (this.plot) this.plot.setSize({ width, height });
    else this.plot = new uPlot(this.options(width, height), this.data, this.holder);
  }

  // Colours are asked for at each drawing, so that a change of the theme is followed.
  options(width, height) {
    const color = (name) => () => getComputedStyle(this.holder).getPropertyValue(name).trim();
    const axis = { stroke: color("--sl-dim"), font: "10px system-ui, sans-serif", ticks: { show: false },
      grid: { stroke: color("--sl-rule"), width: 1 } };
    const series = this.curves.map(({ name, color: variable, dash }, n) => ({
      label: name, stroke: color(variable), width: 1.5, dash, points: { show: false },
      show: this.curves[n].button.getAttribute("aria-pressed") === "true",
    }));
    return {
      width, height, series: [{}, ...series],
      legend: { show: false }, select: { show: false }, padding: [8, 8, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 5 } },
      scales: {
        x: { range: (plot, low, high) => [(high || Date.now() / 1000) - WINDOW_S, high || Date.now() / 1000] },
        y: { range: (plot, low, high) => [0, Math.max(this.format === span ? 0.1 : 1, (high || 0) * 1.1)] },
      },
      axes: [
        { ...axis, size: 22, space: 60, values: (plot, at) => at.map((t) => clock(t, false)), incrs: [60, 120, 300] },
        { ...axis, size: 52, gap: 4, space: 28, values: (plot, at) => at.map(this.format) },
      ],
      hooks: { setCursor: [(plot) => this.tell(plot.cursor.idx)] },
    };
  }

  draw(times, columns) {
    this.data = [times, ...columns];
    if (this.plot) this.plot.setData(this.data);
    this.tell(this.plot && this.plot.cursor.idx);
  }

  tell(index) {
    const n = known(index) ? index : this.data[0].length - 1;
    this.values.forEach((node, c) => put(node, this.format(this.data[c + 1][n])));
  }

  describe() {
    const last = this.curves.map(({ name }, n) => `${name} ${this.format(this.data[n + 1].at(-1))}`);
    mark(this.holder, "aria-label", `${this.label}, now: ${last.join(", ")}`);
  }
}

class Charts {
  constructor(feed) {
    this.feed = feed;
    this.throughput = new Chart("Events per second over the last five minutes", [
      { name: "received", color: "--sl-received" },
      { name: "filtered", color: "--sl-filtered", dash: [5, 3] },
      { name: "started", color: "--sl-started" },
      { name: "completed", color: "--sl-ok", dash: [2, 3] },
    ], rate);
    this.lag = new Chart("Lag over the last five minutes", [{ name: "lag", color: "--sl-warn" }], span);
    this.choice = make("select", { "aria-label": "trigger to chart", change: () => this.update(true) },
      make("option", { value: "" }, "all triggers"));
    this.node = make("section.charts", { role: "region", "aria-label": "Throughput and lag" },
      make("div.row", null, make("h3", null, "Throughput and lag"), this.choice),
      make("div.pair", null, this.throughput.node, this.lag.node));
    this.choices = "";
  }

  destroy() {
    this.throughput.destroy();
    this.lag.destroy();
  }

  update(chosen) {
    const { series } = this.feed;
    const names = series.triggers.join("\n");
    if (names !== this.choices) {
      const value = this.choice.value;
      this.choices = names;
      this.choice.replaceChildren(this.choice.firstChild, ...series.triggers.map((name) => make("option", { value: name }, name)));
      this.choice.value = series.triggers.includes(value) ? value : "";
    }
    if (!chosen && series.version === this.version) return;
    this.version = series.version;
    const times = series.points.map((point) => point.at);
    const columns = ["received", "filtered", "started", "completed", "lag_s"]
      .map((field) => this.feed.column(field, this.choice.value));
    // Where nothing came for a while, the lines break off.
    for (let n = times.length - 1; n > 0; n--) {
      if (times[n] - times[n - 1] < 3) continue;
      times.splice(n, 0, times[n - 1] + 1);
      for (const column of columns) column.splice(n, 0, null);
    }
    const lag = columns.pop();
    this.throughput.draw(times, columns);
    this.lag.draw(times, [lag]);
    if (!chosen && Date.now() - (this.described || 0) < 5000) return;
    this.described = Date.now();
    this.throughput.describe();
    this.lag.describe();
  }
}
