// The last five minutes. A curve: field, colour, dashes.

const CURVES = [["received", "text"], ["filtered", "dim", [6, 4]], ["started", "run"], ["completed", "ok", [2, 3]], ["lag_s", "warn"]];
const formatOf = (field) => (field === "lag_s" ? span : rate);

function makeChart(feed, changed) {
  const holder = drawn(null, h("div", { role: "img" }));
  const observer = new ResizeObserver(fit);
  let data = [[]];
  let chosen = "";
  let told = 0;
  let plot, series;
  observer.observe(holder);
  return { view, close };

  function close() {
    observer.disconnect();
    plot?.destroy();
  }

  function fit() {
    const size = { width: holder.clientWidth, height: 160 };
    if (!size.width) return;
    plot ||= new uPlot({ ...size, ...options() }, data, holder);
    plot.setSize(size);
  }

  function options() {
    // Read at each drawing, to follow the theme.
    const color = (name) => () => getComputedStyle(holder).getPropertyValue(`--${name}`);
    const axis = (size, format, more) => ({ size, stroke: color("dim"), grid: { stroke: color("rule"), width: 1 },
      values: (plot, values) => values.map(format), ...more });
    const fromZero = { range: (plot, low, high) => [0, Math.max(0.1, high * 1.1)] };
    return {
      legend: { show: false }, cursor: { show: false },
      series: [{}, ...CURVES.map(([field, tone, dash]) => ({ scale: formatOf(field).name, stroke: color(tone), dash, points: { show: false } }))],
      // Up to five minutes; at least half a minute.
      scales: { x: { range: (plot, low, high) => [Math.max(high - 300, Math.min(low, high - 30)), high] }, rate: fromZero, span: fromZero },
      axes: [
        axis(30, (at) => date.format(at * 1000).slice(11, at % 60 ? 19 : 16), { incrs: [10, 30, 60] }),
        axis(60, rate, { scale: "rate" }),
        axis(60, span, { scale: "span", side: 1, grid: { show: false } }),
      ],
    };
  }

  function draw() {
    series = feed.series;
    if (!series.triggers.includes(chosen)) chosen = "";
    data = [series.points.map(({ at }) => at), ...CURVES.map(([field]) => feed.column(field, chosen))];
    plot?.setData(data);
  }

  function view() {
    if (series !== feed.series) draw();
    const value = (n) => formatOf(CURVES[n][0])(data[n + 1][data[0].length - 1]);
    if (Date.now() - told > 5000) {
      told = Date.now();
      holder.setAttribute("aria-label", `the last five minutes; now ${CURVES.map(([field], n) => `${field} ${value(n)}`)}`);
    }
    const onchange = ({ target }) => {
      chosen = target.value;
      draw();
      changed();
    };
    const legend = ([field, tone, dash], n) => h("span", h("i", { style: `border-top:2px ${dash ? "dashed" : "solid"} var(--${tone})` }),
      `${field.replace("_s", "")} `, h("b", value(n)));
    return h("section", { key: "chart", label: "Throughput" }, h("div.row",
      h("select", { label: "trigger", value: chosen, onchange }, ["", ...series.triggers].map((name) => h("option", { key: name, value: name }, name || "all triggers"))),
      CURVES.map(legend)), holder);
  }
}
