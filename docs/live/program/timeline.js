// The film under the loop, guidance and attention: play, step, scrub; a small picture of the guess at every step.

import { h, paint, picture } from "./dom.js";

export function mount(root, app) {
  const slider = h("input", { type: "range", min: 0, max: 0, value: 0, id: "step", "aria-label": "Step" });
  const play = h("button", { id: "play", class: "round", "aria-label": "Play", onclick: () => (timer ? pause() : start()) }, "▶");
  const back = h("button", { class: "round", "aria-label": "One step back", onclick: () => move(-1) }, "‹");
  const on = h("button", { class: "round", "aria-label": "One step on", onclick: () => move(1) }, "›");
  const told = h("output", { for: "step", class: "formula" });
  const strip = h("div", { class: "strip" });
  root.append(h("div", { class: "bar" }, back, play, on, slider, told), strip);
  let timer, playing, seen, shown; // `playing`: the step that the film has come to

  const move = (by) => (pause(), app.select(app.index + by));
  function pause() {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶";
    play.setAttribute("aria-label", "Play");
  }
  function start() {
    if (!app.run) return;
    if (app.index >= app.run.steps.length - 1) app.select(0);
    playing = app.index;
    timer = setInterval(() => (app.index < app.run.steps.length - 1 ? app.select((playing = app.index + 1)) : app.run.drawing || pause()), 350);
    play.textContent = "❚❚";
    play.setAttribute("aria-label", "Pause");
  }
  slider.oninput = () => (pause(), app.select(Number(slider.value)));

  return {
    move,
    toggle: () => play.click(),
    update() {
      const { run, index, step } = app;
      root.hidden = !run;
      if (!run) return;
      if (timer && index !== playing) pause(); // somebody chose another step
      slider.max = Math.max(0, run.steps.length - 1);
      slider.value = index;
      told.textContent = step ? `step ${index + 1} of ${run.total} · t = ${Math.round(step.t)}` : "waiting for the first step";
      if (seen !== run) (seen = run), strip.replaceChildren();
      while (strip.children.length < run.steps.length) {
        const i = strip.children.length, canvas = picture(`The guess at step ${i + 1}`);
        strip.append(h("button", { class: "frame", tabindex: -1, onclick: () => (pause(), app.select(i)) }, canvas));
      }
      if (shown !== index) strip.scrollLeft = (strip.children[index]?.offsetLeft ?? 0) - strip.offsetLeft - strip.clientWidth / 2;
      shown = index;
      [...strip.children].forEach((cell, i) => {
        cell.classList.toggle("now", i === index);
        const pixels = run.frame("x0", i), canvas = cell.firstChild;
        if (pixels && !canvas.dataset.painted) paint(canvas, pixels, run.request.width, run.request.height);
      });
    },
  };
}
