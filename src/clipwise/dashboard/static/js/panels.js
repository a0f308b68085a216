// The four charts over the steps: loss, norm with threshold, clip fraction, direction.

import { Band } from "./band.js";
import { Chart } from "./chart.js";
import { Clock } from "./clock.js";
import { runColour, theme } from "./colours.js";
import { el, keep } from "./dom.js";
import { title } from "./format.js";

// What is asked for, and how it is drawn. `raw` and `mean` say which of the two lines, and how strong; `second`
// is a line beside it, where there is one: of a clip of weights, how many of them stand at the bound.
const PANELS = [
  {
    id: "loss", title: "Loss", raw: 0.35, mean: true, scale: "linear",
    key: (place) => place.logged,
    second: (place) => place.drawn,
    none: "No loss was recorded. In the loop, monitor.log(loss=loss) records it.",
  },
  {
    id: "norm", title: "Gradient norm", raw: 1, scale: "log", threshold: true,
    key: (place) => ours(place, "norm"),
    none: "No gradient norm was recorded.",
  },
  {
    id: "fraction", title: "Clip fraction", mean: true, limits: [-0.02, 1.02],
    key: (place) => ours(place, "clip_fraction"),
    second: (place) => ours(place, "at_bound"),
    none: "No clip fraction was recorded.",
  },
  {
    id: "direction", title: "Direction kept", raw: 0.35, mean: true, highest: 1,
    key: (place) => ours(place, "direction"),
    none: "The cosine between the gradient before and after clipping is recorded where it is free, as with one"
      + " norm for all; attach(..., direction=True) asks for it.",
  },
];

// What is asked for: whose values, and which of them.
function ours(place, name) {
  return { source: place.source ?? "", name: `clipwise/${name}` };
}

export function keysOf(place) {
  const keys = PANELS.flatMap((panel) => [panel.key(place), panel.second?.(place)]).filter(Boolean);
  const times = place.axis === "time" ? TIMES(place) : [];
  const parts = place.parts.flatMap((part) => ["norm", "threshold", "clip_fraction"].map((name) => ours(part, name)));
  const held = place.reasons.map((reason) => ours(place, `held/${reason}`));
  return [...new Map([...keys, ours(place, "threshold"), ...held, ...parts, ...times].map((key) => [JSON.stringify([key.source, key.name]), key])).values()];
}

// When the steps were: by the clipper's own clock, or by that of what is logged.
const TIMES = (place) => [place.source ?? "", ""].map((source) => ({ source, name: "time" }));

// Of the series of a run, which are there by source and name.
function pick(there, key) {
  return key ? there?.[key.source]?.[key.name] : undefined;
}

export class Panels {
  // wanted: { view() -> [low, high], zoom(low, high), reset() }, all in steps
  constructor(wanted) {
    this._wanted = wanted;
    this._clocks = [];
    this._extent = [0, 1];
    this._last = null;
    const along = {
      view: () => this._view(), reset: () => wanted.reset(),
      zoom: (low, high) => wanted.zoom(...(this._clocks.length ? [this._clocks[0].step(low), this._clocks[0].step(high)] : [low, high])),
    };
    this.cards = PANELS.map((panel) => this._card(panel, along));
    this.nodes = this.cards.map((card) => card.node);
  }

  toggle(id) {
    const card = this.cards.find((one) => one.panel.id === id);
    card.scale = card.scale === "log" ? "linear" : "log";
    if (this._last) this.show(...this._last);
  }

  // runs: [{ id, name, label }], the subject first; series: by run, source and name.
  show(place, runs, series, alerts) {
    this._last = [place, runs, series, alerts];
    this._clocks = clocksOf(place, runs, series);
    const time = this._clocks.length > 0;
    const clock = (at) => this._clocks[at] ?? STEPS;
    const drawn = this.cards.map(({ panel }) =>
      runs.flatMap((run, at) => linesOf(panel, place, run, at, series[run.id] ?? {}, runs.length).map((line) => along({ ...line, full: whole(line, run, runs) }, clock(at)))));
    const ends = drawn.flat().flatMap(({ x }) => (x.length ? [x[0], x[x.length - 1]] : []));
    this._extent = ends.length ? [Math.min(...ends), Math.max(...ends)] : [0, 1];
    this.cards.forEach((card, i) => {
      const lines = drawn[i];
      const key = card.panel.key(place);
      const marks = runs.flatMap((run, at) => marksOf(pick(series[run.id], key), clock(at)));
      const empty = !lines.length;
      card.host.hidden = card.tools.hidden = empty;
      card.none.hidden = !empty;
      if (empty) card.chart.clear();
      else {
        const logarithmic = card.scale === "log" && positive(lines);
        const when = alerts.map((alert) => ({ ...alert, step: clock(0).at(alert.step) }));
        card.chart.show(lines, { title: card.panel.title, logarithmic, time, limits: card.panel.limits, highest: card.panel.highest, marks, alerts: when });
      }
      card.band?.show(empty || !runs.length ? [] : heldOf(place, series[runs[0].id], clock(0)));
      const window_ = place.smooth && runs.length && pick(series[runs[0].id], key)?.mean.window;
      const several = runs.length === 1 && place.parts.length > 0;
      const timeless = place.axis === "time" && !time;
      keep(card.note, [card.panel.mean && window_, card.scale, key, timeless, several], () => noteOf(card, key, window_, timeless, several));
    });
  }

  _view() {
    if (!this._clocks.length) return this._wanted.view();
    const range = this._last[0].range;
    return range ? range.map((step) => this._clocks[0].at(step)) : this._extent;
  }

  _card(panel, wanted) {
    const host = el("div", { class: "plot", role: "img", tabindex: 0 });
    const readout = el("p", { class: "readout" });
    const note = el("span", { class: "note" });
    const none = el("p", { class: "none", hidden: true }, panel.none);
    const tools = el("span", { class: "tools" });
    const card = { panel, host, note, none, tools, scale: panel.scale };
    if (panel.threshold) card.band = new Band(wanted, (at) => card.chart.place(at));
    card.chart = new Chart(host, readout, wanted, (at) => card.band?.aim(at));
    if (panel.scale)
      tools.append(el("button", { class: "small", title: `Linear or logarithmic (${panel.id === "loss" ? "l" : "g"})`,
        "data-scale": panel.id, onclick: () => this.toggle(panel.id) }, "lin / log"));
    for (const kind of ["PNG", "CSV"])
      tools.append(el("button", { class: "small", title: `Save what is shown as ${kind}`, "aria-label": `Save ${panel.title} as ${kind}`,
        onclick: () => card.chart.save(kind, `${this._last[1][0].name.slice(0, 60)}-${panel.id}`, card.band?.lines) }, kind));
    card.node = el("section", { class: "card", id: `panel-${panel.id}`, "aria-label": panel.title },
      el("header", {}, el("h2", {}, panel.title), note, tools), readout, host, card.band?.node ?? "", none);
    return card;
  }
}

// The shares that held the threshold of the run that is looked at.
function heldOf(place, there, clock) {
  return place.reasons.flatMap((name) => {
    const found = pick(there, ours(place, `held/${name}`));
    return found ? [{ name, x: found.line.x.map((step) => clock.at(step)), y: found.line.y, end: clock.at(found.last[0] + 1) }] : [];
  });
}

const STEPS = new Clock(null);

// One a run where the axis is the time, and all of them have times; else none.
function clocksOf(place, runs, series) {
  if (place.axis !== "time") return [];
  const found = runs.map((run) => new Clock(TIMES(place).map((key) => pick(series[run.id], key)).find(Boolean)));
  return found.every((clock) => clock.there) ? found : [];
}

// What a line is called where there is room for the whole name of its run.
function whole({ label }, run, runs) {
  return runs.length > 1 ? run.name + label.slice(run.label.length) : label;
}

function along(line, clock) {
  if (!clock.there) return line;
  const last = line.last && [clock.at(line.last[0]), line.last[1]];
  return { ...line, x: line.x.map((step) => clock.at(step)), last, marks: marksOf(line, clock) };
}

function marksOf(found, clock) {
  return (found?.marks ?? []).map(([step, ...rest]) => [clock.at(step), ...rest]);
}

function noteOf(card, key, window_, timeless, several) {
  const parts = [];
  if (card.panel.id === "loss" && key && title(key) !== "loss") parts.push(title(key));
  if (card.panel.threshold) parts.push(several ? "of each part before clipping" : "before clipping");
  if (card.panel.mean && window_) parts.push(`mean of ${window_} steps`);
  if (card.scale === "log") parts.push("log scale");
  if (timeless) parts.push("over the steps: no times were recorded");
  return document.createTextNode(parts.join(" · "));
}

function linesOf(panel, place, run, at, there, many) {
  const found = pick(there, panel.key(place));
  if (!found) return [];
  if (many === 1 && place.parts.length && (panel.threshold || panel.limits)) return linesOfParts(panel, place, there);
  const colour = runColour(at);
  const lines = [];
  const label = many > 1 ? run.label : SHORT[panel.id] ?? title(place.logged);
  const smooth = panel.mean && place.smooth;
  if (!smooth || (panel.raw && many === 1)) {
    const raw = { label, colour, ...found.line, marks: found.marks, last: found.last, width: smooth ? 1.2 : 1.4 };
    lines.push(smooth && panel.raw < 1 ? { ...raw, alpha: panel.raw } : raw);
  }
  if (smooth) {
    const { x, y } = found.mean;
    // Where no finite value is in the mean, it is what the last value is.
    const last = [found.last[0], y[y.length - 1] ?? found.last[1]];
    lines.push({ label: lines.length ? "mean" : label, colour, x, y, marks: found.marks, last, width: 2 });
  }
  const beside = panel.second?.(place);
  const second = pick(there, beside);
  if (second) {
    // A loss that is taken now and then is no noise to be smoothed.
    const line = panel.id === "loss" && smooth && second.count >= OFTEN ? second.mean : second.line;
    const name = panel.id === "loss" ? title(beside) : "at the bound";
    const own = panel.id === "loss" ? runColour(2) : theme().limit;
    lines.push({
      label: many > 1 ? `${run.label}: ${name}` : name, colour: many > 1 ? colour : own, x: line.x, y: line.y,
      marks: second.marks, last: [second.last[0], line.y[line.y.length - 1] ?? second.last[1]], dash: [6, 3], width: 1.8,
    });
  }
  const limit = panel.threshold && pick(there, ours(place, "threshold"));
  if (limit && limit.line.y.some((value) => value !== null)) {
    // A seam in the colour of the paper sets it off from the norms behind it.
    lines.push({ label: "seam", colour: theme().card, ...limit.line, width: 4.5, alpha: 0.85, quiet: true });
    lines.push({
      label: many > 1 ? `${run.label}: threshold` : "threshold", colour: many > 1 ? colour : theme().limit,
      ...limit.line, last: limit.last, dash: [6, 3], width: 2, quiet: many > 1,
    });
  }
  return lines;
}

// With `by_name` each part has a norm and a threshold of its own.
function linesOfParts(panel, place, there) {
  return place.parts.flatMap(({ source, pattern }, at) => {
    const found = pick(there, ours({ source }, panel.threshold ? "norm" : "clip_fraction"));
    if (!found) return [];
    const { x, y } = panel.mean && place.smooth ? found.mean : found.line;
    const last = [found.last[0], y[y.length - 1] ?? found.last[1]];
    const line = { label: pattern, colour: runColour(at), x, y, marks: found.marks, last, width: panel.mean ? 2 : 1.2 };
    const limit = panel.threshold && pick(there, ours({ source }, "threshold"));
    if (!limit || !limit.line.y.some((value) => value !== null)) return [line];
    return [line, { label: `${pattern}: threshold`, colour: line.colour, ...limit.line, last: limit.last, dash: [6, 3], width: 2 }];
  });
}

const OFTEN = 200;
const SHORT = { norm: "norm", fraction: "clipped", direction: "cosine" };

function positive(lines) {
  return lines.some((line) => line.y.some((value) => value > 0));
}
