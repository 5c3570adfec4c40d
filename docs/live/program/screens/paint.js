// Screen 8: paint on a picture or on the noise, and let the loop go on from there.

import { arrows, figure, h, paint, paintLatents, picture } from "../dom.js";
import { Board } from "../board.js";
import { CudaNoise } from "../noise.js";
import { toImage } from "../pipeline.js";

const COLORS = { red: "#d64541", orange: "#f08c2e", yellow: "#f5d547", green: "#4c9f50", blue: "#3d6fc4", purple: "#8a55b8", brown: "#8b5a33", black: "#26262a", white: "#ffffff" };
const TOOLS = { color: "paint colour", veil: "mark what to draw anew", noise: "paint other noise" };

const check = (button, chosen) => (button.setAttribute("aria-checked", String(chosen)), (button.tabIndex = chosen ? 0 : -1));

export function mount(root, app) {
  const { factor, channels } = app.facts.config;
  let tool = "color", color = COLORS.red, filled, sources = 0;
  const board = new Board("What the loop starts from", {
    layer: () => (tool === "color" ? "sheet" : "veil"),
    color: () => (tool === "color" ? color : `rgb(${app.accent()})`),
    onStroke: () => update(),
  });
  const { sheet, veil } = board;
  const result = picture("What the loop makes of it"), told = h("span", {}), made = h("span", {});

  // The tools
  const tools = Object.entries(TOOLS).map(([name, text]) => h("button", { class: "word special", role: "radio", "data-tool": name, onclick: () => take(name) }, text));
  const swatches = Object.entries(COLORS).map(([name, value]) =>
    h("button", { class: "swatch", style: `background: ${value}`, role: "radio", "aria-label": name, title: name, "data-color": value, onclick: () => ((color = value), take("color")) })); // prettier-ignore
  const palette = arrows(h("div", { class: "palette", role: "radiogroup", "aria-label": "Colour" }, swatches));
  const size = slider("brush", "brush", { min: 0.03, max: 0.4, step: 0.01, value: 0.12 }, (value) => ((board.size = value), `${Math.round(value * app.state.width)} px`));
  const strength = slider("strength", "strength", { min: 0.05, max: 1, step: 0.05, value: 0.6 }, (value) => value.toFixed(2));
  const file = h("input", { type: "file", id: "picture-file", accept: "image/*", class: "hidden", onchange: () => file.files[0] && open(file.files[0]) });
  const drawn = h("button", { class: "quiet", onclick: () => (lay(), take("color")) }, "The picture drawn");
  const go = h("button", { id: "draw-here", onclick: () => (app.run?.drawing ? app.run.stop() : app.draw({ start: start() })) });
  root.append(
    h("div", { class: "fork" }, h("span", {}, "Start from:"), drawn,
      h("button", { id: "blank", class: "quiet", onclick: () => (blank(), take("color")) }, "A blank sheet"),
      h("label", { class: "button quiet", for: "picture-file" }, "A file", file)),
    arrows(h("div", { class: "words", role: "radiogroup", "aria-label": "Tool" }, tools)),
    palette, size.element,
    h("div", { class: "row two" }, figure(board.element, told), figure(result, made)),
    strength.element,
    h("div", { class: "fork" }, go, h("button", { class: "quiet", onclick: () => (filled?.(), update()) }, "Undo all painting")),
  ); // prettier-ignore

  /** A labelled slider; `show(value)` gives the text beside it. */
  function slider(id, name, range, show) {
    const input = h("input", { type: "range", id, ...range }), output = h("output", { class: "formula", for: id });
    input.oninput = () => (output.textContent = show(Number(input.value)));
    input.oninput();
    return { input, element: h("label", { class: "slider", for: id }, h("span", {}, name), input, output) };
  }

  // What is on the board. `filled` fills it again as before, which undoes painting
  function fill(draw) {
    filled = () => {
      const { width, height } = app.state;
      Object.assign(sheet, { width, height, className: "sheet" });
      board.clear(width, height);
      draw(sheet.getContext("2d"), width, height);
      sheet.dataset.painted = "yes";
    };
    sources++;
    filled();
    update();
  }
  const blank = () => fill((context, width, height) => {
    context.fillStyle = "#f5efe2";
    context.fillRect(0, 0, width, height);
  }); // prettier-ignore
  function lay() {
    const { pixels, request } = app.run;
    const copy = h("canvas");
    paint(copy, pixels, request.width, request.height);
    fill((context, width, height) => context.drawImage(copy, 0, 0, width, height));
  }
  async function open(chosen) {
    try {
      const bitmap = await createImageBitmap(chosen);
      fill((context, width, height) => { // the middle of the picture, as large as it goes
        const scale = Math.max(width / bitmap.width, height / bitmap.height), [w, h] = [scale * bitmap.width, scale * bitmap.height];
        context.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
      }); // prettier-ignore
      take("color");
    } catch {
      app.fail(`${chosen.name} is not a picture that this browser can read. Choose a PNG, JPEG or WebP file.`);
    }
    file.value = "";
  }
  const latentSize = () => [app.state.height / factor, app.state.width / factor];
  const noiseOf = (seed) => new CudaNoise(seed).randn(channels * latentSize()[0] * latentSize()[1]);

  /** The noise of the seed, and of the next seed where the board is painted. */
  function mixed() {
    const mask = board.mask(), other = noiseOf(String(BigInt(app.state.seed) + 1n));
    return noiseOf(app.state.seed).map((value, i) => (mask[i % mask.length] ? other[i] : value));
  }

  function take(next) {
    if (next === "noise") {
      filled = () => board.clear(...latentSize().reverse());
      filled();
    } else if (tool === "noise") app.run?.pixels ? lay() : blank();
    tool = next;
    if (tool === "veil") strength.input.value = 1;
    if (tool === "color") strength.input.value = 0.6;
    strength.input.oninput();
    update();
  }

  /** What the run starts from, as minisd/editing takes it. */
  function start() {
    if (tool === "noise") return { noise: mixed() };
    const { width, height } = sheet, pixels = sheet.getContext("2d").getImageData(0, 0, width, height).data, whole = board.mask();
    const [h4, w4] = latentSize();
    const mask = Float32Array.from({ length: h4 * w4 }, (_, i) => whole[factor * (Math.floor(i / w4) * width + (i % w4))]);
    return { image: toImage(pixels), strength: Number(strength.input.value), mask: mask.some(Boolean) ? mask : null };
  }

  function update() {
    const { run, state, engine } = app, noisy = tool === "noise";
    if (!sources) return run?.pixels ? lay() : blank();
    if (noisy ? veil.width !== state.width / factor : sheet.width !== state.width || sheet.height !== state.height) filled();
    if (noisy) paintLatents(sheet, mixed(), ...latentSize());
    sheet.className = noisy ? "sheet pixelated" : "sheet";
    veil.hidden = noisy;
    const masked = !noisy && board.mask().some(Boolean);
    told.textContent = noisy ? `x at the start: where you paint, the noise of seed ${BigInt(state.seed) + 1n}`
      : masked ? "inpainting: only the marked part is drawn anew" : "img2img: noise is added to all of it, then removed with your words"; // prettier-ignore
    for (const button of tools) check(button, button.dataset.tool === tool);
    for (const swatch of swatches) check(swatch, swatch.dataset.color === color);
    palette.hidden = tool !== "color";
    strength.element.hidden = noisy;
    drawn.disabled = !run?.pixels;
    go.textContent = run?.drawing ? "Stop" : "Draw from here";
    go.disabled = !engine;
    const pixels = run?.newest;
    if (pixels) paint(result, pixels, run.request.width, run.request.height);
    else paintLatents(result, noiseOf(state.seed), ...latentSize());
    result.className = pixels ? "smooth" : "pixelated";
    made.textContent = run?.request.start ? "what the loop makes of it" : pixels ? "the picture drawn from pure noise" : "the noise of this seed";
  }
  return { update, board, take };
}
