// The news from the kernel, put together to one state, and the questions to it.

const NOTHING = { lab: {}, triggers: [], sources: [], runs: [], more_runs: 0, held_runs: [], sagas: [],
  letters: { open: 0, causes: [] } };
const MOST_POINTS = 300;

class Feed {
  constructor(model, changed) {
    this.model = model;
    this.changed = changed;
    this.view = Math.random().toString(36).slice(2) + Math.random().toString(36).slice(2);
    this.state = null;
    this.live = false;
    this.seq = null;
    this.series = { triggers: [], fields: [], points: [], version: 0 };
    this.pending = new Map();
    this.lastId = 0;
    this.onNews = (news, buffers) => this.take(news, buffers || []);
    this.onStill = () => !this.live && this.state && this.takeStill();
    this.onVisibility = () => (document.hidden ? this.close() : this.open());
    model.on("msg:custom", this.onNews);
    model.on("change:still", this.onStill);
    document.addEventListener("visibilitychange", this.onVisibility);
    this.timer = setInterval(() => this.beat(), 1000);
    this.onVisibility();
  }

  destroy() {
    clearInterval(this.timer);
    document.removeEventListener("visibilitychange", this.onVisibility);
    this.model.off("msg:custom", this.onNews);
    this.model.off("change:still", this.onStill);
    this.pending.clear();
    this.close();
  }

  open() {
    this.opened = this.heard = Date.now();
    this.isOpen = true;
    this.tell("open");
  }

  close() {
    this.isOpen = false;
    this.tell("close");
  }

  tell(cmd) {
    this.told = Date.now();
    this.send({ cmd });
  }

  send(content) {
    try {
      const sent = this.model.send({ ...content, view: this.view });
      if (sent && sent.catch) sent.catch(() => {});
    } catch {
      // Without a kernel nothing can be sent; the status line says so.
    }
  }

  // Never rejects: what went wrong is the reply's `error`.
  ask(content) {
    const id = ++this.lastId;
    return new Promise((settle) => {
      this.pending.set(id, { settle, asked: Date.now() });
      this.send({ ...content, id });
    });
  }

  answer(id, reply) {
    const question = this.pending.get(id);
    this.pending.delete(id);
    if (question) question.settle(reply);
  }

  beat() {
    const now = Date.now();
    for (const [id, { asked }] of this.pending) {
      if (now - asked > 30000) this.answer(id, { error: "the kernel has not answered for 30 s" });
    }
    if (this.isOpen) {
      const silence = now - this.told;
      // A view that was silent for long, say on a sleeping machine, is taken for closed by the kernel.
      if (silence > 9500) this.tell(this.live && silence < 30000 ? "alive" : "open");
      if (this.missing) this.resync();
      if (!this.live && now - this.opened > 2900 && !this.state) this.takeStill();
    }
    this.changed();
  }

  resync() {
    this.missing = true;
    const now = Date.now();
    if (!this.isOpen || now - (this.resynced || 0) < 1000) return;
    this.resynced = now;
    this.send({ cmd: "resync" });
  }

  take(news, buffers) {
    if (news.kind === "reply") {
      if (news.view === this.view) this.answer(news.id, news);
      return;
    }
    this.heard = Date.now();
    this.busy = news.kind === "busy" ? news.busy_s : 0;
    if (news.kind === "full") {
      this.live = true;
      this.missing = false;
      this.seq = news.seq;
      this.state = { ...NOTHING, ...news };
      this.append(news.series, buffers[0], true);
    } else if (news.kind === "tick" && this.live) {
      if (news.seq !== this.seq + 1) this.resync();
      this.seq = news.seq;
      this.state = { ...this.state, ...news };
      this.append(news.series, buffers[0], false);
    }
    this.changed();
  }

  takeStill() {
    const still = this.model.get("still");
    if (!still || !Object.keys(still).length) return;
    this.state = { ...NOTHING, ...still };
    this.changed();
  }

  append(series, buffer, afresh) {
    if (!series) return;
    const { t0, triggers, fields, points } = series;
    if (afresh) this.series = { triggers, fields, points: [], version: this.series.version + 1 };
    else if (triggers.join("\n") !== this.series.triggers.join("\n")) return this.resync();
    const width = 1 + triggers.length * fields.length;
    if (!points || !buffer || buffer.byteLength < 4 * width * points) return;
    // Copied, for what comes need not be aligned.
    const start = buffer.byteOffset || 0;
    const numbers = new Float32Array((buffer.buffer || buffer).slice(start, start + 4 * width * points));
    const kept = this.series.points;
    for (let n = 0; n < points; n++) {
      const row = numbers.subarray(n * width, (n + 1) * width);
      const at = t0 + row[0];
      if (!kept.length || at > kept[kept.length - 1].at) kept.push({ at, row });
    }
    kept.splice(0, kept.length - MOST_POINTS);
    this.series.version++;
  }

  // One field over time, of one trigger or of all: rates are added, of lags the longest counts.
  column(field, trigger) {
    const { triggers, fields, points } = this.series;
    const first = 1 + fields.indexOf(field);
    const chosen = triggers.map((name, n) => first + n * fields.length).filter((_, n) => !trigger || triggers[n] === trigger);
    return points.map(({ row }) => {
      let sum = null;
      for (const place of first ? chosen : []) {
        const value = row[place];
        if (Number.isFinite(value)) sum = field === "lag_s" ? Math.max(sum, value) : sum + value;
      }
      return sum;
    });
  }
}
