// From a prompt to a picture, as minisd/pipeline.py: words, noise, loop; and from a picture, as minisd/editing.
//
// Tensors are Float32Arrays; the latents of one picture are (4, h, w), its image is (3, H, W) in about -1 to 1.

import { CudaNoise } from "./noise.js";
import { SAMPLERS } from "./samplers.js";
import { guide } from "./schedule.js";
import { isFast } from "./state.js";

/** The side of the latents of a picture. */
export const latentSide = (pixels, config) => pixels / config.factor;

/**
 * The loop as a generator of steps, to watch, draw or stop.
 *
 * `start` is what the reader has painted: {noise}, latents for the first step, or {image, strength, mask}, where the mask (h, w), if there
 * is one, is 1 where the picture is drawn anew. `moments` are the mean and the standard deviation of the picture's latents.
 *
 * `replay` holds the ε of steps that were already taken: the sampler follows them without the network, so that a run can go on from any
 * step with another prompt or scale.
 */
export async function* denoise(networks, tokenizer, config, request, replay = []) {
  const { prompt, negative = "", seed, steps, scale, sampler: name, height, width, muted, start, moments } = request;
  const [h, w] = [latentSide(height, config), latentSide(width, config)];
  const guided = scale > 1;

  // Words: the prompt, and for guidance also the negative prompt (by default "")
  const texts = guided ? [negative, prompt] : [prompt];
  const context = await networks.encode(texts.map((text) => tokenizer.encode(text).ids));
  const wordScale = new Float32Array(texts.length * tokenizer.length).fill(1);
  if (muted) wordScale.set(muted, wordScale.length - tokenizer.length); // only in the prompt's half

  // Picture: a sample of its latents. The strength says at which step it enters the loop
  const sampler = new SAMPLERS[name](config.scheduler, steps), generator = new CudaNoise(seed), count = config.channels * h * w;
  const sampled = moments && generator.randn(count), clean = moments?.mean.map((mean, i) => mean + moments.std[i] * sampled[i]);
  const mask = start?.mask, pure = !clean || (mask && start.strength === 1);
  sampler.begin = clean ? steps - Math.min(Math.floor(steps * start.strength), steps) : 0;

  // Noise: as large as the sampler wants it at its first timestep
  const fresh = generator.randn(count), noise = start?.noise ?? fresh;
  let x = pure ? noise.map((value) => value * sampler.initNoiseSigma) : sampler.addNoise(clean, noise, sampler.begin);

  if (mask) generator.randn(count); // inpaint.py draws this too, for the masked image, and discards it

  // Loop: from noise to an image's latents
  const timesteps = sampler.timesteps.slice(sampler.begin);
  for (const [index, t] of timesteps.entries()) {
    const i = sampler.begin + index, input = sampler.scale(x, i);
    const known = replay[index];
    const both = known ? null : await networks.predict(isFast(request), input, t, context, wordScale, texts.length, h, w);
    const [uncond, cond] = known ? [known.uncond, known.cond] : both.eps;
    const output = known ? known.output : guided ? guide(uncond, cond, scale) : cond;
    let { x: next, x0, eps } = sampler.step(output, i, x, generator);
    if (mask) [next, x0] = [blend(mask, sampler.addNoise(clean, noise, i + 1), next), blend(mask, clean, x0)];
    if (!next.every(Number.isFinite)) throw new Error("The numbers left the range of float32: try a lower guidance scale.");
    yield { index, of: timesteps.length, place: i, t, x, input, uncond, cond, output, eps, x0, next, attention: known ? known.attention : both.attention };
    x = next;
  }
}

/** (1 − m) · picture + m · drawn, with one m for all channels. */
function blend(mask, picture, drawn) {
  return picture.map((value, i) => (1 - mask[i % mask.length]) * value + mask[i % mask.length] * drawn[i]);
}

/** RGBA bytes → (3, H, W) in [-1, 1], as minisd.editing reads pictures. */
export function toImage(pixels) {
  const size = pixels.length / 4;
  return Float32Array.from({ length: 3 * size }, (_, i) => (2 * pixels[4 * (i % size) + Math.floor(i / size)]) / 255 - 1);
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
