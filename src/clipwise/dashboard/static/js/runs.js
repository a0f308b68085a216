// The list of runs: one is looked at, others are laid over it.

import { runColour } from "./colours.js";
import { el, set } from "./dom.js";
import { ago, many, moment } from "./format.js";

export class Runs {
  // wanted: { open(id), overlay(id) }
  constructor(wanted) {
    this._wanted = wanted;
    this._items = new Map();
    this._runs = [];
    this._place = null;
    this._filter = el("input", { type: "search", placeholder: "Filter", "aria-label": "Filter runs by name",
      id: "filter", oninput: () => this._fill() });
    this._list = el("ul", { class: "runs" });
    this._summary = el("summary", {}, "Runs");
    this.node = el("details", { class: "run-list", open: window.innerWidth > 820 }, this._summary, this._filter, this._list);
  }

  show(runs, place) {
    this._runs = runs;
    this._place = place;
    this._summary.textContent = `Runs (${runs.length})`;
    this._filter.hidden = runs.length < 8;
    this._fill();
  }

  focusFilter() {
    this.node.open = true;
    if (!this._filter.hidden) this._filter.focus();
  }

  fold() {
    if (window.innerWidth <= 820) this.node.open = false;
  }

  // The run above or below the one that is looked at.
  beside(offset) {
    const runs = this._visible();
    const at = runs.findIndex((run) => run.id === this._place.run);
    return runs[Math.min(Math.max(at + offset, 0), runs.length - 1)]?.id ?? null;
  }

  _visible() {
    const text = this._filter.value.trim().toLowerCase();
    return this._runs.filter((run) => run.name.toLowerCase().includes(text));
  }

  _fill() {
    const visible = this._visible();
    const items = visible.map((run) => this._item(run));
    // Elements that stay in their place keep the focus.
    if (items.some((item, i) => this._list.children[i] !== item) || this._list.children.length !== items.length)
      this._list.replaceChildren(...items);
  }

  _item(run) {
    let item = this._items.get(run.id);
    if (!item) {
      item = this._made(run.id);
      this._items.set(run.id, item);
    }
    const { run: chosen, others } = this._place;
    const place = run.id === chosen ? 0 : others.indexOf(run.id) + 1;
    const shown = run.id === chosen || others.includes(run.id);
    item.box.checked = shown;
    item.box.disabled = run.id === chosen;
    item.box.setAttribute("aria-label", `Lay ${run.name} over the charts`);
    item.box.style.accentColor = shown ? runColour(place) : "";
    item.label.textContent = run.name;
    item.link.title = `${run.name}, begun ${moment(run.started)}`;
    item.dot.className = `dot ${STATES.has(run.status) ? run.status : "lost"}`;
    const status = run.status === "finished" ? "" : `${run.status} · `;
    item.facts.textContent = `${status}${many(run.steps, "step")} · ${ago(run.seen)}`;
    set(item.link, { "aria-current": run.id === chosen ? "true" : null });
    return item.node;
  }

  _made(id) {
    const box = el("input", { type: "checkbox", title: "Lay over the charts", onchange: () => this._wanted.overlay(id) });
    const dot = el("i", { class: "dot" });
    const label = el("span", { class: "run-name" });
    const facts = el("small", {});
    const link = el("a", { href: `#run=${id}`, onclick: (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this._wanted.open(id);
    } }, dot, label, facts);
    return { node: el("li", {}, box, link), box, dot, label, facts, link };
  }
}

const STATES = new Set(["running", "finished", "diverged", "stopped", "failed", "lost"]);
