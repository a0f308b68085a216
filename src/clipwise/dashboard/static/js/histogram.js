// How the norms are distributed, and what any threshold would have clipped.

import { faint, runColour, theme } from "./colours.js";
import { el, sharp } from "./dom.js";
import { count, many, number, percent, tick } from "./format.js";

const HEIGHT = 190;
const TOP = 40;
const FOOT = 20;
const SIDE = 10;

export class Histogram {
  // ask(threshold) -> how many norms lie above it
  constructor(ask) {
    this._ask = ask;
    this._data = null;
    this._chosen = null; // { threshold, clipped }
    this._touched = false;
    this._canvas = el("canvas", { role: "img" });
    this._slider = el("input", { type: "range", min: 0, max: 0, step: 1, id: "threshold-slider",
      "aria-label": "Threshold", oninput: () => this._slid() });
    this._field = el("input", { type: "text", inputmode: "decimal", id: "threshold-field", size: 9,
      "aria-label": "Threshold as a number", autocomplete: "off", spellcheck: "false",
      onchange: () => this._typed() });
    this._said = el("output", { for: "threshold-slider threshold-field", id: "threshold-said" });
    this._marks = el("div", { class: "chips" });
    this._where = el("span", { class: "note" });
    this._none = el("p", { class: "none" }, "No norms above 0 in these steps.");
    this._body = el("div", {}, this._canvas, this._slider,
      el("p", { class: "what-if" }, el("label", { for: "threshold-field" }, "A threshold of "), this._field, " ",
        this._said), this._marks);
    this.node = el("section", { class: "card", id: "panel-distribution", "aria-label": "Distribution of norms" },
      el("header", {}, el("h2", {}, "Distribution of norms"), this._where), this._body, this._none);
    new ResizeObserver(() => this._draw()).observe(this.node);
  }

  show(data, where) {
    this._where.textContent = where;
    const same = JSON.stringify(data) === JSON.stringify(this._data);
    this._data = data;
    const empty = !data || !data.edges.length;
    this._body.hidden = empty;
    this._none.hidden = !empty;
    if (empty || (same && this._chosen)) return this._draw();
    this._slider.max = data.thresholds.length - 1;
    if (this._touched) this._look(this._chosen.threshold);
    else {
      const start = data.marks.find((mark) => mark.name === "threshold") ?? data.marks.find((mark) => mark.name.startsWith("95"));
      this._choose(start.value, start.clipped);
    }
    this._chips();
    this._draw();
  }

  // A run of its own has a threshold of its own.
  forget() {
    this._touched = false;
    this._chosen = null;
    this._data = null;
  }

  _slid() {
    const at = Number(this._slider.value);
    this._touched = true;
    this._choose(this._data.thresholds[at], this._data.clipped[at], false);
  }

  _typed() {
    const given = Number(this._field.value.trim().replace(",", "."));
    if (!this._field.value.trim() || !Number.isFinite(given) || given < 0) {
      this._said.textContent = "is not a threshold: enter a number of at least 0.";
      this._said.classList.add("bad");
      return;
    }
    this._touched = true;
    this._look(given);
  }

  async _look(threshold) {
    const mark = this._data.marks.find((one) => one.value === threshold);
    if (mark) return this._choose(mark.value, mark.clipped);
    const found = await this._ask(threshold);
    if (found && found.clipped !== undefined) this._choose(found.threshold, found.clipped);
  }

  _choose(threshold, clipped, move = true) {
    this._chosen = { threshold, clipped };
    if (move) {
      const at = this._data.thresholds.findIndex((one) => one >= threshold);
      this._slider.value = at < 0 ? this._data.thresholds.length - 1 : at;
    }
    if (document.activeElement !== this._field || move) this._field.value = number(threshold);
    const all = this._data.count;
    this._said.classList.remove("bad");
    this._said.textContent = `would have clipped ${count(clipped)} of ${many(all, "step")} (${percent(clipped / all)}).`;
    this._slider.setAttribute("aria-valuetext", `${number(threshold)}: ${this._said.textContent}`);
    this._draw();
  }

  _chips() {
    const chips = this._data.marks.map((mark) =>
      el("button", { class: "chip", "data-mark": mark.name, title: `${mark.name}: ${number(mark.value)}`,
        onclick: () => { this._touched = true; this._choose(mark.value, mark.clipped); } },
      `${mark.name} `, el("b", {}, number(mark.value))));
    const { zeros, nonfinite } = this._data;
    if (zeros) chips.push(el("span", { class: "chip-note" }, `${many(zeros, "step")} with norm 0`));
    if (nonfinite) chips.push(el("span", { class: "chip-note bad" }, `${many(nonfinite, "step")} with NaN or Inf, not counted`));
    this._marks.replaceChildren(...chips);
  }

  _draw() {
    if (this._body.hidden || !this._data?.edges.length || !this._chosen) return;
    const { edges, counts, marks, thresholds } = this._data;
    const width = this._body.clientWidth;
    if (!width) return;
    const context = sharp(this._canvas, width, HEIGHT);
    const look = theme();
    const [low, high] = [thresholds[0], thresholds[thresholds.length - 1]].map(Math.log);
    const x = (value) => SIDE + ((Math.log(value) - low) / (high - low)) * (width - 2 * SIDE);
    const bottom = HEIGHT - FOOT;
    const tallest = Math.max(...counts, 1);
    // The square root lets a single outlier be seen beside thousands.
    const y = (times) => bottom - Math.sqrt(times / tallest) * (bottom - TOP);
    const cut = x(this._chosen.threshold);
    const colour = runColour(0);
    for (let i = 0; i < counts.length; i++) {
      if (!counts[i]) continue;
      const [from, to] = [x(edges[i]), x(edges[i + 1])];
      const top = Math.min(y(counts[i]), bottom - 1.5);
      for (const [a, b, fill] of [[from, Math.min(to, cut), faint(colour, 0.55)], [Math.max(from, cut), to, look.limit]])
        if (b > a) {
          context.fillStyle = fill;
          context.fillRect(a, top, Math.max(0.75, b - a - 0.75), bottom - top);
        }
    }
    context.strokeStyle = look.line;
    context.beginPath();
    context.moveTo(SIDE, bottom + 0.5);
    context.lineTo(width - SIDE, bottom + 0.5);
    context.stroke();
    this._ticks(context, look, x, low, high, bottom);
    this._percentiles(context, look, x, marks, bottom, width);
    context.strokeStyle = look.limit;
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(cut, TOP - 12);
    context.lineTo(cut, bottom);
    context.stroke();
    this._canvas.setAttribute("aria-label", `Histogram of ${many(this._data.count, "norm")}; `
      + marks.map((mark) => `${mark.name} ${number(mark.value)}`).join(", "));
  }

  _ticks(context, look, x, low, high, bottom) {
    context.fillStyle = look.quiet;
    context.font = '11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
    context.textAlign = "center";
    context.textBaseline = "top";
    const decades = (high - low) / Math.LN10;
    const within = decades > 6 ? [1] : decades > 2 ? [1, 3] : decades > 0.7 ? [1, 2, 5] : [1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9];
    let free = -Infinity;
    for (let power = Math.floor(low / Math.LN10); power <= high / Math.LN10; power++)
      for (const digit of within) {
        const value = digit * 10 ** power;
        const at = x(value);
        const text = tick(value);
        const half = context.measureText(text).width / 2;
        if (at - half < Math.max(free, 0) || at + half > x(Math.exp(high)) + SIDE || Math.log(value) < low) continue;
        free = at + half + 12;
        context.fillText(text, at, bottom + 5);
      }
  }

  // Their names stand in two rows, where there is room.
  _percentiles(context, look, x, marks, bottom, width) {
    context.font = '11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
    context.textBaseline = "top";
    const free = [-Infinity, -Infinity];
    for (const mark of [...marks].sort((a, b) => a.value - b.value)) {
      if (mark.name === "threshold" || !(mark.value > 0)) continue;
      const at = x(mark.value);
      const text = SHORT[mark.name] ?? mark.name.split("th ")[0] + " %";
      const half = context.measureText(text).width / 2;
      const middle = Math.min(Math.max(at, half), width - half);
      const row = free.findIndex((end) => middle - half > end + 5);
      context.strokeStyle = look.quiet;
      context.lineWidth = 1;
      context.setLineDash([2, 3]);
      context.beginPath();
      context.moveTo(at, row === 1 ? 27 : 14);
      context.lineTo(at, bottom);
      context.stroke();
      context.setLineDash([]);
      if (row < 0) continue;
      free[row] = middle + half;
      context.textAlign = "center";
      context.fillStyle = look.ink;
      context.fillText(text, middle, row * 13);
    }
  }
}

const SHORT = { mean: "mean", median: "median" };
