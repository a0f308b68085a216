// What the rules saw: when, why it matters, what to try.

import { el, keep } from "./dom.js";
import { count, many } from "./format.js";

export class Alerts {
  // look(step): shows the steps around an alert
  constructor(look) {
    this._look = look;
    this._list = el("div", { class: "alerts" });
    this._note = el("span", { class: "note" });
    this.node = el("section", { class: "card wide", id: "panel-alerts", "aria-label": "Alerts" },
      el("header", {}, el("h2", {}, "Alerts"), this._note), this._list);
  }

  // Of many only the last ones come with what they say.
  show(alerts, ranks) {
    const told = alerts.filter((alert) => alert.seen !== undefined);
    this._note.textContent = alerts.length > told.length ? `the last ${told.length} of ${count(alerts.length)}` : "";
    keep(this._list, [told, ranks.length], () => told.length
      ? el("ol", {}, told.reverse().map((alert) => this._item(alert, ranks.length > 1)))
      : el("p", { class: "none" }, "No rule has raised an alert."));
  }

  _item(alert, several) {
    return el("li", { class: `alert ${LEVELS.has(alert.level) ? alert.level : "info"}` },
      el("p", { class: "seen" }, el("span", { class: "level" }, alert.level), " ", alert.seen),
      alert.why ? el("p", {}, alert.why) : null,
      alert.advice ? el("p", { class: "advice" }, "→ ", alert.advice) : null,
      el("p", { class: "meta" },
        el("button", { class: "link", title: "Show the steps around it", onclick: () => this._look(alert.step) },
          `step ${count(alert.step)}`), ` · ${alert.rule}`, several ? ` · rank ${alert.rank}` : ""));
  }
}

const LEVELS = new Set(["info", "warning", "critical"]);

export function summary(alerts) {
  const worst = ["critical", "warning", "info"].find((level) => alerts.some((alert) => alert.level === level));
  return worst ? { level: worst, text: many(alerts.length, "alert") } : null;
}
