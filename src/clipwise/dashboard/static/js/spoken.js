// A chart in sentences, for those who do not see it.

import { many, number } from "./format.js";

// place(x) -> where that is, in words
export function spoken(title, lines, marks, place) {
  const told = lines.filter((line) => !line.quiet && line.y.some((value) => value !== null));
  const bad = marks.reduce((sum, [, , times]) => sum + times, 0);
  return [`${title}.`, ...told.map((line) => sentence(line, place)), bad ? `NaN or Inf at ${many(bad, "step")}.` : ""]
    .filter(Boolean).join(" ");
}

function sentence({ label, x, y }, place) {
  const known = y.flatMap((value, i) => (value === null ? [] : [i]));
  const by = (better) => known.reduce((best, i) => (better(y[i], y[best]) ? i : best), known[0]);
  const [first, last, least, most] = [known[0], known[known.length - 1], by((a, b) => a < b), by((a, b) => a > b)];
  if (y[least] === y[most]) return `${label}: ${number(y[first])} from ${place(x[first])} to ${place(x[last])}.`;
  return `${label}: ${number(y[first])} at ${place(x[first])}, ${number(y[last])} at ${place(x[last])};`
    + ` lowest ${number(y[least])} at ${place(x[least])}, highest ${number(y[most])} at ${place(x[most])}.`;
}
