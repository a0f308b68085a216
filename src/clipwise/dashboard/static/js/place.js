// Where the page is: kept behind the # of the address, so that it can be bookmarked and sent.

export function readPlace() {
  const given = new URLSearchParams(location.hash.slice(1));
  const low = Number(given.get("from"));
  const high = Number(given.get("to"));
  return {
    run: whole(given.get("run")),
    others: (given.get("with") ?? "").split(",").map(whole).filter((id) => id !== null),
    source: given.get("source"),
    logged: given.has("name") ? { source: given.get("of") ?? "", name: given.get("name") } : null,
    rank: whole(given.get("rank")),
    range: given.has("from") && given.has("to") && high > low ? [low, high] : null,
  };
}

export function writePlace(place, { replace = true } = {}) {
  const parts = new URLSearchParams();
  if (place.run !== null) parts.set("run", place.run);
  if (place.others.length) parts.set("with", place.others.join(","));
  for (const key of ["source", "rank"]) if (place[key] !== null && place[key] !== "") parts.set(key, place[key]);
  if (place.logged) parts.set("name", place.logged.name);
  if (place.logged?.source) parts.set("of", place.logged.source);
  if (place.range) {
    parts.set("from", trimmed(place.range[0]));
    parts.set("to", trimmed(place.range[1]));
  }
  const hash = `#${parts}`;
  if (hash === location.hash || (hash === "#" && !location.hash)) return;
  history[replace ? "replaceState" : "pushState"](null, "", hash);
}

function whole(text) {
  return text && /^\d{1,15}$/.test(text) ? Number(text) : null;
}

function trimmed(value) {
  return String(Number(value.toFixed(2)));
}
