// Several runs of the list, picked to be deleted at once.

import { el } from "./dom.js";
import { many } from "./format.js";
import { Sure } from "./sure.js";

const NAMED = 10; // runs that the question names

export class Pick {
  // change(name, asked) -> { error } or {}; changed() once something was
  constructor(change, changed) {
    this._change = change;
    this._changed = changed;
    this._turned = () => {};
    this._ids = new Set();
    this._runs = [];
    this._sure = new Sure();
    this._begin = el("button", { class: "small", id: "pick", onclick: () => this._turn(true) }, "Delete several …");
    this._all = el("button", { class: "small", id: "pick-all", onclick: () => this._pickAll() });
    this._delete = el("button", { class: "small danger", id: "pick-delete", onclick: () => this._ask() });
    this._error = el("p", { class: "bad", role: "alert" });
    this._bar = el("div", { role: "group", "aria-label": "Delete several runs", hidden: true },
      el("p", { class: "buttons" }, this._all, this._delete,
        el("button", { class: "small", onclick: () => this._turn(false) }, "Cancel")),
      this._error, this._sure.node);
    this.node = el("div", { class: "pick" }, this._begin, this._bar);
    this.on = false;
  }

  // turned() when the boxes of the list mean something else
  listen(turned) {
    this._turned = turned;
  }

  // The runs of the list as it is filtered: no other is ever deleted.
  show(runs) {
    this._runs = runs;
    this.node.hidden = runs.length < 2 && !this.on;
    const picked = this._picked().length;
    const free = runs.filter(isOver);
    this._all.textContent = picked && picked === free.length ? "None" : `All ${free.length}`;
    this._delete.textContent = `Delete ${many(picked, "run")} …`;
    this._delete.disabled = !picked;
  }

  has(run) {
    return isOver(run) && this._ids.has(run.id);
  }

  toggle(id) {
    if (!this._ids.delete(id)) this._ids.add(id);
    this._again();
  }

  _picked() {
    return this._runs.filter((run) => this.has(run));
  }

  _pickAll() {
    const free = this._runs.filter(isOver);
    this._ids = new Set(this._picked().length === free.length ? [] : free.map((run) => run.id));
    this._again();
  }

  _turn(on) {
    this.on = on;
    this._ids.clear();
    this._begin.hidden = on;
    this._bar.hidden = !on;
    this._again();
    (on ? this._all : this._begin).focus();
  }

  // The question is about those that were picked when it was asked.
  _again() {
    this._error.textContent = "";
    this._sure.hide();
    this._turned();
  }

  _ask() {
    const runs = this._picked();
    const steps = many(runs.reduce((sum, run) => sum + run.steps, 0), "step");
    const names = runs.slice(0, NAMED).map((run) => `“${run.name}”`).join(", ");
    const more = runs.length > NAMED ? ` and ${runs.length - NAMED} more` : "";
    const [whose, it, them] = runs.length === 1 ? ["its", "It", "it"] : ["their", "They", "them"];
    this._sure.ask(`Delete ${names}${more} with all that was recorded of ${whose} ${steps}? This cannot be undone.`,
      `Keep ${them}`, () => this._do(runs.map((run) => run.id)));
  }

  async _do(runs) {
    const { error } = await this._change("delete", { runs });
    if (error) {
      this._sure.hide();
      this._error.textContent = `${error}.`;
    } else this._turn(false);
    this._changed();
  }
}

export function isOver(run) {
  return run.status !== "running";
}
