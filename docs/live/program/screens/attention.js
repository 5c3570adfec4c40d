// Screen 5: where each word is read, level by level; and its attention turned up or down.

import { arrows, figure, h, paint, paintVeil, picture } from "../dom.js";
import * as prelude from "./prelude.js";

export function mount(root, app) {
  const { levels, factor } = app.facts.config;
  const words = arrows(h("div", { class: "words", role: "radiogroup", "aria-label": "Words" }));
  const under = picture("The guess at this step"), over = picture("Where the word is read, all levels together");
  const maps = levels.map((level) => picture(`Level ${level}`, "pixelated map"));
  const names = levels.map(() => h("span", {}));
  const slider = h("input", { type: "range", min: 0, max: 4, step: 0.1, value: 1, id: "weight", "aria-label": "Attention of this word" });
  const output = h("output", { for: "weight", class: "formula" });
  const mute = h("button", { class: "quiet", onclick: () => ((slider.value = Number(slider.value) ? 0 : 1), slider.oninput()) });
  const again = h("button", { id: "draw-attention", onclick: () => app.draw({ ...app.run.request, muted: factors() }) }, "Draw with this attention");
  const reset = h("button", { class: "quiet", onclick: () => (weights.clear(), app.draw({ ...app.run.request, muted: undefined })) }, "Reset");
  const unchanged = picture("The picture before"), comparison = h("div", { class: "row two" }, figure(unchanged, "every word × 1"), h("div", {}));
  const stage = h("div", {},
    h("p", { class: "lead" }, "Point at a word. Colour shows where the picture reads it, scaled to each map’s largest value."), words,
    h("div", { class: "row" },
      figure(h("div", { class: "veiled" }, under, over), "all levels on the guess x̂₀"),
      ...maps.map((map, i) => figure(map, names[i]))),
    h("div", { class: "fork" }, h("label", { class: "slider grow", for: "weight" }, h("span", {}, "this word"), slider, output), mute, again, reset),
    comparison,
  ); // prettier-ignore
  const before = prelude.mount(root, app, stage, "Draw a picture to see where each of your words is read.");

  const weights = new Map(); // box → factor
  let chosen, seen;
  const factors = () => Float32Array.from({ length: app.tokenizer.length }, (_, i) => weights.get(i) ?? 1);

  function choose(box) {
    chosen = box;
    slider.value = weights.get(box) ?? 1;
    update();
  }

  /** One button for start, every token and end; the padding shares one. */
  function buttons(run) {
    const tokens = run.tokens, boxes = [["start", 0], ...tokens.map((token, i) => [token.text, i + 1]), ["end", tokens.length + 1]];
    words.replaceChildren(...boxes.map(([text, box]) => h("button", {
      class: box === 0 || box > tokens.length ? "word special" : "word", role: "radio", "data-box": box,
      onmouseenter: () => choose(box), onfocus: () => choose(box), onclick: () => choose(box),
    }, text))); // prettier-ignore
  }

  /** The longest word first: it is often a thing. */
  const longest = (tokens) => 1 + tokens.reduce((best, token, i) => (token.text.length > (tokens[best]?.text.length ?? 0) ? i : best), 0);

  slider.oninput = () => {
    weights.set(chosen, Number(slider.value));
    update();
  };

  function update() {
    const { run, step, index } = app;
    if (!before.update(Boolean(step))) return;
    if (seen !== run) {
      seen = run;
      buttons(run);
      chosen = run.request.muted ? chosen : longest(run.tokens);
      weights.clear();
      run.request.muted?.forEach((factor, box) => factor !== 1 && weights.set(box, factor));
      slider.value = weights.get(chosen) ?? 1;
    }
    for (const button of words.children) {
      const box = Number(button.dataset.box), weight = weights.get(box) ?? 1;
      button.setAttribute("aria-checked", String(box === chosen));
      button.tabIndex = box === chosen ? 0 : -1;
      button.style.opacity = Math.max(0.35, Math.min(1, 0.4 + 0.6 * weight));
      button.dataset.weight = weight === 1 ? "" : `×${weight.toFixed(1)}`;
    }
    mute.textContent = Number(slider.value) ? "Mute" : "Unmute";
    output.textContent = Number(slider.value) === 0 ? "× 0: muted" : `× ${Number(slider.value).toFixed(1)}`;
    again.hidden = [...weights.values()].every((weight) => weight === 1) && !run.request.muted;
    reset.hidden = again.hidden;
    comparison.hidden = !(run.request.muted && run.before?.pixels);
    const color = app.accent(), { width, height } = run.request, rows = app.tokenizer.length;
    const pixels = run.frame("x0", index) ?? (run.drawing ? null : run.pixels);
    if (pixels) paint(under, pixels, width, height);
    const whole = new Float32Array(run.h * run.w);
    step.attention.forEach((map, i) => {
      const values = Float32Array.from({ length: map.h * map.w }, (_, p) => map.data[p * rows + chosen]);
      paintVeil(maps[i], values, map.w, map.h, color);
      names[i].textContent = `level ${map.level}: ${map.h} × ${map.w}, up to ${(100 * Math.max(...values)).toFixed(0)}\u00a0%`;
      for (let p = 0; p < whole.length; p++) {
        const [y, x] = [Math.floor(p / run.w), p % run.w];
        whole[p] += values[Math.min(map.h - 1, y >> map.level) * map.w + Math.min(map.w - 1, x >> map.level)] / levels.length;
      }
    });
    paintVeil(over, whole, run.w, run.h, color);
    over.style.aspectRatio = under.style.aspectRatio = `${run.w * factor} / ${run.h * factor}`;
    if (!comparison.hidden) {
      paint(unchanged, run.before.pixels, run.before.request.width, run.before.request.height);
      const after = picture("The picture with the changed attention");
      if (run.pixels) paint(after, run.pixels, width, height);
      comparison.lastChild.replaceWith(figure(after, run.pixels ? "with the changed attention" : "drawing …"));
    }
  }
  return { update };
}
