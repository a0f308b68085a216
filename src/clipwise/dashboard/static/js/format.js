// Numbers, times and counts as people read them.

const WORDS = { nan: "NaN", inf: "Inf", "-inf": "-Inf" };

// Four digits; powers of ten only where a plain number would be long.
export function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return WORDS[value] ?? value;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(2).replace("e+", "e").replace(/\.?0+e/, "e");
  if (size >= 1e4) return value.toFixed(0);
  return String(Number(value.toPrecision(4)));
}

export function tick(value) {
  if (value === null) return "";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replace("e+", "e").replace(".0e", "e");
  return String(Number(value.toPrecision(4)));
}

export function stepTick(value) {
  if (!Number.isInteger(value)) return "";
  if (value >= 1e6) return `${Number((value / 1e6).toFixed(3))}M`;
  if (value >= 1e4) return `${Number((value / 1e3).toFixed(2))}k`;
  return String(value);
}

export function count(value) {
  return Math.round(value).toLocaleString("en-US");
}

export function many(value, one, several = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : several}`;
}

// Never rounded to 0 % or 100 % when it is neither.
export function percent(share) {
  if (!Number.isFinite(share)) return "–";
  const hundreds = share * 100;
  if (share > 0 && hundreds < 0.01) return "<0.01 %";
  if (share < 1 && hundreds > 99.99) return ">99.99 %";
  return `${hundreds < 1 || (share < 1 && hundreds > 99) ? hundreds.toFixed(2) : hundreds.toFixed(1)} %`;
}

export function ago(seconds, now = Date.now() / 1000) {
  const past = Math.max(0, now - seconds);
  if (past < 10) return "now";
  if (past < 90) return `${Math.round(past)} s ago`;
  if (past < 5400) return `${Math.round(past / 60)} min ago`;
  if (past < 129600) return `${Math.round(past / 3600)} h ago`;
  return `${Math.round(past / 86400)} d ago`;
}

// A length of time: 12 s, 5 min, 1 h 30 min, 2 d 4 h.
export function elapsed(seconds) {
  const sign = seconds < 0 ? "-" : "";
  const size = Math.abs(seconds);
  if (size < 60) return `${sign}${Number(size.toFixed(size < 10 ? 2 : 0))} s`;
  const [unit, of, under] = size < 3600 ? [60, "min", "s"] : size < 86400 ? [3600, "h", "min"] : [86400, "d", "h"];
  const parts = { s: 1, min: 60, h: 3600 };
  const rest = Math.round((size % unit) / parts[under]);
  const whole = Math.floor(size / unit) + (rest * parts[under] === unit ? 1 : 0);
  return `${sign}${whole} ${of}${rest && rest * parts[under] !== unit ? ` ${rest} ${under}` : ""}`;
}

export function moment(seconds) {
  return new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

// What a logged series is called: with whose it is before it, where that is somebody's.
export function title({ source, name }) {
  return source ? `${source}/${name}` : name;
}
