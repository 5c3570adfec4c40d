// The page's side of the workers: `engine.draw(request, onStep)` and the like, as promises.
//
// Two workers, so that a picture can be decoded while the next step is computed: the painter has the text encoder and the UNet, the
// developer the VAE.

/** The text of one of the page's elements, and the element gone, so that memory holds it once. */
function take(id) {
  const element = document.getElementById(id), text = element.textContent;
  element.remove();
  return text;
}

/** 7 bits a character, of gzip → bytes. What `packed` in build.py wrote. */
async function unpack(id) {
  const text = take(id), bytes = new Uint8Array((text.length * 7) >> 3);
  for (let i = 0, n = 0, bits = 0, count = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    bits = (bits << 7) | (code >= 192 ? code - 192 : code);
    count += 7;
    if (count >= 8) bytes[n++] = bits >> (count -= 8);
  }
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}

export class Engine {
  waiting = new Map();
  count = 0;

  /**
   * With the `device` "webgpu" the GPU computes the UNet, if it agrees with wasm. `onProgress` hears what is being done, `onNotice` when the
   * GPU is lost.
   */
  static async start(facts, { device, onProgress = () => {}, onNotice }) {
    const engine = new Engine(), script = URL.createObjectURL(new Blob([take("worker")], { type: "text/javascript" }));
    Object.assign(engine, { config: facts.config, onNotice });
    engine.painter = engine.hire(script);
    engine.developer = engine.hire(script);
    onProgress("Unpacking the networks …");
    const names = ["runtime", "text_encoder", "unet", "encoder", "decoder"];
    const [runtime, text_encoder, unet, encoder, decoder] = await Promise.all(names.map(unpack));
    onProgress("Starting the networks …");
    const values = { runtime, tokenizer: facts.tokenizer, config: facts.config, device };
    const [found] = await Promise.all([
      engine.ask(engine.painter, "load", { ...values, graphs: { text_encoder, unet } }),
      engine.ask(engine.developer, "load", { ...values, graphs: { encoder, decoder } }),
    ]);
    return Object.assign(engine, found);
  }

  hire(script) {
    const worker = new Worker(script);
    worker.onmessage = ({ data }) => this.receive(data);
    worker.onerror = (event) => this.fail(event.message ?? "The worker could not start.");
    return worker;
  }

  receive({ id, step, done, error, notice }) {
    if (notice) {
      this.device = "wasm";
      return this.onNotice?.(notice);
    }
    const job = this.waiting.get(id);
    if (!job) return;
    if (step) return job.onStep?.(step);
    this.waiting.delete(id);
    if (error !== undefined) job.reject(new Error(sentence(error)));
    else job.resolve(done);
  }

  fail(message) {
    for (const job of this.waiting.values()) job.reject(new Error(sentence(message)));
    this.waiting.clear();
  }

  ask(worker, job, values = {}, onStep) {
    const id = this.count++;
    const promise = new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject, onStep }));
    worker.postMessage({ id, job, ...values });
    return Object.assign(promise, { stop: () => worker.postMessage({ stop: id }) });
  }

  /** Every step goes to `onStep`; the promise gives {image, seconds} or {stopped}, and has `.stop()`. */
  draw(request, onStep, replay = []) {
    const started = performance.now(), { height, width, start } = request, { factor } = this.config;
    let job, stopped = false;
    const work = async () => {
      const moments = start?.image && (await this.ask(this.developer, "compress", { image: start.image, height, width }));
      if (stopped) return { stopped };
      job = this.ask(this.painter, "draw", { request: { ...request, moments }, replay }, onStep);
      const { latents } = await job;
      if (!latents) return { stopped: true };
      const { image } = await this.decode(latents, height / factor, width / factor);
      return { image, seconds: (performance.now() - started) / 1000 };
    };
    return Object.assign(work(), { stop: () => ((stopped = true), job?.stop()) });
  }

  encode(texts) {
    return this.ask(this.painter, "encode", { texts });
  }

  decode(latents, h, w) {
    return this.ask(this.developer, "decode", { latents, h, w });
  }
}

/** The runtime's messages as something that a reader can act on. */
function sentence(message) {
  if (/memory|bad_alloc|allocation|out of bounds/i.test(message)) {
    return "There is not enough memory for this. Close other tabs or choose a smaller size, then reload the page.";
  }
  return message;
}
