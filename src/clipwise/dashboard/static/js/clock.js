// Steps and seconds: when each step of a run was, counted from its first one.

export class Clock {
  // found: the series "time" of a run, as the server gives it; without one, or with axis "step", steps stay steps
  constructor(found) {
    const known = found?.line.x.map((x, i) => [x, found.line.y[i]]).filter(([, y]) => y !== null) ?? [];
    this._steps = known.map(([x]) => x);
    this._seconds = known.map(([, y]) => y);
    this.there = known.length > 1;
  }

  at(step) {
    return this.there ? between(this._steps, this._seconds, step) : step;
  }

  step(seconds) {
    return this.there ? between(this._seconds, this._steps, seconds) : seconds;
  }
}

// Straight lines between what is known, and on beyond both ends.
function between(from, to, value) {
  let low = 0;
  let high = from.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (from[middle] <= value) low = middle;
    else high = middle;
  }
  const span = from[high] - from[low];
  return span > 0 ? to[low] + ((value - from[low]) / span) * (to[high] - to[low]) : to[low];
}
