// One chart of lines over the steps or the time: uPlot, with our axes, zoom, marks, readout and keys.

import { faint, theme } from "./colours.js";
import { el } from "./dom.js";
import { count, elapsed, number, stepTick, tick } from "./format.js";
import { marksPlugin } from "./marks.js";
import { saveNumbers, savePicture } from "./save.js";
import { spoken } from "./spoken.js";

const HEIGHT = 230;

export class Chart {
  // wanted: { zoom(low, high), reset(), view() -> [low, high] }
  // aimed(x): told where the cursor is, null where nowhere
  constructor(host, readout, wanted, aimed = () => {}) {
    this._host = host;
    this._readout = readout;
    this._wanted = wanted;
    this._aimed = aimed;
    this._shape = "";
    this._lines = [];
    this._marks = [];
    this._alerts = [];
    this._plot = null;
    this._at = null;
    host.addEventListener("keydown", (event) => this._key(event));
    // Spoken where the keys move it, not with each move of the mouse.
    host.addEventListener("focus", () => readout.setAttribute("aria-live", "polite"));
    host.addEventListener("blur", () => { readout.removeAttribute("aria-live"); this._aim(null); });
    new ResizeObserver(() => this._resize()).observe(host);
  }

  // lines: { label, colour, x, y, last, dash, width, alpha, quiet }: a quiet line has no place in the readout.
  show(lines, { title, logarithmic = false, time = false, limits = null, highest = null, marks = [], alerts = [] } = {}) {
    this._lines = lines;
    this._title = title;
    this._time = time;
    this._marks = marks;
    this._alerts = alerts;
    const shape = JSON.stringify([
      logarithmic, time, limits, highest, theme(), lines.map((line) => [line.label, line.colour, line.dash, line.width, line.alpha]),
    ]);
    const data = joined(lines);
    if (this._plot && shape === this._shape) this._plot.setData(data);
    else this._make(shape, data, logarithmic, (low, high) => limits ?? rangeOf(low, high, logarithmic, highest));
    this._tell(this._at);
    this._host.setAttribute("aria-label", spoken(title, lines, marks, (at) => this.place(at)));
  }

  // kind: "PNG" or "CSV"; more: further lines, of which there are numbers only.
  save(kind, name, more = []) {
    const lines = this._lines.filter((line) => line.label !== "seam");
    if (kind === "CSV") saveNumbers(name, this._time ? "seconds" : "step", [...lines, ...more]);
    else savePicture(name, this._title, this._plot.ctx.canvas, lines);
  }

  place(at) {
    return this._time ? elapsed(at) : `step ${count(Math.floor(at))}`;
  }

  // The keys move the cursor from point to point, those that lie on one pixel at once.
  _key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this._plot) return;
    const [low, high] = this._wanted.view();
    const xs = [...new Set(this._lines.flatMap((line) => line.x))].filter((x) => x >= low && x <= high).sort((a, b) => a - b);
    if (event.key === "Escape" && this._at !== null) this._aim(null);
    else if (event.key === "Home") this._aim(xs[0]);
    else if (event.key === "End") this._aim(xs[xs.length - 1]);
    else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const back = event.key === "ArrowLeft";
      const pixel = ((high - low) / this._width()) * (event.shiftKey ? 40 : 1);
      const from = this._at ?? (back ? Infinity : -Infinity);
      this._aim(back ? xs.filter((x) => x <= from - pixel).pop() ?? xs[0] : xs.find((x) => x >= from + pixel) ?? xs[xs.length - 1]);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  _aim(x) {
    if (!this._plot || x === undefined) return;
    const place = x === null ? { left: -10, top: -10 } : { left: this._plot.valToPos(x, "x"), top: 10 };
    this._plot.setCursor(place, true, true); // and that of the other charts
    this._at = x;
    this._tell(x);
  }

  clear() {
    this._plot?.destroy();
    this._plot = null;
    this._shape = "";
    this._readout.replaceChildren();
  }

  _make(shape, data, logarithmic, range) {
    this._plot?.destroy();
    this._shape = shape;
    const look = theme();
    const axis = { stroke: look.quiet, font: FONT, grid: { stroke: look.line, width: 1 }, ticks: { show: false } };
    const options = {
      width: this._width(),
      height: HEIGHT,
      padding: [10, 14, 0, 0],
      legend: { show: false },
      cursor: {
        drag: { x: true, y: false, setScale: false },
        sync: { key: "clipwise", scales: ["x", null], setSeries: false },
        points: { show: false },
      },
      scales: {
        x: { time: false, range: () => this._wanted.view() },
        y: { distr: logarithmic ? 3 : 1, range: (plot, low, high) => range(low, high) },
      },
      axes: [
        { ...axis, size: 28, space: 70, incrs: this._time ? SECONDS : STEPS,
          values: (plot, ticks) => ticks.map(this._time ? elapsed : stepTick) },
        { ...axis, size: 58, space: 34, values: (plot, ticks) => ticks.map(tick), ...(logarithmic ? LOGARITHMIC : {}) },
      ],
      series: [
        {},
        ...this._lines.map((line) => ({
          label: line.label,
          stroke: line.alpha ? faint(line.colour, line.alpha) : line.colour,
          width: line.width ?? 1.6,
          dash: line.dash,
          points: { show: (plot, i) => line.x.length < 40 && !line.dash, size: 5 },
        })),
      ],
      plugins: [marksPlugin(() => this._marks, () => this._alerts)],
      hooks: {
        setSelect: [(plot) => this._selected(plot)],
        setCursor: [(plot) => this._moved(plot)],
      },
    };
    this._plot = new window.uPlot(options, data, this._host);
    this._plot.over.addEventListener("dblclick", () => this._wanted.reset());
  }

  _selected(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    const range = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this._wanted.zoom(...range);
  }

  _moved(plot) {
    const { left } = plot.cursor;
    this._at = left === null || left === undefined || left < 0 ? null : plot.posToVal(left, "x");
    this._tell(this._at);
  }

  // What the lines are and say: at the cursor, or at the end of what is shown. One step stands before all of
  // them; a line whose nearest value is of another step says which.
  _tell(at) {
    this._aimed(at);
    const [low, high] = this._wanted.view();
    const pixel = (high - low) / this._width();
    const told = this._lines.filter((line) => !line.quiet);
    const values = told.map((line) => (at === null ? endOf(line, high) : near(line, at)));
    const known = values.filter(Boolean).map(([step]) => step);
    const step = at === null ? Math.max(...known) : nearest(known, at);
    const parts = told.map((line, i) => {
      const swatch = el("i", { class: line.dash ? "swatch dashed" : "swatch" });
      swatch.style.setProperty("--colour", line.alpha ? faint(line.colour, line.alpha) : line.colour);
      const [own, value] = values[i] ?? [step, null];
      // What is less than a pixel away is drawn in the same place.
      const other = Math.abs(own - step) > pixel ? ` (${this.place(own)})` : "";
      return el("span", { class: "reading" }, swatch, line.label, " ", el("b", {}, number(value)), other);
    });
    const bad = {};
    for (const [, kind, times] of this._marks) bad[kind] = (bad[kind] ?? 0) + times;
    for (const [kind, times] of Object.entries(bad))
      parts.push(el("span", { class: "reading bad" }, `${SIGNS[kind]} ${number(kind)} × ${count(times)}`));
    if (known.length) parts.unshift(el("span", { class: "reading step" }, this.place(step)));
    this._readout.replaceChildren(...parts);
  }

  _width() {
    return Math.max(200, this._host.clientWidth);
  }

  _resize() {
    if (this._plot && this._plot.width !== this._width())
      this._plot.setSize({ width: this._width(), height: HEIGHT });
  }
}

const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
const SIGNS = { nan: "◆", inf: "▲", "-inf": "▼" };
const STEPS = [];
for (let power = 1; power < 1e13; power *= 10) STEPS.push(power, 2 * power, 5 * power);

const SECONDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30];
for (const unit of [60, 3600]) SECONDS.push(unit, 2 * unit, 5 * unit, 10 * unit, 20 * unit, 30 * unit);
SECONDS.push(60 * 3600);
for (let days = 5; days < 1e5; days *= 10) SECONDS.push(days * 86400, 2 * days * 86400);

// uPlot's own ticks ask for whole decades; these go with any range.
const LOGARITHMIC = {
  splits: (plot, axis, low, high) => decades(low, high),
  filter: (plot, ticks) => ticks,
};

function decades(low, high) {
  const span = Math.log10(high / low);
  if (span < 0.35) return [0, 1, 2, 3, 4].map((i) => Number((low + ((i + 0.5) / 5) * (high - low)).toPrecision(2)));
  const digits = span > 2.2 ? [1] : span > 1.1 ? [1, 3] : [1, 2, 3, 5];
  const every = Math.ceil(span / 7);
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const digit of digits)
      if (power % every === 0 && digit * 10 ** power >= low && digit * 10 ** power <= high) found.push(Number(`${digit}e${power}`));
  return found;
}

function joined(lines) {
  if (!lines.length) return [[]];
  return window.uPlot.join(lines.map((line) => [line.x, line.y]));
}

function rangeOf(low, high, logarithmic, highest) {
  if (low === null || high === null || !Number.isFinite(low) || !Number.isFinite(high))
    return logarithmic ? [0.1, 10] : [0, 1];
  if (logarithmic) {
    if (!(high > 0)) return [0.1, 10];
    if (!(low > 0)) low = high / 1e6;
    const pad = Math.max(1.15, (high / low) ** 0.06);
    return [low / pad, high * pad];
  }
  const pad = (high - low) * 0.07 || Math.abs(high) * 0.1 || 1;
  // A cosine does not go beyond 1, nor does its axis, but for the width of the line.
  return [low - pad, highest === null ? high + pad : Math.max(high, highest) + pad * 0.15];
}

// The last step that is shown, and its value.
function endOf(line, high) {
  if (line.last && line.last[0] <= high) return line.last;
  let at = line.x.length - 1;
  while (at >= 0 && line.x[at] > high) at--;
  return at < 0 ? null : valueAt(line, at);
}

// The step nearest to a place, and its value.
function near(line, at) {
  const { x } = line;
  let low = 0;
  let high = x.length - 1;
  if (high < 0) return null;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (x[middle] <= at) low = middle;
    else high = middle;
  }
  return valueAt(line, Math.abs(x[low] - at) <= Math.abs(x[high] - at) ? low : high);
}

// Where the line is broken by NaN or Inf, its mark says by which.
function valueAt({ x, y, marks = [] }, at) {
  // A step that was recorded several times has its points between it and the next.
  const [place, step] = [x[at], Math.floor(x[at])];
  return [place, y[at] ?? marks.find((mark) => mark[0] === place || mark[0] === step)?.[1] ?? null];
}

function nearest(steps, at) {
  return steps.reduce((best, step) => (Math.abs(step - at) < Math.abs(best - at) ? step : best), steps[0]);
}
