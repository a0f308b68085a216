// The threshold that a run's norms ask for, as `clipwise suggest` says it.

import { el, keep } from "./dom.js";

const FRAMEWORKS = {
  pytorch: "PyTorch", keras: "Keras", optax: "optax", lightning: "Lightning", transformers: "Hugging Face Trainer",
};

export class Suggestion {
  constructor() {
    this._body = el("div", {});
    this.node = el("section", { class: "card", id: "panel-suggestion", "aria-label": "Recommendation" },
      el("header", {}, el("h2", {}, "Recommendation"), el("span", { class: "note" }, "for the next run, from all its norms")),
      this._body);
  }

  // found: as the server says, null where there are no norms of gradients
  show(found) {
    keep(this._body, found, () => (found ? told(found) : el("p", { class: "none" }, "There are no gradient norms to judge by.")));
  }
}

function told(found) {
  return [
    el("p", { class: "headline" }, found.headline),
    el("ul", { class: "reasons" }, found.reasons.map((reason) => el("li", {}, reason))),
    lines("Lines to paste", found.lines),
    lines("Without clipwise", found.builtin),
  ];
}

function lines(title, texts) {
  const names = Object.keys(texts ?? {});
  if (!names.length) return null;
  return el("details", {}, el("summary", {}, title),
    names.flatMap((name) => [el("p", { class: "note" }, FRAMEWORKS[name] ?? name), el("pre", { tabindex: 0 }, texts[name])]));
}
