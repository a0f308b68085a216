// Ranges of steps: made wider, narrower, and moved.

export function scale([low, high], factor) {
  const middle = (low + high) / 2;
  const half = ((high - low) / 2) * factor;
  return [middle - half, middle + half];
}

// By a part of its width, not beyond what was recorded.
export function move([low, high], [first, last], part) {
  const width = high - low;
  const start = Math.min(Math.max(low + part * width, first), Math.max(first, last - width));
  return [start, start + width];
}
