// The data of a live page: questions to the server, and its news.

import { Unreachable } from "./unreachable.js";

export class Live {
  constructor() {
    this.live = true;
    this._news = null;
  }

  runs() {
    return ask("runs", {});
  }

  run(id) {
    return ask("run", { run: id });
  }

  series(runs, keys, view) {
    return ask("series", { run: runs, source: keys.map((one) => one.source), name: keys.map((one) => one.name), ...view });
  }

  distribution(id, source, view) {
    return ask("distribution", { run: id, source, ...view });
  }

  clipped(id, source, view, threshold) {
    return ask("clipped", { run: id, source, threshold, ...view });
  }

  layers(id, source, view) {
    return ask("layers", { run: id, source, ...view });
  }

  advice(id, source) {
    return ask("advice", { run: id, source });
  }

  // Something that is changed in the file: {}, or an error.
  async change(name, asked) {
    try {
      const answer = await fetch(`/api/${name}`, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked),
      });
      return (answer.headers.get("Content-Type") ?? "").includes("json") ? await answer.json() : { error: await answer.text() };
    } catch (error) {
      return { error: "The server does not answer" };
    }
  }

  // Calls changed() at news, and reached(true or false) as the server comes and goes. A page that nobody
  // sees listens to nothing.
  listen(changed, reached) {
    const open = () => {
      if (this._news || document.hidden) return;
      this._news = new EventSource("/api/events");
      this._news.addEventListener("change", changed);
      this._news.onopen = () => reached(true);
      this._news.onerror = () => {
        reached(false);
        // Where the browser has given up, after an answer that was none, it is asked again.
        if (this._news && this._news.readyState === EventSource.CLOSED) {
          close();
          setTimeout(open, 1000);
        }
      };
    };
    const close = () => {
      this._news?.close();
      this._news = null;
    };
    document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
    open();
  }
}

async function ask(name, question) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(question)) {
    if (value === null || value === undefined) continue;
    for (const one of Array.isArray(value) ? value : [value]) query.append(key, one);
  }
  try {
    const answer = await fetch(`/api/${name}?${query}`);
    if (answer.ok || answer.status === 400 || answer.status === 404) return await answer.json();
  } catch (error) {
    throw new Unreachable(error.message);
  }
  throw new Unreachable("no answer");
}
