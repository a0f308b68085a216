// The heat map: one row a parameter, one column a recorded step or a part of the steps.

import { heatColour, theme } from "./colours.js";
import { el, sharp } from "./dom.js";
import { many, number, stepTick } from "./format.js";

const ABSENT = 0;
const ZERO = 1;
const BAD = 65535;
const FOOT = 20;

export class Heat {
  // wanted: { view() -> [low, high], zoom(low, high), reset() }
  constructor(wanted) {
    this._wanted = wanted;
    this._data = null;
    this._cell = null; // [row, column] under the pointer or the keyboard
    this._canvas = el("canvas", {
      tabindex: 0, role: "img", "aria-label": "Norm of each layer's gradient over the steps; arrow keys read cells",
      onmousemove: (event) => this._point(event), onmouseleave: () => this._aim(null),
      onkeydown: (event) => this._key(event), onblur: () => this._aim(null), ondblclick: () => wanted.reset(),
    });
    this._scroll = el("div", { class: "heat-scroll" }, this._canvas);
    this._legend = el("canvas", { class: "heat-legend", "aria-hidden": "true" });
    this._range = [el("span", {}), el("span", {})];
    this._key_ = el("span", { class: "heat-key" }, this._range[0], this._legend, this._range[1],
      el("i", { class: "swatch square bad" }), "NaN or Inf", el("i", { class: "swatch square zero" }), "0");
    this._readout = el("p", { class: "readout", "aria-live": "polite" });
    this._none = el("p", { class: "none" }, "No norms of layers were recorded yet: by default they are taken at every"
      + " tenth step, by clippers that know the parameters' names.");
    this.node = el("section", { class: "card wide", id: "panel-layers", "aria-label": "Layers over time" },
      el("header", {}, el("h2", {}, "Layers"), el("span", { class: "note" }, "norm of each gradient, logarithmic"),
        this._key_), this._readout, this._scroll, this._none);
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  show(data) {
    const bytes = data ? Uint8Array.from(atob(data.cells), (letter) => letter.charCodeAt(0)) : null;
    this._data = data && { ...data, codes: codesOf(bytes) };
    this.draw();
  }

  draw() {
    const data = this._data;
    const empty = !data || !data.names.length || !data.starts.length;
    this._scroll.hidden = this._key_.hidden = this._readout.hidden = empty;
    this._none.hidden = !empty;
    if (empty) return;
    const width = this._scroll.clientWidth;
    const rows = data.names.length;
    const height = Math.min(18, Math.max(3, Math.floor(420 / rows)));
    const gutter = Math.round(Math.min(230, width * 0.32));
    this._at = { width, height, gutter, rows, plot: width - gutter - 14 };
    const context = sharp(this._canvas, width, rows * height + FOOT);
    const look = theme();
    context.clearRect(0, 0, width, rows * height + FOOT);
    this._cells(context, look);
    this._labels(context, look);
    this._cross(context, look);
    this._scale();
    this._tell();
  }

  _x(step) {
    const [low, high] = this._wanted.view();
    return this._at.gutter + ((step - low) / (high - low)) * this._at.plot;
  }

  _cells(context, look) {
    const { height, rows, gutter, plot } = this._at;
    const { starts, codes } = this._data;
    const colours = new Map();
    const bad = [];
    context.save();
    context.beginPath();
    context.rect(gutter, 0, plot, rows * height);
    context.clip();
    for (let column = 0; column < starts.length; column++) {
      const from = Math.floor(this._x(starts[column]));
      const to = Math.max(from + 1, Math.floor(this._x(this._end(column))));
      if (to < gutter || from > gutter + plot) continue;
      for (let row = 0; row < rows; row++) {
        const code = codes[row * starts.length + column];
        if (code === BAD) bad.push([(from + to) / 2, to - from, row]);
        if (code === ABSENT) continue;
        let colour = colours.get(code);
        if (!colour) {
          colour = code === BAD ? look.bad : code === ZERO ? look.line : `rgb(${heatColour((code - 2) / 65532)})`;
          colours.set(code, colour);
        }
        context.fillStyle = colour;
        context.fillRect(from, row * height, to - from, height > 6 ? height - 1 : height);
      }
    }
    // NaN and Inf last, and wide enough to be seen, whatever the width of a step.
    context.fillStyle = look.bad;
    for (const [middle, wide, row] of bad)
      context.fillRect(middle - Math.max(wide, 5) / 2, row * height - 1, Math.max(wide, 5), Math.max(height, 5) + 1);
    context.restore();
  }

  _end(column) {
    const { starts, end } = this._data;
    return column + 1 < starts.length ? starts[column + 1] : Math.max(end, starts[column] + 1);
  }

  _labels(context, look) {
    const { height, rows, gutter, plot } = this._at;
    context.font = `${Math.min(11, Math.max(9, height - 3))}px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace`;
    context.fillStyle = look.quiet;
    context.textBaseline = "middle";
    context.textAlign = "right";
    const every = Math.ceil(11 / height);
    for (let row = every >> 1; row < rows; row += every)
      context.fillText(fitted(context, this._data.names[row], gutter - 10), gutter - 7, row * height + height / 2);
    context.textAlign = "center";
    context.textBaseline = "bottom";
    context.font = '11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
    const [low, high] = this._wanted.view();
    const raw = (high - low) / Math.max(2, Math.floor(plot / 110));
    const power = 10 ** Math.floor(Math.log10(raw));
    const gap = Math.max(1, [1, 2, 5, 10].find((times) => times * power >= raw) * power);
    for (let step = Math.ceil(low / gap) * gap; step <= high; step += gap)
      context.fillText(stepTick(Math.round(step)), this._x(step), rows * height + FOOT);
  }

  _cross(context, look) {
    if (!this._cell) return;
    const { height } = this._at;
    const [row, column] = this._cell;
    const from = Math.max(this._x(this._data.starts[column]), this._at.gutter);
    const to = Math.min(this._x(this._end(column)), this._at.gutter + this._at.plot);
    context.lineWidth = 2;
    context.strokeStyle = look.card;
    context.strokeRect(from - 2, row * height - 2, Math.max(2, to - from) + 4, height + 3);
    context.strokeStyle = look.ink;
    context.strokeRect(from - 1, row * height - 1, Math.max(2, to - from) + 2, height + 1);
  }

  _scale() {
    const context = sharp(this._legend, 90, 10);
    for (let x = 0; x < 90; x++) {
      context.fillStyle = `rgb(${heatColour(x / 89)})`;
      context.fillRect(x, 0, 1, 10);
    }
    this._range[0].textContent = number(this._data.least);
    this._range[1].textContent = number(this._data.largest);
  }

  _value(row, column) {
    const { codes, starts, least, largest } = this._data;
    const code = codes[row * starts.length + column];
    if (code === ABSENT) return "not recorded";
    if (code === BAD) return "NaN or Inf";
    if (code === ZERO) return "0";
    return number(Number((least * (largest / least) ** ((code - 2) / 65532)).toPrecision(3)));
  }

  _tell() {
    const { names, starts, single, recorded } = this._data;
    if (!this._cell)
      return this._readout.replaceChildren(el("span", { class: "reading" },
        `${many(names.length, "parameter")}, ${many(recorded, "recorded step")}`));
    const [row, column] = this._cell;
    const to = this._end(column) - 1;
    const step = single || to <= starts[column] ? `step ${starts[column]}` : `steps ${starts[column]} to ${to}`;
    this._readout.replaceChildren(
      el("span", { class: "reading step" }, step), el("span", { class: "reading name" }, names[row]),
      el("span", { class: "reading" }, el("b", {}, this._value(row, column))));
  }

  _point(event) {
    if (!this._data?.starts.length) return;
    const box = this._canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top) / this._at.height);
    const x = event.clientX - box.left;
    let column = -1;
    while (column + 1 < this._data.starts.length && this._x(this._data.starts[column + 1]) <= x) column++;
    this._aim(row >= 0 && row < this._at.rows && x > this._at.gutter && column >= 0 ? [row, column] : null);
  }

  _key(event) {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey || !this._data?.starts.length) return;
    event.preventDefault();
    event.stopPropagation();
    const last = this._data.starts.length - 1;
    const [row, column] = this._cell ?? [0, last];
    const within = (value, high) => Math.min(Math.max(value, 0), high);
    this._aim([within(row + move[0], this._at.rows - 1), within(column + move[1], last)]);
  }

  _aim(cell) {
    if (String(cell) === String(this._cell)) return;
    this._cell = cell;
    this.draw();
  }
}

// Little-endian, whatever the machine is.
function codesOf(bytes) {
  const view = new DataView(bytes.buffer);
  return Uint16Array.from({ length: bytes.length / 2 }, (_, i) => view.getUint16(2 * i, true));
}

// The end of a name says more than its beginning.
function fitted(context, name, room) {
  if (context.measureText(name).width <= room) return name;
  let low = 1;
  let high = name.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (context.measureText(`…${name.slice(middle)}`).width <= room) high = middle;
    else low = middle + 1;
  }
  return `…${name.slice(low)}`;
}
