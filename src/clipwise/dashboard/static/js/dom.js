// Making elements. Text is always text: nothing here, or anywhere else, reads a string as HTML.

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  set(node, attributes);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

// Functions are listeners (onclick), true and false switch an attribute, null leaves it out.
export function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (value === false || value === null || value === undefined) node.removeAttribute(name);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
}

const drawn = new WeakMap();

// Builds the children anew only if what they show has changed, so that focus and selection stay.
export function keep(node, shown, build) {
  const text = JSON.stringify(shown);
  if (drawn.get(node) === text) return;
  drawn.set(node, text);
  node.replaceChildren(...[build()].flat().filter(Boolean));
}

// A canvas as sharp as the screen, and a context in CSS pixels.
export function sharp(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

export function wait(milliseconds) {
  return new Promise((done) => setTimeout(done, milliseconds));
}
