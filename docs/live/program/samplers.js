// The samplers, as minisd/schedulers.
//
// A sampler sees latents and predictions, never a network: `timesteps`, `initNoiseSigma`, `scale(x, i)`, `step(output, i, x, generator)`.
// It may begin in the middle, as img2img does.

import { addNoise, alphasCumprod, toEpsilon, toX0, transfer } from "./schedule.js";

/** n evenly spaced, falling timesteps, the last of them `steps_offset`: 981, 961, … 21, 1 for n = 50. */
function leading(n, { num_train_timesteps: most, steps_offset: offset }) {
  return Array.from({ length: n }, (_, i) => (n - 1 - i) * Math.floor(most / n) + offset);
}

/** Σ weight · ε. */
function weightedSum(weights, noises) {
  return noises[0].map((_, i) => noises.reduce((sum, eps, j) => sum + weights[j] * eps[i], 0));
}

class Sampler {
  static most = 200; // steps that the page allows
  initNoiseSigma = 1;
  begin = 0; // the index of the first step

  constructor(config, steps) {
    Object.assign(this, { config, steps, alphas: alphasCumprod(config), timesteps: leading(steps, config) });
  }

  scale(x) {
    return x;
  }

  /** Clean latents with noise up to step i; without, after the last step. */
  addNoise(clean, noise, i) {
    return i < this.timesteps.length ? addNoise(clean, noise, this.alphas[this.timesteps[i]]) : clean;
  }

  /** ᾱ at a timestep; after the last step, ᾱ of t = 0, or 1 if `set_alpha_to_one`. */
  alpha(t) {
    return t >= 0 ? this.alphas[t] : this.config.set_alpha_to_one ? 1 : this.alphas[0];
  }

  next(t) {
    return t - Math.floor(this.config.num_train_timesteps / this.steps);
  }

  /** The noise in x at step i, and the clean latents that follow. */
  guess(output, i, x) {
    const alpha = this.alpha(this.timesteps[i]), eps = toEpsilon(output, x, alpha, this.config.prediction_type);
    return { eps, x0: toX0(x, eps, alpha) };
  }
}

/** Each step goes to the predicted x0 and returns to a little less of the same noise (Song et al. 2020). */
class DDIM extends Sampler {
  step(output, i, x) {
    const t = this.timesteps[i], { eps, x0 } = this.guess(output, i, x);
    return { x: transfer(x, eps, this.alpha(t), this.alpha(this.next(t))), x0, eps };
  }
}

// Adams–Bashforth: how to extrapolate equally spaced slopes, newest first, over the coming step.
const BLENDS = [[1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]];

/** DDIM's step with a better ε, blended from the last four (Liu et al. 2022). The first step is taken twice. */
class PNDM extends Sampler {
  noises = []; // up to four past ε, newest first

  constructor(config, steps) {
    super(config, steps);
    const t = this.timesteps;
    this.timesteps = [...t.slice(0, 2), ...t.slice(1)];
  }

  step(output, i, x) {
    let t = this.timesteps[i], blend;
    const { eps, x0 } = this.guess(output, i, x);
    if (i === this.begin + 1) { // the first step again: from its start, with the mean of the slopes at both ends
      [t, x] = [2 * t - this.next(t), this.start];
      blend = eps.map((e, j) => (this.noises[0][j] + e) / 2);
    } else {
      this.start = x;
      this.noises = [eps, ...this.noises.slice(0, 3)];
      blend = weightedSum(BLENDS[this.noises.length - 1], this.noises);
    }
    return { x: transfer(x, blend, this.alpha(t), this.alpha(this.next(t))), x0, eps };
  }
}

/** PLMS's idea for steps of unequal length, in σ = √((1−ᾱ)/ᾱ), the noise relative to the image (Crowson 2022). */
class LMS extends Sampler {
  noises = [];

  constructor(config, steps) {
    super(config, steps);
    const last = config.num_train_timesteps - 1, training = this.alphas.map((a) => Math.sqrt((1 - a) / a));
    this.timesteps = Array.from({ length: steps }, (_, i) => (steps === 1 ? 0 : Math.fround((steps - 1 - i) * (last / (steps - 1)))));
    const interpolated = (t) => {
      const i = Math.min(Math.floor(t), last - 1);
      return training[i] + (t - i) * (training[i + 1] - training[i]);
    };
    this.sigmas = [...this.timesteps.map(interpolated), 0];
    this.initNoiseSigma = this.sigmas[0];
  }

  addNoise(clean, noise, i) {
    return clean.map((value, j) => value + this.sigmas[i] * noise[j]);
  }

  scale(x, i) {
    return x.map((value) => value / Math.sqrt(this.sigmas[i] ** 2 + 1));
  }

  guess(output, i, x) {
    const sigma = this.sigmas[i], alpha = 1 / (sigma ** 2 + 1);
    const eps = toEpsilon(output, this.scale(x, i), alpha, this.config.prediction_type);
    return { eps, x0: x.map((value, j) => value - sigma * eps[j]) };
  }

  step(output, i, x) {
    const { eps, x0 } = this.guess(output, i, x);
    this.noises = [eps, ...this.noises.slice(0, 3)];
    const past = this.sigmas.slice(Math.max(0, i - 3), i + 1).reverse(); // slopes of steps that were not taken count as 0
    const change = weightedSum(integrals(past, this.sigmas[i + 1]), this.noises);
    return { x: x.map((value, j) => value + change[j]), x0, eps };
  }
}

// Settings of LCM
const LEARNED = 50; // DDIM's steps in distillation: the student knows their timesteps
const SCALING = 10; // of timesteps in the consistency function
const SIGMA_DATA = 0.5; // the standard deviation of the data, as the paper assumes

/** Each step jumps to the end of the curve, then adds new noise up to the next timestep (Luo et al. 2023, algorithm 3). */
class LCM extends Sampler {
  static most = LEARNED;

  constructor(config, steps) {
    super(config, steps);
    const apart = Math.floor(config.num_train_timesteps / LEARNED);
    this.timesteps = Array.from({ length: steps }, (_, i) => (LEARNED - Math.floor((i * LEARNED) / steps)) * apart - 1);
  }

  step(output, i, x, generator) {
    const { eps, x0: clean } = this.guess(output, i, x), scaled = this.timesteps[i] * SCALING;
    const skip = SIGMA_DATA ** 2 / (scaled ** 2 + SIGMA_DATA ** 2), out = scaled / Math.sqrt(scaled ** 2 + SIGMA_DATA ** 2);
    const x0 = clean.map((value, j) => out * value + skip * x[j]);
    const last = i + 1 === this.timesteps.length;
    return { x: last ? x0 : this.addNoise(x0, generator.randn(x.length), i + 1), x0, eps };
  }
}

/** ∫ ℓⱼ(σ) dσ from the newest of `sigmas` to `next`, where ℓⱼ is the polynomial that is 1 at σⱼ and 0 at the others. */
function integrals(sigmas, next) {
  return sigmas.map((sigma) => {
    let polynomial = [1]; // coefficients, lowest first
    for (const other of sigmas.filter((one) => one !== sigma)) {
      const shifted = [0, ...polynomial], scaled = [...polynomial.map((c) => c * -other), 0];
      polynomial = shifted.map((c, i) => (c + scaled[i]) / (sigma - other));
    }
    const at = (x) => polynomial.reduce((sum, c, i) => sum + (c * x ** (i + 1)) / (i + 1), 0);
    return at(next) - at(sigmas[0]);
  });
}

export const SAMPLERS = { pndm: PNDM, ddim: DDIM, lms: LMS, lcm: LCM };
