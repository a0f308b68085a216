// A run's name, its notes, and whether it is kept.

import { el } from "./dom.js";
import { many } from "./format.js";
import { Sure } from "./sure.js";

export class Edit {
  // change(name, asked) -> { error } or {}; changed() once something was
  constructor(change, changed) {
    this._change = change;
    this._changed = changed;
    this._run = null;
    this._name = el("input", { type: "text", id: "edit-name", autocomplete: "off", spellcheck: "false", maxlength: 4000 });
    this._notes = el("textarea", { id: "edit-notes", rows: 4, maxlength: 20000 });
    this._error = el("p", { class: "bad", role: "alert" });
    this._sure = new Sure();
    this._form = el("form", { onsubmit: (event) => { event.preventDefault(); this._save(); } },
      el("h2", {}, "Run"),
      el("label", { for: "edit-name" }, "Name"), this._name,
      el("label", { for: "edit-notes" }, "Notes"), this._notes,
      this._error,
      el("p", { class: "buttons" }, el("button", { type: "submit" }, "Save"),
        el("button", { type: "button", onclick: () => this.node.close() }, "Cancel"), el("span", { class: "space" }),
        el("button", { type: "button", class: "danger", id: "edit-delete", onclick: () => this._ask() }, "Delete …")),
      this._sure.node);
    this.node = el("dialog", { id: "edit", "aria-label": "Name, notes, delete" }, this._form);
    document.body.append(this.node);
  }

  open(run) {
    this._run = run;
    this._name.value = run.name;
    this._notes.value = run.notes ?? "";
    this._error.textContent = "";
    this._sure.hide();
    this.node.showModal();
    this._name.select();
  }

  async _save() {
    const { id, name, notes } = this._run;
    if (!this._name.value.trim()) {
      this._error.textContent = "A run needs a name.";
      return;
    }
    if (this._name.value !== name && !(await this._do("rename", { run: id, name: this._name.value }))) return;
    if (this._notes.value !== (notes ?? "") && !(await this._do("annotate", { run: id, notes: this._notes.value }))) return;
    this.node.close();
  }

  _ask() {
    const run = this._run;
    this._sure.ask(`Delete “${run.name}” with all that was recorded of its ${many(run.steps, "step")}? This cannot be undone.`,
      "Keep it", () => this._delete());
  }

  async _delete() {
    if (await this._do("delete", { runs: [this._run.id] })) this.node.close();
  }

  async _do(name, asked) {
    const { error } = await this._change(name, asked);
    this._error.textContent = error ? `${error}.` : "";
    this._changed();
    return !error;
  }
}
