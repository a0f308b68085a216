// The data of a report: what the file itself carries, asked for in the same way as a server.

export class Kept {
  constructor(data) {
    this.live = false;
    this._data = data;
  }

  async runs() {
    return { state: READY, runs: this._data.runs };
  }

  async run(id) {
    return { state: READY, run: this._data.run[id] };
  }

  async series(runs, keys) {
    const found = {};
    for (const id of runs) {
      found[id] = {};
      for (const { source, name } of keys) {
        const there = this._data.series[id]?.[source]?.[name];
        if (there) (found[id][source] ??= {})[name] = there;
      }
    }
    return { state: READY, series: found };
  }

  async distribution(id, source) {
    return { state: READY, distribution: this._data.distribution[id][source] };
  }

  // The nearest threshold of which the report knows the count.
  async clipped(id, source, view, threshold) {
    const { thresholds, clipped, marks } = this._data.distribution[id][source];
    const known = [
      ...thresholds.map((value, i) => ({ threshold: value, clipped: clipped[i] })),
      ...marks.map((mark) => ({ threshold: mark.value, clipped: mark.clipped })),
    ];
    const far = (one) => Math.abs(Math.log(one.threshold / threshold));
    return known.reduce((best, one) => (far(one) < far(best) ? one : best));
  }

  async layers(id, source) {
    return { state: READY, layers: this._data.layers[id][source] };
  }

  async advice(id, source) {
    return { state: READY, advice: this._data.advice[id][source] };
  }

  listen() {}
}

const READY = { kind: "ready", message: "" };
