// In which order the runs are listed, which of them, and in which groups.

export const ORDERS = [
  ["started", "newest"], ["name", "name"], ["loss", "lowest loss"], ["steps", "most steps"], ["alerts", "most alerts"],
];
export const GROUPS = [["sweep", "sweep"], ["clip", "clip"], ["status", "status"], ["", "none"]];

// What was chosen last, where the browser keeps it.
export function recall(name) {
  try {
    return localStorage.getItem(`clipwise-${name}`);
  } catch {
    return null;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`clipwise-${name}`, value);
  } catch {
    // a page from a file may keep nothing
  }
}

// As `clipwise runs` has it: what has no finite loss comes last.
const COMPARE = {
  started: () => 0, // as they come
  name: (a, b) => a.name.toLowerCase().localeCompare(b.name.toLowerCase()),
  loss: (a, b) => lossOf(a) - lossOf(b),
  steps: (a, b) => b.steps - a.steps,
  alerts: (a, b) => alertsOf(b) - alertsOf(a),
};

export function arranged(runs, order, text) {
  const wanted = text.trim().toLowerCase();
  const found = runs.filter((run) =>
    [run.name, run.clip, run.notes, run.sweep, run.status].some((one) => (one ?? "").toLowerCase().includes(wanted)));
  return found.sort(COMPARE[order]);
}

// Name of the group, "" for none, and its runs; in the order in which each first comes.
export function grouped(runs, by) {
  const found = new Map();
  for (const run of runs) {
    const name = by ? String(run[by] || (by === "clip" ? "not clipped" : "")) : "";
    found.set(name, [...(found.get(name) ?? []), run]);
  }
  return [...found];
}

export function alertsOf(run) {
  return Object.values(run.alerts ?? {}).reduce((sum, one) => sum + one, 0);
}

function lossOf(run) {
  return typeof run.loss === "number" ? run.loss : Number.MAX_VALUE;
}
