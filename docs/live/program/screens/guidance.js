// Screen 4: the prediction without words, the prediction with words, and their difference, amplified.

import { channels, figure, h, paint, picture, settled, svg } from "../dom.js";
import { toPixels } from "../pipeline.js";
import { SAMPLERS } from "../samplers.js";
import { guide } from "../schedule.js";
import { isFast } from "../state.js";
import * as prelude from "./prelude.js";

const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const length = (a) => Math.sqrt(dot(a, a));

export function mount(root, app) {
  const { config } = app.facts;
  const names = ["ε without words", "ε with words", "ε guided"];
  const planes = names.map((name) => channels(name, config.channels));
  const captions = names.map(() => h("span", {}));
  const difference = channels("What the words change", config.channels);
  const slider = h("input", { type: "range", id: "what-if", min: 0, max: 12, step: 0.1, "aria-label": "Guidance scale w" });
  const output = h("output", { class: "formula", for: "what-if" });
  const belief = picture("The guess x̂0 with this guidance scale");
  const diagram = svg("svg", { viewBox: "0 0 460 230", class: "vectors", role: "img" });
  const told = h("span", {});
  const note = h("p", { class: "lead" });
  const stage = h("div", {},
    h("div", { class: "row four" }, ...planes.map(({ element }, i) => figure(element, captions[i])), figure(difference.element, "with − without, ×5")),
    h("label", { class: "slider", for: "what-if" }, h("span", {}, "w"), slider, output),
    h("div", { class: "row arrows" },
      figure(diagram, told),
      figure(belief, "x̂₀ at this step, with this w"))); // prettier-ignore
  const before = prelude.mount(root, app, stage, "Draw a picture to see what the network predicts without and with your words.");
  root.append(note);

  const decode = settled(async (x0, run) => {
    const { image } = await app.engine.decode(x0, run.h, run.w);
    paint(belief, toPixels(image), run.request.width, run.request.height);
  }, 80);

  let seen;
  function update() {
    const { run, step } = app, ready = Boolean(step?.uncond);
    before.update(Boolean(step));
    stage.hidden = !ready;
    note.hidden = !step || ready;
    note.textContent = `Here the network predicted once a step, with the words alone. ${isFast(app.state) ? "Turn Fast mode off" : "Draw with a guidance scale above 1"} to see two predictions.`;
    if (!ready) return;
    if (seen !== run) [seen, slider.value] = [run, run.request.scale];
    const w = Number(slider.value), guided = guide(step.uncond, step.cond, w), { h: height, w: width } = run;
    [step.uncond, step.cond, guided].forEach((eps, i) => {
      planes[i].show(eps, height, width);
      captions[i].textContent = `${names[i]}, length ${length(eps).toFixed(1)}`;
    });
    difference.show(step.cond.map((x, i) => x - step.uncond[i]), height, width, 3 / 5);
    drawVectors(diagram, step.uncond, step.cond, guided);
    const angle = (Math.acos(Math.min(1, dot(step.uncond, step.cond) / length(step.uncond) / length(step.cond))) * 180) / Math.PI;
    output.textContent = `w = ${w.toFixed(1)}`;
    told.textContent = `The same three predictions as vectors of ${step.cond.length.toLocaleString("en")} numbers, in the plane that contains them. The words turn the prediction by ${angle.toFixed(1)}°.`;
    const sampler = new SAMPLERS[run.request.sampler](config.scheduler, run.request.steps);
    decode(sampler.guess(guided, step.place, step.x).x0, run);
  }
  slider.oninput = update;
  return { update };
}

/** Three arrows from one origin. Across: along ε without words. Up: the rest of ε with words, drawn larger, as the axis says. */
function drawVectors(diagram, uncond, cond, guided) {
  const along = length(uncond), unit = uncond.map((x) => x / along);
  const rest = cond.map((x, i) => x - dot(cond, unit) * unit[i]), up = length(rest) || 1;
  const place = (eps) => [dot(eps, unit), dot(eps, rest) / up];
  const points = [place(uncond), place(cond), place(guided)];
  const widest = Math.max(...points.map(([x]) => Math.abs(x))), tallest = Math.max(...points.map(([, y]) => Math.abs(y)), 1e-6);
  const sideways = 360 / widest, upwards = Math.min(150 / tallest, 20 * sideways);
  const at = ([x, y]) => [20 + sideways * x, 190 - upwards * y];
  const labels = ["without", "with", "guided"];
  const arrow = (point, i) => {
    const [x, y] = at(point);
    return [svg("line", { x1: 20, y1: 190, x2: x, y2: y, class: `arrow a${i}` }), svg("circle", { cx: x, cy: y, r: 4, class: `tip a${i}` }),
      svg("text", { x: x + 8, y: y + (i === 0 ? 14 : -5), class: `a${i}` }, labels[i])]; // prettier-ignore
  };
  const [a, b] = [at(points[0]), at(points[2])];
  diagram.replaceChildren(
    svg("line", { x1: a[0], y1: a[1], x2: b[0], y2: b[1], class: "along" }), ...points.flatMap(arrow),
    svg("text", { x: 20, y: 222, class: "scale" }, `vertical scale ${(upwards / sideways).toPrecision(2)} times the horizontal one`)); // prettier-ignore
  diagram.setAttribute("aria-label", `Lengths: ${points.map(([x, y], i) => `${labels[i]} ${Math.hypot(x, y).toFixed(1)}`).join(", ")}`);
}
