// Above the charts: what the run is, which of its parts is shown, and which steps.

import { summary } from "./alerts.js";
import { el, keep } from "./dom.js";
import { ago, count, many, moment, title } from "./format.js";

export class Head {
  // wanted: { go(change), source(name), logged(key), rank(number) or null, reset(), edit() or null }
  constructor(wanted) {
    this._wanted = wanted;
    this._title = el("h1", {});
    this._facts = el("p", { class: "facts" });
    this._note = el("p", { class: "run-note" });
    this._notes = el("p", { class: "run-notes" });
    this._choices = el("div", { class: "choices" });
    this._more = el("details", { class: "more" }, el("summary", {}, "Command and facts"));
    this._list = el("dl", {});
    this._more.append(this._list);
    this.node = el("section", { class: "run-head", "aria-label": "Run" }, this._title, this._facts, this._note, this._notes,
      this._choices, this._more);
  }

  show(run, place) {
    this._title.textContent = run.name;
    const alerts = summary(run.alerts);
    keep(this._facts, [run.status, run.steps, run.clip, run.ranks.length, alerts, ago(run.seen)], () => [
      el("span", { class: `badge ${run.status}` }, run.status),
      el("span", {}, many(run.steps, "step")),
      run.ranks.length > 1 ? el("span", {}, many(run.ranks.length, "process", "processes"), this._which()) : null,
      el("span", {}, el("code", {}, run.clip ?? "measured, not clipped")),
      alerts ? el("a", { href: "#panel-alerts", class: `badge ${alerts.level}`, onclick: toAlerts }, alerts.text) : null,
      el("span", { class: "quiet" }, `last heard ${ago(run.seen)}`),
      this._wanted.edit ? el("button", { class: "small", onclick: this._wanted.edit }, "Name, notes, delete") : null,
    ]);
    this._note.textContent = run.note;
    this._note.hidden = !run.note;
    this._notes.textContent = run.notes;
    this._notes.hidden = !run.notes;
    keep(this._choices, [run.sources, run.logged, run.ranks, place.source, place.logged, place.rank, place.range,
      place.drawn, place.smooth, place.axis], () =>
      this._controls(run, place));
    keep(this._list, [run.command, run.facts, run.started], () => facts(run));
  }

  // A report carries what one process recorded.
  _which() {
    return this._wanted.rank ? null : ", of which the first is shown";
  }

  _controls(run, place) {
    const found = [];
    if (run.sources.length > 1)
      found.push(select("Source", "source", run.sources.map((name) => [name, sourceName(run, name)]), place.source, this._wanted.source));
    if (run.logged.length > 1)
      found.push(select("Logged", "logged", run.logged.map((one, i) => [i, title(one)]),
        run.logged.findIndex((one) => place.logged && title(one) === title(place.logged)),
        (i) => this._wanted.logged(run.logged[Number(i)])));
    if (run.logged.length > 1) {
      const others = run.logged.map((one, i) => [i, title(one)]).filter(([, text]) => text !== (place.logged && title(place.logged)));
      found.push(select("with", "beside", [["", "nothing else"], ...others],
        place.drawn ? run.logged.findIndex((one) => title(one) === title(place.drawn)) : "",
        (i) => this._wanted.go({ beside: i === "" ? null : run.logged[Number(i)] })));
    }
    found.push(select("Smoothing", "smooth", [["mean", "running mean"], ["none", "none"]], place.smooth ? "mean" : "none",
      (value) => this._wanted.go({ smooth: value === "mean" })));
    found.push(select("Axis", "axis", [["step", "steps"], ["time", "time"]], place.axis, (axis) => this._wanted.go({ axis })));
    if (run.ranks.length > 1 && this._wanted.rank)
      found.push(select("Rank", "rank", run.ranks.map((rank) => [rank, rank]), place.rank ?? run.ranks[0],
        (rank) => this._wanted.rank(Number(rank))));
    if (place.range)
      found.push(el("button", { id: "all-steps", title: "All steps (0)", onclick: () => this._wanted.reset() },
        `Steps ${count(Math.max(0, Math.ceil(place.range[0])))} to ${count(Math.floor(place.range[1]))} ✕`));
    return found;
  }
}

// Of a part whose it is, and what it takes.
function sourceName(run, name) {
  for (const [whole, parts] of Object.entries(run.parts))
    for (const { source, pattern } of parts) if (source === name) return `${whole ? `${whole}, ` : ""}part ${pattern}`;
  return name || (run.parts[""]?.length ? "all parts" : "(main)");
}

function toAlerts(event) {
  event.preventDefault();
  document.getElementById("panel-alerts").scrollIntoView({ block: "start" });
}

function select(label, id, options, chosen, picked) {
  const node = el("select", { id, onchange: () => picked(node.value) },
    options.map(([value, text]) => el("option", { value, selected: value === chosen }, String(text))));
  return el("label", {}, `${label} `, node);
}

function facts(run) {
  const rows = [["begun", moment(run.started)], ["number", String(run.id)]];
  if (run.command) rows.push(["command", run.command]);
  for (const [name, value] of Object.entries(run.facts))
    rows.push([name, typeof value === "string" ? value : JSON.stringify(value)]);
  return rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
}
