// The page's side of the workers: `engine.draw(request, onStep)` and the like, as promises.
//
// Two workers, so that a picture can be decoded while the next step is computed: the painter has the text encoder and the UNet, the
// developer the VAE's decoder.

/** The text of one of the page's elements, and the element gone, so that memory holds it once. */
function take(id) {
  const element = document.getElementById(id), text = element.textContent;
  element.remove();
  return text;
}

/** base64 of gzip → bytes. */
async function unpack(id) {
  const blob = await (await fetch(`data:application/gzip;base64,${take(id)}`)).blob();
  return new Uint8Array(await new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}

export class Engine {
  waiting = new Map();
  count = 0;

  static async start(facts, onProgress = () => {}) {
    const engine = new Engine(), script = URL.createObjectURL(new Blob([take("worker")], { type: "text/javascript" }));
    engine.config = facts.config;
    engine.painter = engine.hire(script);
    engine.developer = engine.hire(script);
    onProgress("Unpacking the networks …");
    const [runtime, text_encoder, unet, decoder] = await Promise.all(["runtime", "text_encoder", "unet", "decoder"].map(unpack));
    onProgress("Starting the networks …");
    const values = { runtime, tokenizer: facts.tokenizer, config: facts.config };
    await Promise.all([
      engine.ask(engine.painter, "load", { ...values, graphs: { text_encoder, unet } }),
      engine.ask(engine.developer, "load", { ...values, graphs: { decoder } }),
    ]);
    return engine;
  }

  hire(script) {
    const worker = new Worker(script);
    worker.onmessage = ({ data }) => this.receive(data);
    worker.onerror = (event) => this.fail(event.message ?? "The worker could not start.");
    return worker;
  }

  receive({ id, step, done, error }) {
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
    const started = performance.now();
    const job = this.ask(this.painter, "draw", { request, replay }, onStep);
    const finished = job.then(async ({ latents }) => {
      if (!latents) return { stopped: true };
      const { factor } = this.config;
      const { image } = await this.decode(latents, request.height / factor, request.width / factor);
      return { image, seconds: (performance.now() - started) / 1000 };
    });
    return Object.assign(finished, { stop: job.stop });
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
