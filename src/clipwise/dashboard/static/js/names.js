// Long names, such as those of a sweep, cut so that they stay apart.

const HEAD = 10;

// Name to what is shown of it, at most so many letters: cut in the middle, or to where names differ that would
// be cut to the same.
export function shortNames(names, length) {
  const found = new Map();
  const same = new Map();
  for (const name of new Set(names)) {
    const short = middle(name, length);
    same.set(short, [...(same.get(short) ?? []), name]);
  }
  for (const [short, group] of same) {
    const start = group.length > 1 ? common(group) : 0;
    for (const name of group) found.set(name, group.length > 1 ? around(name, start, length) : short);
  }
  return found;
}

export function middle(text, length) {
  const letters = [...text];
  if (letters.length <= length) return text;
  const head = Math.floor((length - 1) / 2);
  return `${letters.slice(0, head).join("")}…${letters.slice(letters.length - (length - 1 - head)).join("")}`;
}

// How many letters all of them begin with.
function common(names) {
  const [first, ...others] = names.map((name) => [...name]);
  let at = 0;
  while (at < first.length && others.every((one) => one[at] === first[at])) at++;
  return at;
}

// The beginning, and what comes from a little before a place on.
function around(name, start, length) {
  const letters = [...name];
  if (start < length - 6) return `${letters.slice(0, length - 1).join("")}…`;
  const from = Math.max(HEAD, start - 6);
  const rest = letters.slice(from);
  const room = length - HEAD - 2;
  return `${letters.slice(0, HEAD).join("")}…${rest.slice(0, room).join("")}${rest.length > room ? "…" : ""}`;
}

// What each run is called beside others: shortened, with its number where two have the same name.
export function labels(runs, length) {
  const short = shortNames(runs.map((run) => run.name), length);
  const times = new Map();
  for (const run of runs) times.set(run.name, (times.get(run.name) ?? 0) + 1);
  return new Map(runs.map((run) => [run.id, times.get(run.name) > 1 ? `${short.get(run.name)} (${run.id})` : short.get(run.name)]));
}
