// Merges the kernel's messages into one state; sends commands.

const NOTHING = { lab: {}, triggers: [], sources: [], runs: [], held_runs: [], sagas: [], letters: { causes: [] } };

function openFeed(model, changed) {
  const feed = { live: false, state: null, series: { triggers: [], fields: [], points: [] }, ask, column, close };
  const view = String(Math.random());
  const questions = new Map();
  const look = () => tell(document.hidden ? "close" : "open");
  const timer = setInterval(beat, 1000);
  let asked = 0;
  let seq, told, closed, missing;
  model.on("msg:custom", take);
  model.on("comm_live_update", lose);
  document.addEventListener("visibilitychange", look);
  look();
  return feed;

  function close() {
    clearInterval(timer);
    document.removeEventListener("visibilitychange", look);
    model.off("msg:custom", take);
    model.off("comm_live_update", lose);
    tell("close");
  }

  // This view's kernel is gone, as after a restart.
  function lose() {
    feed.lost = true;
    changed();
  }

  function tell(cmd) {
    told = Date.now();
    closed = cmd === "close";
    feed.heard ||= told;
    send({ cmd, zone: date.resolvedOptions().timeZone });
  }

  function send(content) {
    try {
      model.send({ ...content, view })?.catch?.(() => {});
    } catch {} // The status line shows it.
  }

  function ask(content) {
    return new Promise((answer) => {
      questions.set(++asked, answer);
      send({ ...content, id: asked });
    });
  }

  function beat() {
    const silence = Date.now() - told;
    if (!closed) {
      // After a long sleep the kernel considers this view closed.
      if (silence > 9500) tell(Date.now() - feed.heard < 25000 ? "alive" : "open");
      if (missing) send({ cmd: "resync" });
    }
    changed();
  }

  function take(news, buffers) {
    const full = news.kind === "full";
    if (news.kind === "reply") {
      if (news.view !== view) return;
      questions.get(news.id)?.(news);
      questions.delete(news.id);
      return;
    }
    feed.heard = Date.now();
    feed.lost = false;
    feed.busy = news.busy_s;
    if (full || (news.kind === "tick" && feed.live)) {
      missing = !full && (missing || news.seq !== seq + 1);
      seq = news.seq;
      feed.live = true;
      feed.state = { ...(full ? NOTHING : feed.state), ...news };
      if (news.series) append(news.series, buffers?.[0], full);
    }
    changed();
  }

  function append({ t0, triggers, fields, points }, buffer, full) {
    const width = 1 + triggers.length * fields.length;
    if (!full && `${triggers}` !== `${feed.series.triggers}`) return (missing = true);
    const all = full ? [] : [...feed.series.points];
    if (points && buffer) {
      // Copied to be aligned.
      const numbers = new Float32Array(buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + 4 * width * points));
      for (let n = 0; n < points; n++) {
        const row = numbers.subarray(n * width, (n + 1) * width);
        const at = t0 + row[0];
        const last = all.at(-1)?.at ?? at - 1;
        // A curve breaks where points are missing.
        if (at > last + 3) all.push({ at: last + 1, row: [] });
        if (at > last) all.push({ at, row });
      }
    }
    if (full || points) feed.series = { triggers, fields, points: all.slice(-300) };
  }

  // For all triggers together: the sum of the rates, the longest lag.
  function column(field, trigger, most = 300) {
    const { triggers, fields, points } = feed.series;
    const first = 1 + fields.indexOf(field);
    const places = triggers.flatMap((name, n) => (!trigger || name === trigger ? first + n * fields.length : []));
    const join = field === "lag_s" ? Math.max : (a, b) => a + b;
    return points.slice(-most).map(({ row }) => places.reduce((sum, place) => (known(row[place]) ? join(sum, row[place]) : sum), null));
  }
}
