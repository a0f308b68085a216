// Where the page is: kept behind the # of the address, so that it can be bookmarked and sent.

// beside: what is drawn with what was logged: null nothing, undefined what goes with it.
export function readPlace() {
  const given = new URLSearchParams(location.hash.slice(1));
  const low = Number(given.get("from"));
  const high = Number(given.get("to"));
  return {
    run: whole(given.get("run")),
    others: (given.get("with") ?? "").split(",").map(whole).filter((id) => id !== null),
    source: given.get("source"),
    logged: given.has("name") ? { source: given.get("of") ?? "", name: given.get("name") } : null,
    beside: !given.has("beside") ? undefined : given.get("beside")
      ? { source: given.get("beside-of") ?? "", name: given.get("beside") } : null,
    smooth: given.get("mean") !== "0",
    axis: given.get("axis") === "time" ? "time" : "step",
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
  if (place.beside !== undefined) parts.set("beside", place.beside?.name ?? "");
  if (place.beside?.source) parts.set("beside-of", place.beside.source);
  if (!place.smooth) parts.set("mean", "0");
  if (place.axis === "time") parts.set("axis", "time");
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
