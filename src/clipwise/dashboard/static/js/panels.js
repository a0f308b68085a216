// The four charts over the steps: loss, norm with threshold, clip fraction, direction.

import { Chart } from "./chart.js";
import { runColour, theme } from "./colours.js";
import { el, keep } from "./dom.js";
import { title } from "./format.js";

// What is asked for, and how it is drawn. `raw` and `mean` say which of the two lines, and how strong; `second`
// is a line beside it, where there is one: of a clip of weights, how many of them stand at the bound.
const PANELS = [
  {
    id: "loss", title: "Loss", raw: 0.35, mean: true, scale: "linear",
    key: (place) => place.logged,
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
  return [...keys, ours(place, "threshold")];
}

// Of the series of a run, which are there by source and name.
function pick(there, key) {
  return key ? there?.[key.source]?.[key.name] : undefined;
}

export class Panels {
  constructor(wanted) {
    this._scales = {};
    this._last = null;
    this.cards = PANELS.map((panel) => this._card(panel, wanted));
    this.nodes = this.cards.map((card) => card.node);
  }

  toggle(id) {
    const card = this.cards.find((one) => one.panel.id === id);
    card.scale = card.scale === "log" ? "linear" : "log";
    if (this._last) this.show(...this._last);
  }

  // runs: [{ id, name }], the subject first; series: by run, source and name.
  show(place, runs, series, alerts) {
    this._last = [place, runs, series, alerts];
    for (const card of this.cards) {
      const lines = runs.flatMap((run, at) => linesOf(card.panel, place, run, at, series[run.id] ?? {}, runs.length));
      const key = card.panel.key(place);
      const marks = runs.flatMap((run) => pick(series[run.id], key)?.marks ?? []);
      const empty = !lines.length;
      card.host.hidden = empty;
      card.none.hidden = !empty;
      if (empty) card.chart.clear();
      else {
        const logarithmic = card.scale === "log" && positive(lines);
        card.chart.show(lines, { logarithmic, limits: card.panel.limits, highest: card.panel.highest, marks, alerts });
      }
      const window_ = runs.length && pick(series[runs[0].id], key)?.mean.window;
      keep(card.note, [card.panel.mean && window_, card.scale, key], () => noteOf(card, key, window_));
      card.host.setAttribute("aria-label", `${card.panel.title} over the steps`);
    }
  }

  _card(panel, wanted) {
    const host = el("div", { class: "plot", role: "img" });
    const readout = el("p", { class: "readout" });
    const note = el("span", { class: "note" });
    const none = el("p", { class: "none", hidden: true }, panel.none);
    const card = { panel, host, note, none, scale: panel.scale };
    const scale = panel.scale
      ? el("button", { class: "small", title: `Linear or logarithmic (${panel.id === "loss" ? "l" : "g"})`,
          "data-scale": panel.id, onclick: () => this.toggle(panel.id) }, "lin / log")
      : null;
    card.node = el("section", { class: "card", id: `panel-${panel.id}`, "aria-label": panel.title },
      el("header", {}, el("h2", {}, panel.title), note, scale), readout, host, none);
    card.chart = new Chart(host, readout, wanted);
    return card;
  }
}

function noteOf(card, key, window_) {
  const parts = [];
  if (card.panel.id === "loss" && key && title(key) !== "loss") parts.push(title(key));
  if (card.panel.threshold) parts.push("before clipping");
  if (card.panel.mean && window_) parts.push(`mean of ${window_} steps`);
  if (card.scale === "log") parts.push("log scale");
  return document.createTextNode(parts.join(" · "));
}

function linesOf(panel, place, run, at, there, many) {
  const found = pick(there, panel.key(place));
  if (!found) return [];
  const colour = runColour(at);
  const lines = [];
  const label = many > 1 ? run.label : SHORT[panel.id] ?? title(place.logged);
  if (panel.raw && !(many > 1 && panel.mean && panel.raw < 1))
    lines.push({ label, colour, ...found.line, marks: found.marks, last: found.last, alpha: panel.raw < 1 ? panel.raw : null, width: 1.2 });
  if (panel.mean) {
    const { x, y } = found.mean;
    // Where no finite value is in the mean, it is what the last value is.
    const last = [found.last[0], y[y.length - 1] ?? found.last[1]];
    lines.push({ label: lines.length ? "mean" : label, colour, x, y, marks: found.marks, last, width: 2 });
  }
  const second = pick(there, panel.second?.(place));
  if (second) {
    const name = many > 1 ? `${run.label}: at the bound` : "at the bound";
    lines.push({ label: name, colour: many > 1 ? colour : theme().limit, ...second.line, marks: second.marks, last: second.last, dash: [6, 3] });
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

const SHORT = { norm: "norm", fraction: "clipped", direction: "cosine" };

function positive(lines) {
  return lines.some((line) => line.y.some((value) => value > 0));
}
