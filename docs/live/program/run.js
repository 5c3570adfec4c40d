// One run of the loop: its request, every step with its tensors, the picture; and its frames, decoded one after another.

import { toPixels } from "./pipeline.js";

export class Run {
  steps = [];
  frames = new Map(); // "x0 3" → pixels of the guess at step 3, "input 3" → of the latents

  constructor(app, request) {
    Object.assign(this, { engine: app.engine, request, tokens: app.tokenizer.encode(request.prompt).tokens });
    const { config } = app.facts;
    [this.h, this.w] = [request.height / config.factor, request.width / config.factor];
  }

  /** Draws it. `onChange` is called after every step and every frame; while it draws, the newest step is decoded first. */
  async draw(onChange, replay = []) {
    this.started = performance.now();
    this.drawing = true;
    this.job = this.engine.draw(this.request, (step) => {
      this.steps.push(step);
      if (step.index >= replay.length) this.secondsPerStep ??= (performance.now() - this.started) / 1000;
      onChange("step");
      this.develop(onChange);
    }, replay); // prettier-ignore
    try {
      const { image, seconds, stopped } = await this.job;
      Object.assign(this, { stopped: this.stopped || stopped, seconds });
      if (image) this.pixels = toPixels(image);
    } finally {
      this.drawing = false;
      onChange("done");
    }
    this.develop(onChange);
    return this;
  }

  /** How many steps there will be; PNDM takes its first one twice. */
  get total() {
    const { steps, sampler } = this.request;
    return this.steps[0]?.of ?? steps + (sampler === "pndm" && steps > 1 ? 1 : 0);
  }

  /** Takes no further step. What it has stays to be looked at. */
  stop() {
    this.stopped = true;
    this.job?.stop();
  }

  /** Stops, and decodes nothing more, because another run is looked at. */
  abandon() {
    this.abandoned = true;
    if (this.drawing) this.stop();
  }

  /** Decodes missing frames one at a time: first those on the screen (`wanted`), then the guesses in order. */
  async develop(onChange) {
    if (this.developing || this.abandoned) return;
    this.developing = true;
    for (let key; (key = this.nextFrame()) && !this.abandoned; ) {
      const [what, index] = key.split(" ");
      const { image } = await this.engine.decode(this.steps[index][what], this.h, this.w);
      this.frames.set(key, toPixels(image));
      onChange("frame", Number(index));
    }
    this.developing = false;
  }

  nextFrame() {
    const lacks = (key) => !this.frames.has(key) && this.steps[key.split(" ")[1]];
    const newest = `x0 ${this.steps.length - 1}`;
    const rest = this.drawing ? [newest] : this.steps.map((_, i) => `x0 ${i}`);
    return [...(this.wanted ?? []), ...rest].find(lacks);
  }

  frame(what, index) {
    return this.frames.get(`${what} ${index}`);
  }

  /** The picture; until there is one, the newest guess that is decoded. */
  get newest() {
    return this.pixels ?? this.steps.map((_, i) => this.frame("x0", i)).findLast(Boolean);
  }
}
