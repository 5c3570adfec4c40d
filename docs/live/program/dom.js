// Small helpers: elements, and numbers as pictures.

/** An element: h("button", {class: "quiet", onclick: f}, "Draw", otherElement). */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element[name] = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** The same for SVG. */
export function svg(tag, properties = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A canvas that says what it shows; `pixelated` for tensors, smooth for pictures. */
export function picture(label, kind = "smooth") {
  return h("canvas", { role: "img", "aria-label": label, class: kind, width: 1, height: 1 });
}

/** A canvas with a caption under it. */
export function figure(canvas, ...caption) {
  return h("figure", {}, canvas, h("figcaption", {}, ...caption));
}

/** RGBA bytes on a canvas. */
export function paint(canvas, pixels, width, height) {
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  canvas.dataset.painted = "yes";
}

/** One plane of a tensor in greys: 0 is the middle, ±range black and white. */
export function paintPlane(canvas, data, offset, width, height, range = 3) {
  const pixels = new Uint8ClampedArray(4 * width * height).fill(255);
  for (let i = 0; i < width * height; i++) pixels.fill(127.5 + (127.5 * data[offset + i]) / range, 4 * i, 4 * i + 3);
  paint(canvas, pixels, width, height);
}

/** The first three channels of latents as red, green and blue: enough to recognise noise. */
export function paintLatents(canvas, x, height, width) {
  const pixels = new Uint8ClampedArray(4 * width * height).fill(255), plane = height * width;
  for (let i = 0; i < plane; i++) for (let c = 0; c < 3; c++) pixels[4 * i + c] = 127.5 + 42.5 * x[c * plane + i];
  paint(canvas, pixels, width, height);
}

/** A map of attention as a veil: the accent colour where a word is read, transparent where not. */
export function paintVeil(canvas, values, width, height, [red, green, blue], most = Math.max(...values)) {
  const pixels = new Uint8ClampedArray(4 * width * height);
  values.forEach((value, i) => pixels.set([red, green, blue, (255 * value) / (most || 1)], 4 * i));
  paint(canvas, pixels, width, height);
}

/** Four planes of latents, two by two. */
export function channels(label, count) {
  const canvases = Array.from({ length: count }, (_, c) => picture(`${label}, channel ${c + 1} of ${count}`, "pixelated"));
  const element = h("div", { class: "channels" }, canvases);
  const show = (x, height, width, range) => canvases.forEach((canvas, c) => paintPlane(canvas, x, c * height * width, width, height, range));
  return { element, show };
}

/** Arrow keys choose among the buttons of a group; Tab only reaches the chosen button (`tabIndex` 0). */
export function arrows(group) {
  group.onkeydown = (event) => {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key], buttons = [...group.children];
    if (!move) return;
    event.preventDefault();
    const next = buttons[(buttons.indexOf(event.target) + move + buttons.length) % buttons.length];
    next.click();
    next.focus();
  };
  return group;
}

/** f, called `wait` ms after the last call, with its arguments. */
export function settled(f, wait = 150) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => f(...values), wait);
  };
}

/** "3.1 s", "1 min 20 s". */
export function duration(seconds) {
  if (seconds < 9.5) return `${Math.max(0.1, seconds).toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}
