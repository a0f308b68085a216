// A chart as a picture or as numbers, in a file of the reader's own.

import { theme } from "./colours.js";

const HEAD = 26;
const ROW = 17;

// lines: { label, colour, dash }
export function savePicture(name, title, canvas, lines) {
  const look = theme();
  const ratio = window.devicePixelRatio || 1;
  const top = HEAD + ROW * lines.length;
  const made = document.createElement("canvas");
  made.width = canvas.width;
  made.height = canvas.height + top * ratio;
  const context = made.getContext("2d");
  context.fillStyle = look.card;
  context.fillRect(0, 0, made.width, made.height);
  context.drawImage(canvas, 0, top * ratio);
  context.scale(ratio, ratio);
  context.textBaseline = "middle";
  context.fillStyle = look.ink;
  context.font = "600 14px system-ui, sans-serif";
  context.fillText(title, 12, 15);
  context.font = "12px system-ui, sans-serif";
  lines.forEach((line, i) => {
    const y = HEAD + ROW * i + ROW / 2;
    context.strokeStyle = line.colour;
    context.lineWidth = 2.5;
    context.setLineDash(line.dash ?? []);
    context.beginPath();
    context.moveTo(12, y);
    context.lineTo(32, y);
    context.stroke();
    context.fillText(line.label, 40, y);
  });
  made.toBlob((blob) => save(`${name}.png`, blob));
}

// lines: { full, x, y }. One column a line; what a line has not at a step stays empty.
export function saveNumbers(name, axis, lines) {
  const [xs, ...columns] = window.uPlot.join(lines.map((line) => [line.x, line.y]));
  const rows = [[axis, ...lines.map((line) => line.full)], ...xs.map((x, i) => [x, ...columns.map((one) => one[i] ?? "")])];
  const text = rows.map((row) => row.map(cell).join(",")).join("\r\n");
  save(`${name}.csv`, new Blob([`${text}\r\n`], { type: "text/csv" }));
}

// A name that begins like a formula would be one in a table.
function cell(value) {
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name.replace(/[^\w.-]+/g, "-").slice(0, 120);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
