// The keyboard: one letter, one thing, as the list behind "?" says.

import { el } from "./dom.js";

export const KEYS = [
  ["j", "next run"],
  ["k", "previous run"],
  ["/", "filter the runs"],
  ["+", "zoom in"],
  ["-", "zoom out"],
  ["←", "earlier steps"],
  ["→", "later steps"],
  ["0", "all steps"],
  ["s", "smoothing on or off"],
  ["x", "steps or time along the axis"],
  ["l", "loss linear or logarithmic"],
  ["g", "gradient norm linear or logarithmic"],
  ["a", "to the alerts"],
  ["t", "to the threshold slider"],
  ["?", "these keys"],
];

const SAME = { ArrowLeft: "←", ArrowRight: "→", "=": "+", _: "-", Escape: "0" };

export function listen(actions) {
  const help = dialog();
  document.body.append(help);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const field = event.target.closest?.("input, select, textarea");
    if (field) {
      if (event.key === "Escape") field.blur();
      if (field.type !== "checkbox" || event.key === "Escape") return;
    }
    const key = SAME[event.key] ?? event.key;
    if (key === "?") help.showModal();
    else if (actions[key]) actions[key]();
    else return;
    event.preventDefault();
  });
  return () => help.showModal();
}

function dialog() {
  const help = el("dialog", { id: "help", "aria-label": "Keys" }, el("h2", {}, "Keys"),
    el("dl", { class: "keys" }, KEYS.flatMap(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)])),
    el("p", {}, "Drag across a chart to zoom in, double-click for all steps. In a chart or the heat map that has the focus (Tab), arrow keys, Home and End read its values."),
    el("form", { method: "dialog" }, el("button", {}, "Close")));
  help.addEventListener("click", (event) => event.target === help && help.close());
  help.querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); help.close(); });
  return help;
}
