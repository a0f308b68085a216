// What a line cannot show: NaN and Inf as signs at the edge, alerts as lines from top to bottom.

import { theme } from "./colours.js";

const MOST = 400;

export function marksPlugin(marks, alerts) {
  return { hooks: { draw: [(plot) => draw(plot, marks(), alerts())] } };
}

function draw(plot, marks, alerts) {
  const look = theme();
  const { ctx: context, bbox: box } = plot;
  const size = 4.5 * (window.devicePixelRatio || 1);
  context.save();
  context.beginPath();
  context.rect(box.left - size, box.top - size, box.width + 2 * size, box.height + 2 * size);
  context.clip();
  for (const alert of inView(plot, alerts, (one) => one.step)) {
    const x = plot.valToPos(alert.step, "x", true);
    context.strokeStyle = { critical: look.bad, warning: look.warn }[alert.level] ?? look.quiet;
    context.lineWidth = size / 4;
    context.setLineDash([size, size / 1.5]);
    line(context, [x, box.top, x, box.top + box.height]);
  }
  context.setLineDash([]);
  context.fillStyle = look.bad;
  for (const [step, kind] of inView(plot, marks, (one) => one[0])) {
    const x = plot.valToPos(step, "x", true);
    const top = kind === "-inf" ? box.top + box.height - size : box.top + size;
    sign(context, kind, x, top, size);
  }
  context.restore();
}

function inView(plot, list, step) {
  const { min, max } = plot.scales.x;
  return list.filter((one) => step(one) >= min && step(one) <= max).slice(0, MOST);
}

function line(context, [x, y, endX, endY]) {
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(endX, endY);
  context.stroke();
}

function sign(context, kind, x, y, size) {
  const corners = {
    nan: [[0, -1], [1, 0], [0, 1], [-1, 0]],
    inf: [[0, -1], [1, 0.8], [-1, 0.8]],
    "-inf": [[0, 1], [1, -0.8], [-1, -0.8]],
  }[kind];
  context.beginPath();
  for (const [right, down] of corners) context.lineTo(x + right * size, y + down * size);
  context.closePath();
  context.fill();
}
