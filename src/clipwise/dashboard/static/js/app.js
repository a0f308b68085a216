// The page: what it shows, where it is, and when it asks again.

import { Alerts } from "./alerts.js";
import { onTheme } from "./colours.js";
import { el, wait } from "./dom.js";
import { Edit } from "./edit.js";
import { Head } from "./head.js";
import { Heat } from "./heat.js";
import { Histogram } from "./histogram.js";
import { listen } from "./keys.js";
import { labels } from "./names.js";
import { keysOf, Panels } from "./panels.js";
import { Pick } from "./pick.js";
import { readPlace, writePlace } from "./place.js";
import { Runs } from "./runs.js";
import { StateCard } from "./state.js";
import { Suggestion } from "./suggestion.js";
import { Unreachable } from "./unreachable.js";
import { move, scale } from "./view.js";

const MOST_PARTS = 8; // lines of a chart that can be told apart
const PAUSE = 150; // milliseconds between two rounds of questions, at least

export class App {
  constructor(root, source) {
    this._source = source;
    this._place = readPlace();
    this._runs = [];
    this._run = null;
    this._extent = [0, 1];
    this._wanted = false;
    this._busy = false;
    const zoom = { view: () => this._view(), zoom: (low, high) => this._zoom([low, high]), reset: () => this._zoom(null) };
    const changes = [(name, asked) => source.change(name, asked), () => this.refresh()];
    const edit = source.live ? new Edit(...changes) : null;
    this._list = new Runs({
      open: (id) => this._open(id), overlay: (id) => this._overlay(id), edit: edit && ((run) => edit.open(run)),
      pick: source.live ? new Pick(...changes) : null,
    });
    this._head = new Head({
      go: (change) => this._go(change), source: (name) => this._go({ source: name }), logged: (logged) => this._go({ logged, beside: undefined }),
      rank: source.live ? (rank) => this._go({ rank }) : null, reset: () => this._zoom(null),
      edit: edit && (() => edit.open(this._run)),
    });
    this._panels = new Panels(zoom);
    this._heat = new Heat(zoom);
    this._histogram = new Histogram((threshold) =>
      source.clipped(this._run.id, this._place.source ?? "", this._asked(), threshold));
    this._alerts = new Alerts((step) => this._around(step));
    this._suggestion = new Suggestion();
    this._state = new StateCard();
    this._build(root);
  }

  start() {
    window.addEventListener("hashchange", () => { this._place = readPlace(); this._histogram.forget(); this.refresh(); });
    window.addEventListener("popstate", () => { this._place = readPlace(); this.refresh(); });
    onTheme(() => this.refresh());
    this._source.listen(() => this.refresh(), (there) => this._reached(there));
    setInterval(() => !document.hidden && this._runs.length && this._list.show(this._runs, this._place), 10000);
    this.refresh();
  }

  // Asks for everything that is shown; calls while it does make it ask once more afterwards.
  async refresh() {
    this._wanted = true;
    if (this._busy) return;
    this._busy = true;
    try {
      while (this._wanted) {
        this._wanted = false;
        await this._round();
        this._reached(true);
        await wait(PAUSE);
      }
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      this._reached(false); // its news will say when it is back
    } finally {
      this._busy = false;
    }
  }

  async _round() {
    const { state, runs = [] } = await this._source.runs();
    this._runs = runs;
    const trouble = state.kind !== "ready" ? state : runs.length ? null : { kind: "empty", message: "" };
    this._state.show(trouble);
    this._content.hidden = trouble !== null;
    this._list.node.hidden = trouble !== null;
    if (trouble) return;
    this._settle();
    this._list.show(runs, this._place);
    const asked = this._place;
    const { run } = await this._source.run(asked.run);
    if (!run) return;
    this._run = run;
    this._name(run);
    const source = this._place.source ?? "";
    const chosen = named([run.id, ...this._place.others].map((id) => runs.find((one) => one.id === id)));
    const view = this._asked();
    // Other runs had other steps at that time.
    const all = this._place.axis === "time" && this._place.others.length ? { low: null, high: null } : {};
    const buckets = Math.round(Math.max(200, this._panels.nodes[0].clientWidth || 600));
    const [series, distribution, layers] = await Promise.all([
      this._source.series(chosen.map((one) => one.id), keysOf(this._place), { ...view, ...all, buckets }),
      this._source.distribution(run.id, source, view),
      this._source.layers(run.id, source, { ...view, columns: Math.min(buckets, 400) }),
    ]);
    if (asked.run !== this._place.run || !series.series) return; // gone elsewhere meanwhile
    this._measure(series.series, chosen);
    document.title = `${run.name} · clipwise`;
    this._head.show(run, this._place);
    this._panels.show(this._place, chosen, series.series, run.alerts);
    this._heat.show(layers.layers ?? null);
    // A report carries the norms of all steps only.
    const shown = this._place.range && this._source.live ? "of the steps shown" : "of all steps";
    this._histogram.show(distribution.distribution ?? null, shown);
    this._alerts.show(run.alerts, run.ranks);
    document.body.dataset.step = run.steps;
    this._advise(run, source);
  }

  // Not waited for: of a long run it reads all steps.
  async _advise(run, source) {
    const shown = () => this._run?.id === run.id && (this._place.source ?? "") === source;
    try {
      const { advice } = await this._source.advice(run.id, source);
      if (!advice || !shown()) return;
      this._suggestion.show(advice.suggestion);
      if (advice.status !== run.status || (advice.broken && !run.note.includes(advice.broken))) this.refresh();
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
    }
  }

  // The newest run, unless the address says which; none that is not there.
  _settle() {
    const there = new Set(this._runs.map((run) => run.id));
    if (!there.has(this._place.run)) this._place = { ...this._place, run: this._runs[0].id, others: [], range: null };
    this._place.others = this._place.others.filter((id) => there.has(id) && id !== this._place.run).slice(0, 15);
  }

  _name(run) {
    if (!run.sources.includes(this._place.source)) this._place.source = run.sources[0] ?? null;
    const { logged } = this._place;
    if (!run.logged.some((one) => one.source === logged?.source && one.name === logged?.name))
      this._place.logged = ofSource(run.logged, this._place.source);
    const parts = (run.parts[this._place.source ?? ""] ?? []).slice(0, MOST_PARTS);
    this._place = { ...this._place, parts, reasons: run.reasons[this._place.source ?? ""] ?? [] };
    const { beside } = this._place;
    if (beside === undefined || (beside && !run.logged.some((one) => one.source === beside.source && one.name === beside.name)))
      this._place = { ...this._place, beside: undefined, drawn: partner(run.logged, this._place.logged) };
    else this._place = { ...this._place, drawn: beside };
    if (!run.ranks.includes(this._place.rank)) this._place.rank = null;
  }

  _asked() {
    const [low, high] = this._place.range ?? [null, null];
    return { low, high, rank: this._place.rank };
  }

  _measure(series, chosen) {
    const all = chosen.flatMap((run) => Object.values(series[run.id] ?? {}).flatMap(Object.values));
    const low = Math.min(...all.map((one) => one.first));
    const high = Math.max(...all.map((one) => one.last[0]));
    this._extent = all.length ? [low, Math.max(high, low + 1)] : [0, 1];
  }

  _view() {
    return this._place.range ?? this._extent;
  }

  _go(change, { replace = true } = {}) {
    this._place = { ...this._place, ...change };
    writePlace(this._place, { replace });
    this.refresh();
  }

  _open(id) {
    if (id === null) return;
    this._histogram.forget();
    this._list.fold();
    const others = this._place.others.filter((one) => one !== id);
    this._go({ run: id, others, range: null, rank: null }, { replace: false });
  }

  _overlay(id) {
    const others = this._place.others.includes(id)
      ? this._place.others.filter((one) => one !== id)
      : [...this._place.others, id];
    this._go({ others });
  }

  _zoom(range) {
    if (range && range[1] - range[0] < 2) range = [range[0] - 1, range[1] + 1];
    const whole = range && range[0] <= this._extent[0] && range[1] >= this._extent[1];
    this._go({ range: whole ? null : range });
  }

  _around(step) {
    const half = Math.max(20, (this._extent[1] - this._extent[0]) / 40);
    this._zoom([step - half, step + half]);
    document.getElementById("panel-norm").scrollIntoView({ block: "nearest" });
  }

  _reached(there) {
    this._gone.hidden = there;
  }

  _build(root) {
    const shift = (part) => this._zoom(move(this._view(), this._extent, part));
    const grow = (factor) => this._zoom(scale(this._view(), factor));
    const help = listen({
      j: () => this._open(this._list.beside(1)), k: () => this._open(this._list.beside(-1)),
      "/": () => this._list.focusFilter(), "+": () => grow(0.5), "-": () => grow(2), 0: () => this._zoom(null),
      "←": () => this._place.range && shift(-0.25), "→": () => this._place.range && shift(0.25),
      s: () => this._go({ smooth: !this._place.smooth }),
      x: () => this._go({ axis: this._place.axis === "time" ? "step" : "time" }),
      l: () => this._panels.toggle("loss"), g: () => this._panels.toggle("norm"),
      a: () => this._alerts.node.scrollIntoView({ block: "start" }),
      t: () => document.getElementById("threshold-slider").focus(),
    });
    this._gone = el("p", { class: "gone", role: "alert", hidden: true },
      "The server does not answer. The page continues as soon as it does.");
    this._content = el("main", { hidden: true }, this._head.node,
      el("div", { class: "cards" }, this._panels.nodes, this._heat.node, this._histogram.node,
        this._suggestion.node, this._alerts.node));
    const several = this._source.live;
    root.replaceChildren(
      el("header", { class: "top" }, el("a", { href: "#", class: "brand" }, "clipwise"),
        el("span", { class: "quiet" }, several ? "live" : "report"), el("span", { class: "space" }),
        el("button", { class: "small", onclick: help, title: "Keys (?)" }, "Keys")),
      this._gone, el("div", { class: "page" }, el("nav", { "aria-label": "Runs" }, this._list.node),
        el("div", { class: "content" }, this._state.node, this._content)));
  }
}

// The validation loss beside a loss, of the same source.
function partner(logged, chosen) {
  if (!chosen || !/loss/i.test(chosen.name) || /val/i.test(chosen.name)) return null;
  return logged.find((one) => one.source === chosen.source && /val/i.test(one.name) && /loss/i.test(one.name)) ?? null;
}

// Runs with what each is called beside the others.
function named(runs) {
  const found = labels(runs, 36);
  return runs.map((run) => ({ ...run, label: found.get(run.id) }));
}

// Of what was logged the source's own loss, or the first.
function ofSource(logged, source) {
  return logged.find((one) => source && one.source === source && one.name === "loss") ?? logged[0] ?? null;
}
