// From a prompt to a picture, as minisd/pipeline.py: words, noise, loop.
//
// Tensors are Float32Arrays; the latents of one picture are (4, h, w), its image is (3, H, W) in about -1 to 1.

import { CudaNoise } from "./noise.js";
import { SAMPLERS } from "./samplers.js";
import { guide } from "./schedule.js";

/** The pixels that a latent stands for, a side. */
export const latentSide = (pixels, config) => pixels / config.factor;

/**
 * The loop as a generator of steps, to watch, draw or stop.
 *
 * `replay` holds the ε of steps that were already taken: the sampler follows them without the network, so that a run can go on from any
 * step with another prompt or scale.
 */
export async function* denoise(networks, tokenizer, config, request, replay = []) {
  const { prompt, negative = "", seed, steps, scale, sampler: name, height, width, muted } = request;
  const [h, w] = [latentSide(height, config), latentSide(width, config)];
  const guided = scale > 1;

  // Words: the prompt, and for guidance also the negative prompt (by default "")
  const texts = guided ? [negative, prompt] : [prompt];
  const context = await networks.encode(texts.map((text) => tokenizer.encode(text).ids));
  const wordScale = new Float32Array(texts.length * tokenizer.length).fill(1);
  if (muted) wordScale.set(muted, wordScale.length - tokenizer.length); // only in the prompt's half

  // Noise: as large as the sampler wants it at its first timestep
  const sampler = new SAMPLERS[name](config.scheduler, steps);
  let x = new CudaNoise(seed).randn(config.channels * h * w).map((value) => value * sampler.initNoiseSigma);

  // Loop: from noise to an image's latents
  for (const [i, t] of sampler.timesteps.entries()) {
    const input = sampler.scale(x, i);
    const known = replay[i];
    const both = known ? null : await networks.predict(input, t, context, wordScale, texts.length, h, w);
    const [uncond, cond] = known ? [known.uncond, known.cond] : both.eps;
    const output = known ? known.output : guided ? guide(uncond, cond, scale) : cond;
    const { x: next, x0, eps } = sampler.step(output, i, x);
    if (!next.every(Number.isFinite)) throw new Error("The numbers left the range of float32: try a lower guidance scale.");
    yield { index: i, t, x, input, uncond, cond, output, eps, x0, next, attention: known ? known.attention : both.attention };
    x = next;
  }
}

/** (3, H, W) in [-1, 1] → RGBA bytes, rounded as minisd.image.to_pil does. */
export function toPixels(image) {
  const size = image.length / 3;
  const pixels = new Uint8ClampedArray(4 * size).fill(255);
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = 255 * Math.min(1, Math.max(0, image[c * size + i] / 2 + 0.5));
  }
  return pixels; // the array's type rounds to the nearest
}
