// Screen 3: the loop as a film. x_t, the guess x̂0, the latents; and going on from any step with other words.

import { channels, figure, h, paint, paintLatents, picture } from "../dom.js";
import * as prelude from "./prelude.js";

export function mount(root, app) {
  const guess = picture("What the model guesses the picture to be, at this step"), now = picture("The latents at this step, through the VAE");
  const planes = channels("Latents", app.facts.config.channels), beliefs = channels("Guessed latents", app.facts.config.channels);
  const words = h("input", { type: "text", id: "fork-words", autocomplete: "off", spellcheck: "false" });
  const scale = h("input", { type: "number", id: "fork-scale", min: 0, max: 30, step: 0.5 });
  const at = h("strong", {});
  const back = h("button", { class: "quiet", onclick: () => app.show(app.run.origin) }, "Back to the first run");
  const form = h("form", { class: "fork", onsubmit: (event) => {
    event.preventDefault();
    app.fork({ prompt: words.value, scale: Number(scale.value) });
  } },
    h("span", {}, "From ", at, " on:"),
    h("label", { class: "grow", for: "fork-words" }, h("span", { class: "hidden" }, "other words"), words),
    h("label", { for: "fork-scale" }, "guidance ", scale),
    h("button", { id: "go-on" }, "Go on from here"), back); // prettier-ignore
  const stage = h("div", {},
    h("div", { class: "row" },
      figure(now, "x", h("sub", {}, "t"), ": where the loop stands"),
      figure(guess, "x̂₀: what the model expects"),
      h("div", { class: "stack" },
        figure(planes.element, "latents of x", h("sub", {}, "t"), ", four channels"),
        figure(beliefs.element, "latents of x̂₀"))),
    form,
  ); // prettier-ignore
  const before = prelude.mount(root, app, stage, "Draw a picture to see every step between this noise and the picture.");

  let filled;
  return {
    update() {
      const { run, step, index } = app;
      if (!before.update(Boolean(step))) return;
      const { w, h: height, request } = run;
      run.wanted = [`x0 ${index}`, `input ${index}`];
      run.develop(app.changed);
      for (const [canvas, what] of [[guess, "x0"], [now, "input"]]) {
        const pixels = run.frame(what, index);
        canvas.className = pixels ? "smooth" : "pixelated waiting";
        if (pixels) paint(canvas, pixels, request.width, request.height);
        else paintLatents(canvas, step[what], height, w);
      }
      planes.show(step.input, height, w);
      beliefs.show(step.x0, height, w);
      at.textContent = `step ${index + 1} (t = ${Math.round(step.t)})`;
      back.hidden = !run.origin;
      if (filled !== run) [filled, words.value, scale.value] = [run, request.prompt, request.scale];
    },
  };
}
