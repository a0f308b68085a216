// What to do where there is nothing to be shown yet.

import { el, keep } from "./dom.js";

const TITLES = {
  missing: "Nothing is recorded yet",
  empty: "No run is recorded yet",
  broken: "This file cannot be shown",
};

export class StateCard {
  constructor() {
    this.node = el("section", { class: "card state", role: "status", id: "state", hidden: true });
  }

  // kind: as the server says, or "empty" where there is no run.
  show(state) {
    this.node.hidden = !state;
    if (state) keep(this.node, state, () => (state.kind === "broken" ? broken(state) : waiting(state)));
  }
}

function waiting(state) {
  return [
    el("h1", {}, TITLES[state.kind] ?? TITLES.empty),
    el("p", {}, state.message || "The file is there, and no run is in it yet."),
    el("p", {}, "Watch a script as it is:"),
    el("pre", {}, "clipwise observe -- python train.py"),
    el("p", {}, "or record in your own loop:"),
    el("pre", {}, 'monitor = clipwise.Monitor("clipwise.db", run="first")\n'
      + "clipper = monitor.attach(clipwise.torch.attach(optimizer, clip, model=model))\n"
      + "...\nmonitor.log(loss=loss)"),
    el("p", { class: "quiet" }, "This page stays open: it shows the first step as soon as it is written."),
  ];
}

function broken(state) {
  return [
    el("h1", {}, TITLES.broken),
    el("p", { class: "bad" }, state.message),
    el("p", {}, "The file is left as it is. If it is the wrong one, give the right one:"),
    el("pre", {}, "clipwise dashboard other.db"),
    el("p", {}, "If it is damaged, SQLite's own tool saves what can be read:"),
    el("pre", {}, 'sqlite3 damaged.db ".recover" | sqlite3 saved.db'),
    el("p", { class: "quiet" }, "The page checks again automatically."),
  ];
}
