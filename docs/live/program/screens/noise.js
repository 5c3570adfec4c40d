// Screen 2: noise from a seed, and a finished picture drowned in it.

import { channels, figure, h, paint, picture, settled, svg } from "../dom.js";
import { CudaNoise } from "../noise.js";
import { toPixels } from "../pipeline.js";
import { addNoise, alphasCumprod } from "../schedule.js";

export function mount(root, app) {
  const { config } = app.facts, alphas = alphasCumprod(config.scheduler), last = alphas.length - 1;
  const noisePlanes = channels("Noise", config.channels), mixedPlanes = channels("Noisy latents", config.channels);
  const mixed = picture("The noisy latents through the VAE");
  const slider = h("input", { type: "range", min: 0, max: last, value: 400, id: "drown", "aria-label": "Timestep t" });
  const formula = h("output", { class: "formula", for: "drown" });
  const [curve, dot] = alphaCurve(alphas);
  const noiseName = h("span", {}), mixedName = h("span", {});
  root.append(
    h("div", { class: "row" },
      figure(noisePlanes.element, noiseName),
      figure(mixedPlanes.element, mixedName),
      figure(mixed, "the same, decoded by the VAE")),
    h("label", { class: "slider", for: "drown" }, h("span", {}, "t"), slider, formula),
    curve,
  ); // prettier-ignore

  const decode = settled(async (x, height, width) => {
    if (!app.engine) return;
    const { image } = await app.engine.decode(x, height, width);
    paint(mixed, toPixels(image), width * config.factor, height * config.factor);
  }, 80);

  let decoded;
  function update() {
    const run = app.run, t = Number(slider.value), alpha = alphas[t];
    const [height, width] = [app.state.height / config.factor, app.state.width / config.factor];
    const noise = new CudaNoise(app.state.seed).randn(config.channels * height * width);
    noisePlanes.show(noise, height, width);
    noiseName.textContent = `ε: ${noise.length.toLocaleString("en")} numbers from seed ${app.state.seed}`;
    formula.textContent = `t = ${t}: x = ${Math.sqrt(alpha).toFixed(3)} · picture + ${Math.sqrt(1 - alpha).toFixed(3)} · noise`;
    dot.setAttribute("cx", (600 * t) / last);
    dot.setAttribute("cy", 100 - 88 * alpha);
    const clean = run?.steps.at(-1)?.next;
    const drawn = run?.pixels && clean.length === noise.length;
    mixedName.replaceChildren(...(drawn ? ["x", h("sub", {}, "t"), ": the picture’s latents with noise"] : ["the same noise, until there is a picture"]));
    const x = drawn ? addNoise(clean, noise, alpha) : noise;
    mixedPlanes.show(x, height, width);
    const key = [t, app.state.seed, height, width, run?.started, drawn, Boolean(app.engine)].join();
    if (decoded !== key) decode(x, height, width);
    decoded = key;
  }
  slider.oninput = update;
  return { update };
}

/** ᾱ over t, with a dot for where the slider stands. */
function alphaCurve(alphas) {
  const last = alphas.length - 1;
  const points = alphas.filter((_, t) => t % 20 === 0 || t === last).map((alpha, i) => `${(600 * Math.min(last, 20 * i)) / last},${100 - 88 * alpha}`);
  const dot = svg("circle", { r: 5, class: "dot" });
  const text = (x, y, content, anchor = "start") => svg("text", { x, y, "text-anchor": anchor }, content);
  const axis = svg("line", { x1: 0, y1: 100, x2: 600, y2: 100, class: "axis" });
  const picture = svg("svg", { viewBox: "-6 0 612 124", class: "curve", role: "img", "aria-label": "ᾱ falls from 1 at t = 0 to 0 at t = 999" },
    axis, svg("polyline", { points: points.join(" ") }), dot, text(0, 118, "t = 0"), text(600, 118, `t = ${last}`, "end"), text(180, 22, "ᾱ: the picture’s share of the variance")); // prettier-ignore
  return [picture, dot];
}
