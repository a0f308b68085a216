// Colours of the theme, of the runs, and of the heat map.

const RUNS = {
  light: ["#0072b2", "#d55e00", "#00805a", "#a8457f", "#7d6a00", "#5b4bb3", "#3f7f93", "#8c3b1b"],
  dark: ["#4ba3dd", "#f0803c", "#2fc79c", "#df9cc2", "#f0e442", "#a99cf5", "#86ccf2", "#e0a58c"],
};

const dark = window.matchMedia("(prefers-color-scheme: dark)");

export function onTheme(changed) {
  dark.addEventListener("change", changed);
}

export function runColour(place) {
  const colours = RUNS[dark.matches ? "dark" : "light"];
  return colours[place % colours.length];
}

// What held a threshold: the same colour for the same reason everywhere; beginnings are grey.
const REASONS = { history: 0, length: 2, loss: 3, floor: 4, weights: 5, ceiling: 7 };

export function reasonColour(name, place) {
  if (name === "start" || name === "warm-up") return theme().quiet;
  return runColour(REASONS[name] ?? 6 + place);
}

// The variables of base.css, as the canvas needs them.
export function theme() {
  const style = getComputedStyle(document.documentElement);
  const found = {};
  for (const name of ["paper", "card", "ink", "quiet", "line", "good", "bad", "warn", "accent", "limit"])
    found[name] = style.getPropertyValue(`--${name}`).trim();
  return found;
}

// A colour with less weight.
export function faint(colour, alpha) {
  const part = (at) => parseInt(colour.slice(at, at + 2), 16);
  return `rgba(${part(1)}, ${part(3)}, ${part(5)}, ${alpha})`;
}

// Matplotlib's viridis (public domain, CC0) at nine places; even steps look even, also to the colour-blind.
const VIRIDIS = [
  [68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141],
  [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37],
];

export function heatColour(share) {
  const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return VIRIDIS[low].map((part, i) => Math.round(part + (VIRIDIS[low + 1][i] - part) * (place - low)));
}
