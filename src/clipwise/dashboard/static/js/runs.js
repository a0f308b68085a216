// The list of runs: one is looked at, others are laid over it.

import { runColour } from "./colours.js";
import { el, set } from "./dom.js";
import { ago, many, moment, number } from "./format.js";
import { labels } from "./names.js";
import { isOver } from "./pick.js";
import { alertsOf, arranged, GROUPS, grouped, ORDERS, recall, remember } from "./order.js";

const LETTERS = 36; // about two lines of the list

export class Runs {
  // wanted: { open(id), overlay(id), edit(run) or null, pick: a Pick or null }
  constructor(wanted) {
    this._wanted = wanted;
    this._items = new Map();
    this._heads = new Map();
    this._runs = [];
    this._place = null;
    this._filter = el("input", { type: "search", placeholder: "Filter: name, clip, notes, status", "aria-label": "Filter runs",
      id: "filter", oninput: () => this._fill() });
    this._order = select("order", ORDERS, () => this._fill());
    this._by = select("group", GROUPS, () => this._fill());
    this._controls = el("div", { class: "run-order" }, el("label", {}, "Sort ", this._order), el("label", {}, "Group ", this._by));
    this._list = el("ul", { class: "runs" });
    this._summary = el("summary", {}, "Runs");
    this.node = el("details", { class: "run-list", open: window.innerWidth > 820 }, this._summary, this._filter,
      this._controls, wanted.pick?.node, this._list);
    wanted.pick?.listen(() => this._fill());
  }

  show(runs, place) {
    this._runs = runs;
    this._place = place;
    this._summary.textContent = `Runs (${runs.length})`;
    this._filter.hidden = runs.length < 8;
    this._controls.hidden = runs.length < 3;
    this._labels = labels(runs, LETTERS);
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
    const runs = this._groups().flatMap(([, group]) => group);
    const at = runs.findIndex((run) => run.id === this._place.run);
    return runs[Math.min(Math.max(at + offset, 0), runs.length - 1)]?.id ?? null;
  }

  _groups() {
    return grouped(arranged(this._runs, this._order.value, this._filter.value), this._by.value);
  }

  _fill() {
    const groups = this._groups();
    this._wanted.pick?.show(groups.flatMap(([, group]) => group));
    const titled = groups.length > 1 || (groups[0] && groups[0][0] && this._by.value !== "status");
    const items = groups.flatMap(([name, runs]) => [
      ...(titled && this._by.value ? [this._head(name, runs.length)] : []), ...runs.map((run) => this._item(run)),
    ]);
    // Elements that stay in their place keep the focus.
    if (items.some((item, i) => this._list.children[i] !== item) || this._list.children.length !== items.length)
      this._list.replaceChildren(...items);
  }

  _head(name, size) {
    const head = this._heads.get(name) ?? el("li", { class: "group" });
    this._heads.set(name, head);
    head.textContent = `${name || "no sweep"} (${size})`;
    return head;
  }

  _item(run) {
    let item = this._items.get(run.id);
    if (!item) {
      item = this._made(run.id);
      this._items.set(run.id, item);
    }
    item.run = run;
    const { run: chosen, others } = this._place;
    const place = run.id === chosen ? 0 : others.indexOf(run.id) + 1;
    const shown = run.id === chosen || others.includes(run.id);
    const label = this._labels.get(run.id);
    const picking = this._wanted.pick?.on ?? false;
    const picked = picking && this._wanted.pick.has(run);
    // Of many runs most stay as they are.
    const said = JSON.stringify([run, shown ? runColour(place) : "", run.id === chosen, label, ago(run.seen), picking, picked]);
    if (said === item.said) return item.node;
    item.said = said;
    this._box(item.box, run, { picking, checked: picking ? picked : shown, colour: shown && !picking ? runColour(place) : "" });
    item.label.textContent = label;
    item.link.title = [run.name, `started ${moment(run.started)}`, run.clip ?? "measured, not clipped", run.notes].filter(Boolean).join("\n");
    item.dot.className = `dot ${STATES.has(run.status) ? run.status : "lost"}`;
    const status = run.status === "finished" ? "" : `${run.status} · `;
    item.facts.textContent = `${status}${many(run.steps, "step")} · ${ago(run.seen)}`;
    const loss = run.loss === null || run.loss === undefined ? null
      : el("span", { class: typeof run.loss === "string" ? "bad" : "" }, `loss ${number(run.loss)}`);
    const alerts = alertsOf(run);
    const told = alerts ? el("span", { class: run.alerts.critical ? "bad" : "warn" }, many(alerts, "alert")) : null;
    const multiple = run.multiple ? el("span", { class: "warn", title: run.multiple[1] }, `gradients ${run.multiple[0]}`) : null;
    item.figures.replaceChildren(...[loss, told, multiple, el("span", { class: "run-clip" }, run.clip ?? "not clipped")].filter(Boolean));
    item.notes.textContent = run.notes ?? "";
    item.notes.hidden = !run.notes;
    if (item.edit) set(item.edit, { "aria-label": `Name, notes, delete: ${run.name}` });
    set(item.link, { "aria-current": run.id === chosen ? "true" : null });
    return item.node;
  }

  // What a box is for: to overlay a run on the charts, or to pick it.
  _box(box, run, { picking, checked, colour }) {
    const chosen = run.id === this._place.run;
    const fixed = picking ? !isOver(run) : chosen;
    box.checked = checked;
    box.style.accentColor = colour;
    set(box, {
      "aria-label": picking ? `Pick ${run.name}` : `Overlay ${run.name} on the charts`, "aria-disabled": fixed ? "true" : null,
      title: picking ? (fixed ? "This run is still going on" : "Pick") : chosen ? "This run is shown" : "Overlay on the charts",
    });
  }

  _made(id) {
    const box = el("input", { type: "checkbox",
      onclick: (event) => event.target.getAttribute("aria-disabled") && event.preventDefault(),
      onchange: () => (this._wanted.pick?.on ? this._wanted.pick.toggle(id) : this._wanted.overlay(id)) });
    const dot = el("i", { class: "dot" });
    const label = el("span", { class: "run-name" });
    const facts = el("small", {});
    const figures = el("small", { class: "figures" });
    const notes = el("small", { class: "notes" });
    const link = el("a", { href: `#run=${id}`, onclick: (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this._wanted.open(id);
    } }, dot, label, facts, figures, notes);
    const edit = this._wanted.edit
      ? el("button", { class: "small edit", title: "Name, notes, delete", onclick: () => this._wanted.edit(this._items.get(id).run) }, "⋯")
      : null;
    return { node: el("li", {}, box, link, edit), box, dot, label, facts, figures, notes, link, edit };
  }
}

function select(id, choices, changed) {
  const node = el("select", { id: `runs-${id}`, onchange: () => { remember(id, node.value); changed(); } },
    choices.map(([value, text]) => el("option", { value, selected: value === recall(id) }, text)));
  return node;
}

const STATES = new Set(["running", "finished", "diverged", "stopped", "failed", "lost"]);
