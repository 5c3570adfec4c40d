// Screen 7: the same words from nine different noises.

import { figure, h, paint, paintLatents, picture } from "../dom.js";
import { CudaNoise } from "../noise.js";
import { Run } from "../run.js";

export function mount(root, app) {
  const { factor, channels } = app.facts.config;
  const grid = h("div", { class: "grid" });
  const start = h("button", { onclick: () => (current ? current.stop() : draw()) });
  root.append(h("p", { class: "lead" }, "Nothing changes but the noise. Choose a picture to take its seed."), h("div", { class: "fork" }, start), grid);
  let cells = [], shown, current;

  /** Nine cells that show the noises of this seed and the eight after it. */
  function lay({ seed: first, height, width }) {
    cells = Array.from({ length: 9 }, (_, i) => {
      const seed = String(BigInt(first) + BigInt(i)), canvas = picture(`The noise of seed ${seed}`, "pixelated");
      const [h4, w4] = [height / factor, width / factor];
      paintLatents(canvas, new CudaNoise(seed).randn(channels * h4 * w4), h4, w4);
      const button = h("button", { class: "cell", "aria-label": `Draw with seed ${seed}`, onclick: () => app.draw({ seed }) }, canvas);
      return { seed, canvas, button, element: figure(button, `seed ${seed}`) };
    });
    grid.replaceChildren(...cells.map((cell) => cell.element));
  }

  async function draw() {
    const { screen, ...request } = app.state;
    lay(request);
    for (const { seed, canvas } of cells) {
      const run = (current = new Run(app, { ...request, seed }));
      update(); // the button now says "Stop"
      await app.guard(run.draw(() => {
        const pixels = run.newest;
        if (!pixels) return;
        canvas.className = "smooth";
        canvas.setAttribute("aria-label", `The picture of seed ${seed}`);
        paint(canvas, pixels, request.width, request.height);
      }), run); // prettier-ignore
      run.abandon(); // its other frames are not needed
      if (run.stopped || !run.pixels) break;
    }
    current = null;
    update();
  }

  function update() {
    const { state, engine, run } = app, key = [state.prompt, state.seed, state.height, state.width].join("\n");
    if (!current && shown !== key && !cells.some(({ seed }) => seed === state.seed)) lay(state);
    shown = key;
    start.textContent = current ? "Stop" : "Draw nine seeds";
    start.disabled = !engine || (!current && Boolean(run?.drawing));
    for (const { button } of cells) button.disabled = !engine || Boolean(current);
  }
  return { update };
}
