// Screen 7: the same words from nine different noises.

import { figure, h, paint, picture } from "../dom.js";
import { Run } from "../run.js";

export function mount(root, app) {
  const grid = h("div", { class: "grid" });
  const start = h("button", { onclick: () => draw() }, "Draw nine seeds");
  const stop = h("button", { class: "quiet", hidden: true, onclick: () => current?.stop() }, "Stop");
  root.append(h("p", { class: "lead" }, "Nothing changes but the noise. Click a picture to take its seed."), h("div", { class: "fork" }, start, stop), grid);
  let current;

  async function draw() {
    if (app.run?.drawing || current) return;
    const { screen, ...request } = app.state, first = BigInt(request.seed);
    const cells = Array.from({ length: 9 }, (_, i) => {
      const seed = String(first + BigInt(i)), canvas = picture(`Seed ${seed}`);
      const button = h("button", { class: "cell", "aria-label": `Take seed ${seed}`, onclick: () => app.draw({ seed }) }, canvas);
      return { seed, canvas, element: figure(button, seed) };
    });
    grid.replaceChildren(...cells.map((cell) => cell.element));
    stop.hidden = false;
    for (const { seed, canvas } of cells) {
      current = new Run(app, { ...request, seed });
      const run = current;
      await app.guard(run.draw(() => {
        const pixels = run.pixels ?? run.frame("x0", run.steps.length - 1);
        if (pixels) paint(canvas, pixels, request.width, request.height);
      }), run); // prettier-ignore
      const stopped = run.abandoned;
      run.abandoned = true; // its other frames are not needed
      if (stopped || !run.pixels) break;
    }
    current = null;
    stop.hidden = true;
  }
  return { update() {} };
}
