// The noise schedule and the few formulas everything else is made of, as minisd/schedule.py.
//
// x_t = √ᾱ_t · x_0 + √(1 − ᾱ_t) · ε, with ᾱ falling from nearly 1 (t = 0) to nearly 0 (t = 999).

const f32 = Math.fround;

/** n numbers from a to b in float32, from both ends to the middle, as torch.linspace. */
function linspace(a, b, n) {
  const step = f32((f32(b) - f32(a)) / (n - 1));
  return Array.from({ length: n }, (_, i) => (i < n / 2 ? f32(a + f32(step * i)) : f32(b - f32(step * (n - 1 - i)))));
}

/** ᾱ for every timestep of training. `config` is a scheduler's, with diffusers' names. */
export function alphasCumprod(config) {
  const { beta_schedule: kind, beta_start: a, beta_end: b, num_train_timesteps: n } = config;
  const left = (i) => Math.cos((((i / n + 0.008) / 1.008) * Math.PI) / 2) ** 2;
  const betas = {
    linear: () => linspace(a, b, n),
    scaled_linear: () => linspace(Math.sqrt(a), Math.sqrt(b), n).map((root) => f32(root * root)),
    squaredcos_cap_v2: () => Array.from({ length: n }, (_, i) => f32(Math.min(1 - left(i + 1) / left(i), 0.999))),
  }[kind]();
  let product = 1;
  return betas.map((beta) => f32((product *= f32(1 - beta))));
}

/** x_t in one jump: √ᾱ x0 + √(1−ᾱ) ε (Ho et al. 2020, eq. 4). */
export function addNoise(x0, noise, alpha) {
  const [keep, add] = [f32(Math.sqrt(alpha)), f32(Math.sqrt(f32(1 - alpha)))];
  return x0.map((x, i) => f32(keep * x) + f32(add * noise[i]));
}

/** The noise in x, from whatever the model predicts: ε itself, or ε = √ᾱ v + √(1−ᾱ) x. */
export function toEpsilon(output, x, alpha, predictionType) {
  if (predictionType !== "v_prediction") return output;
  return output.map((v, i) => Math.sqrt(alpha) * v + Math.sqrt(1 - alpha) * x[i]);
}

/** The clean latent that x would be without its noise: addNoise solved for x0. */
export function toX0(x, eps, alpha) {
  const [keep, add] = [f32(Math.sqrt(alpha)), f32(Math.sqrt(f32(1 - alpha)))];
  return x.map((value, i) => f32(value - f32(add * eps[i])) / keep);
}

/** From one noise level to another along ε: go to x0, come back with the same noise. */
export function transfer(x, eps, alpha, alphaNext) {
  return addNoise(toX0(x, eps, alpha), eps, alphaNext);
}

/** Classifier-free guidance: ε = ε_∅ + w (ε_c − ε_∅). */
export function guide(uncond, cond, scale) {
  return uncond.map((u, i) => u + f32(scale * f32(cond[i] - u)));
}
