// Screen 6: all settings, and two of them side by side from the same noise.

import { figure, h, paint, paintLatents, picture } from "../dom.js";
import { CudaNoise } from "../noise.js";
import { Run } from "../run.js";
import { SAMPLERS } from "../samplers.js";
import { withSampler } from "../state.js";

const KNOBS = {
  prompt: { label: "prompt", type: "text" },
  negative: { label: "negative prompt", type: "text" },
  seed: { label: "seed", type: "text", inputmode: "numeric", pattern: "\\d{1,19}" },
  steps: { label: "steps", type: "number", min: 1, max: 200 },
  scale: { label: "guidance w", type: "number", min: 0, max: 30, step: 0.5 },
  sampler: { label: "sampler", options: Object.keys(SAMPLERS) },
  width: { label: "width", type: "number", min: 32, max: 256, step: 8 },
  height: { label: "height", type: "number", min: 32, max: 256, step: 8 },
};

/** A form for one set of settings. `onChange(patch)` is called for every change. */
function knobs(side, onChange) {
  const inputs = {};
  const element = h("div", { class: "knobs" }, Object.entries(KNOBS).map(([name, { label, options, ...attributes }]) => {
    const id = `${side}-${name}`;
    const input = (inputs[name] = options ? h("select", { id }, options.map((one) => h("option", {}, one))) : h("input", { id, ...attributes }));
    input.onchange = () => onChange({ [name]: attributes.type === "number" ? Number(input.value) : input.value });
    return h("label", { for: id, class: attributes.type === "text" && name !== "seed" ? "broad" : "" }, h("span", {}, label), input);
  })); // prettier-ignore
  return { element, fill: (state) => Object.entries(inputs).forEach(([name, input]) => document.activeElement !== input && (input.value = state[name])) };
}

export function mount(root, app) {
  const a = picture("Picture A"), b = picture("Picture B"), difference = picture("The difference of A and B");
  const told = h("span", {}, "B − A"), namedB = h("span", {}, "B");
  let other, rival;
  const fitting = (state, patch) => (patch.sampler ? withSampler(state, patch.sampler, app.start) : patch);
  const formA = knobs("a", (patch) => app.set(fitting(app.state, patch))), formB = knobs("b", (patch) => {
    other = app.checked({ ...other, ...fitting(other, patch) });
    update();
  }); // prettier-ignore
  const drawB = h("button", { id: "draw-both", onclick: async () => {
    if (rival?.drawing) return rival.stop();
    if (!app.run?.pixels || !app.isCurrent()) await app.draw();
    rival = new Run(app, { ...other });
    const drawn = rival.draw(update);
    update(); // the button now says "Stop"
    await app.guard(drawn, rival);
    update();
  } }, "Draw both"); // prettier-ignore
  root.append(
    h("div", { class: "row three" },
      figure(a, "A"), figure(b, namedB), figure(difference, told)),
    h("div", { class: "row two forms" },
      h("section", { "aria-label": "Settings A" }, h("h3", {}, "A"), formA.element),
      h("section", { "aria-label": "Settings B" }, h("h3", {}, "B"), formB.element)),
    drawB,
  ); // prettier-ignore

  function update() {
    other ??= { ...app.state, scale: app.state.scale === 1 ? 4 : 1 };
    formA.fill(app.state);
    formB.fill(other);
    drawB.textContent = rival?.drawing ? "Stop" : "Draw both";
    drawB.disabled = !app.engine || Boolean(app.run?.drawing);
    const left = show(a, app.run, app.state), right = show(b, rival, other);
    namedB.textContent = `B: ${differences(app.run?.request ?? app.state, rival?.request ?? other)}`;
    const both = Boolean(left && right && app.run.pixels && rival.pixels && left.length === right.length);
    difference.hidden = !both;
    if (!both) {
      told.textContent = "B − A: shown when both are drawn at the same size.";
      return;
    }
    let sum = 0;
    const pixels = right.map((value, i) => {
      if (i % 4 === 3) return 255;
      sum += Math.abs(value - left[i]);
      return 127.5 + (value - left[i]) / 2;
    });
    paint(difference, pixels, rival.request.width, rival.request.height);
    told.textContent = `B − A: ${(sum / (0.75 * pixels.length)).toFixed(1)} of 255 a pixel, on average`;
  }

  /** The newest picture of a run on a canvas; before there is one, the noise that `state` starts from. */
  function show(canvas, run, state) {
    const pixels = run?.newest, { factor, channels } = app.facts.config;
    canvas.classList.toggle("pixelated", !pixels);
    if (pixels) paint(canvas, pixels, run.request.width, run.request.height);
    else {
      const [height, width] = [state.height / factor, state.width / factor];
      paintLatents(canvas, new CudaNoise(state.seed).randn(channels * height * width), height, width);
    }
    return pixels;
  }
  return { update };
}

/** Where B differs from A: "guidance w 1, steps 40". */
function differences(a, b) {
  const named = Object.keys(KNOBS).filter((name) => a[name] !== b[name]).map((name) => `${KNOBS[name].label} ${b[name] || "none"}`);
  return named.join(", ") || "the same settings";
}
