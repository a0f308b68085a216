// What held the threshold: a band of colours below its curve, one a reason, as high as its share.

import { reasonColour, theme } from "./colours.js";
import { el, sharp } from "./dom.js";

const HEIGHT = 14;
const LEFT = 58; // as the chart above: the width of its axis, and what is free on its right
const RIGHT = 14;

export class Band {
  // wanted: { view() -> [low, high] }; place(x) -> where that is, in words
  constructor(wanted, place) {
    this._wanted = wanted;
    this._place = place;
    this._reasons = [];
    this._canvas = el("canvas", { class: "held-band", role: "img" });
    this._legend = el("p", { class: "held-legend" });
    this.node = el("div", { class: "held", hidden: true }, this._canvas, this._legend);
    this._canvas.addEventListener("mousemove", (event) => this.aim(this._at(event.offsetX)));
    this._canvas.addEventListener("mouseleave", () => this.aim(null));
    new ResizeObserver(() => this._draw()).observe(this.node);
  }

  // reasons: [{ name, x, y, end }]: steps, shares, and the last step of which there is one. Where a run went on
  // with another policy, each has steps of its own.
  show(reasons) {
    const xs = [...new Set(reasons.flatMap(({ x }) => x))].sort((a, b) => a - b);
    const share = ({ x, y, end }, at) => (last(x, at) < 0 || at > end ? 0 : y[last(x, at)]);
    this._reasons = reasons.map((one) => ({ name: one.name, x: xs, y: xs.map((at) => share(one, at)) }));
    this.node.hidden = !reasons.length;
    if (!reasons.length) return;
    this._draw();
    this.aim(null);
    const said = this._shares().filter(([, share]) => share > 0).map(([name, share]) => `${name} ${percent(share)}`);
    this._canvas.setAttribute("aria-label", `What held the threshold: ${said.join(", ") || "nothing"} of the steps shown.`);
  }

  // The same as lines, for a table.
  get lines() {
    return this._reasons.map(({ name, x, y }) => ({ full: `held by ${name}`, x, y }));
  }

  // The shares at a place, or of all that is shown.
  aim(x) {
    if (this.node.hidden) return;
    const at = x === null ? -1 : last(this._reasons[0].x, x);
    const shares = at < 0 ? this._shares() : this._reasons.map(({ name, y }) => [name, y[at]]);
    const where = at < 0 ? "steps shown" : this._place(this._reasons[0].x[at]);
    this._legend.replaceChildren(el("span", { class: "reading step" }, `threshold held by (${where})`),
      ...shares.map(([name, share], i) => {
        const swatch = el("i", { class: "swatch square" });
        swatch.style.setProperty("--colour", reasonColour(name, i));
        return el("span", { class: "reading" }, swatch, `${name} `, el("b", {}, percent(share)));
      }));
    this._canvas.title = this._legend.textContent;
  }

  // The mean share of each reason in what is shown.
  _shares() {
    const [low, high] = this._wanted.view();
    return this._reasons.map(({ name, x, y }) => {
      const here = y.filter((value, i) => value !== null && x[i] >= low && x[i] <= high);
      return [name, here.reduce((sum, value) => sum + value, 0) / Math.max(1, here.length)];
    });
  }

  _width() {
    return Math.max(50, this.node.clientWidth - LEFT - RIGHT);
  }

  _at(offset) {
    const [low, high] = this._wanted.view();
    return low + (offset / this._width()) * (high - low);
  }

  _draw() {
    if (this.node.hidden || !this._reasons.length) return;
    const width = this._width();
    const context = sharp(this._canvas, width, HEIGHT);
    context.fillStyle = theme().line;
    context.fillRect(0, 0, width, HEIGHT);
    const [low, high] = this._wanted.view();
    const pixel = (x) => ((x - low) / (high - low)) * width;
    const { x } = this._reasons[0];
    for (let i = 0; i < x.length; i++) {
      // Whole pixels: no paper shines through between two of them.
      const left = Math.floor(Math.max(0, pixel(x[i])));
      const right = Math.ceil(Math.min(width, i + 1 < x.length ? pixel(x[i + 1]) : width));
      let top = HEIGHT;
      this._reasons.forEach(({ name, y }, at) => {
        const height = (y[i] ?? 0) * HEIGHT;
        context.fillStyle = reasonColour(name, at);
        if (right > left && height > 0) context.fillRect(left, top - height, right - left, height);
        top -= height;
      });
    }
  }
}

function percent(share) {
  if (share === null || share === undefined) return "—";
  const value = 100 * share;
  const nearly = (value > 0 && value < 1) || (value > 99 && value < 100);
  return `${nearly ? value.toFixed(1) : Math.round(value)} %`;
}

// The place of the last step that is not behind x; -1 where all are.
function last(xs, x) {
  let [low, high] = [-1, xs.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (xs[middle] <= x) low = middle;
    else high = middle - 1;
  }
  return low;
}
