// What the reader has chosen, kept in the address (#prompt=…&seed=…), so that a link holds it.

import { SAMPLERS } from "./samplers.js";

export const SCREENS = ["words", "noise", "loop", "guidance", "attention", "knobs", "seeds", "paint"];
const NUMBERS = ["steps", "scale", "width", "height"];

/** The settings at the start: the first example, 20 steps, the model's own scale and sampler. */
export function defaults({ examples, defaults: model, config }) {
  return {
    prompt: examples[0], negative: "", seed: "0", steps: 20, scale: model.scale, sampler: model.sampler,
    width: config.size, height: config.size, screen: "words",
  }; // prettier-ignore
}

/** A sampler, and the steps and the scale that go with it if it changes to or from LCM's, which draws with other weights. */
export function withSampler(state, sampler, start) {
  if (isFast(state) === (sampler === "lcm")) return { sampler };
  return sampler === "lcm" ? { sampler, steps: 4, scale: 1 } : { sampler, steps: start.steps, scale: start.scale };
}

/** Whether the UNet draws with the LoRA that needs only four steps. */
export const isFast = ({ sampler }) => sampler === "lcm";

/** The settings in an address; missing and invalid ones are the defaults. */
export function fromHash(hash, start) {
  const state = { ...start };
  for (const [name, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (NUMBERS.includes(name) && value !== "" && Number.isFinite(Number(value))) state[name] = Number(value);
    else if (name in start && !NUMBERS.includes(name)) state[name] = value;
  }
  return checked(state, start);
}

/** The address of settings: the prompt, and what differs from the start. */
export function toHash(state, start) {
  const values = Object.entries(state).filter(([name, value]) => name === "prompt" || (name in start && value !== start[name]));
  return "#" + new URLSearchParams(values);
}

/** The settings, each clamped to what can be drawn. */
export function checked(state, start) {
  const within = (value, low, high) => Math.min(high, Math.max(low, value));
  const side = (value) => within(Math.round(value / 8) * 8, 32, 256);
  const sampler = state.sampler in SAMPLERS ? state.sampler : start.sampler;
  return {
    ...state,
    sampler,
    seed: /^\d{1,19}$/.test(state.seed) ? state.seed : start.seed,
    steps: within(Math.round(state.steps), 1, SAMPLERS[sampler].most),
    scale: within(state.scale, 0, 30),
    screen: SCREENS.includes(state.screen) ? state.screen : start.screen,
    width: side(state.width),
    height: side(state.height),
  };
}
