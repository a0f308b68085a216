// The question before something goes for good.

import { el } from "./dom.js";

export class Sure {
  constructor() {
    this.node = el("div", { class: "sure", hidden: true });
  }

  // text: the question; keep: the way back; act() once the answer is yes
  ask(text, keep, act) {
    const back = el("button", { type: "button", onclick: () => this.hide() }, keep);
    this.node.replaceChildren(
      el("p", {}, text),
      el("p", { class: "buttons" }, back, el("button", { type: "button", class: "danger", onclick: act }, "Delete for good")));
    this.node.hidden = false;
    back.focus();
  }

  hide() {
    this.node.hidden = true;
  }
}
