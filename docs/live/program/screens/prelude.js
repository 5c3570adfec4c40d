// What a screen of the loop shows before the first step: the noise that the loop starts from, and what to expect.

import { channels, figure, h } from "../dom.js";
import { CudaNoise } from "../noise.js";

/** `stage` is shown once there is something for it; until then the noise and `text`. */
export function mount(root, app, stage, text) {
  const { config } = app.facts, noise = channels("The noise of this seed", config.channels);
  const draw = h("button", { onclick: () => app.draw() }, "Draw"), told = h("p", {}), caption = h("span", {});
  const element = h("div", { class: "prelude" }, figure(noise.element, caption), h("div", {}, told, draw));
  root.append(element, stage);
  let shown;

  return {
    /** Shows the stage if `ready`; returns whether it did. */
    update(ready) {
      stage.hidden = !ready;
      element.hidden = ready;
      if (ready) return true;
      const { run, state, engine } = app, { seed } = state;
      const [height, width] = [state.height / config.factor, state.width / config.factor];
      if (shown !== (shown = [seed, height, width].join(" "))) noise.show(new CudaNoise(seed).randn(config.channels * height * width), height, width);
      caption.textContent = `x at the start: the noise of seed ${seed}`;
      told.textContent = !engine ? `The networks are loading. ${text}` : run?.drawing ? "The first step is being computed." : text;
      draw.hidden = !engine || Boolean(run?.drawing);
      return false;
    },
  };
}
