// The page's side of the workers: `engine.draw(request, onStep)` and the like, as promises.
//
// Two workers, so that a picture can be decoded while the next step is computed: the painter has the text encoder and the UNet, the
// developer the VAE.

/** Removes one of the page's elements and returns it, so that memory holds its text only once. */
function take(id) {
  const element = document.getElementById(id);
  element.remove();
  return element;
}

/** Decodes what `packed` in build.py wrote: gzip, 15 bits a character. */
async function unpack(id) {
  const { textContent: text, dataset } = take(id), bytes = new Uint8Array(dataset.bytes);
  for (let i = 0, n = 0, bits = 0, count = 0; n < bytes.length; i++) {
    bits = (bits << 15) | (text.charCodeAt(i) - 0x4000);
    for (count += 15; count >= 8 && n < bytes.length; ) bytes[n++] = bits >> (count -= 8);
  }
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}

/**
 * Whether the UNet can run on a GPU. The browser must offer WebGPU on hardware (`software` also accepts a software adapter), and must be
 * able to suspend WebAssembly, which the runtime needs.
 */
async function findGpu(software) {
  const adapter = "Suspending" in WebAssembly && (await navigator.gpu?.requestAdapter().catch(() => null));
  return Boolean(adapter) && (software || !adapter.info.isFallbackAdapter);
}

export class Engine {
  waiting = new Map();
  count = 0;

  /**
   * Starts both workers, with `fast` the UNet with its LoRA. `onProgress` is called with what is being done, `onGpuLost` with a sentence
   * when the GPU is given up. `software` also accepts a software adapter.
   */
  static async start(facts, { fast, software, onProgress, onGpuLost }) {
    const engine = new Engine(), script = URL.createObjectURL(new Blob([take("worker").textContent], { type: "text/javascript" }));
    Object.assign(engine, { config: facts.config, onGpuLost, onGpu: await findGpu(software) });
    engine.painter = engine.hire(script);
    engine.developer = engine.hire(script);
    onProgress("Unpacking the networks …");
    const network = async (name) => ({ graph: await unpack(name), weights: await unpack(`${name}_weights`) });
    const names = ["text_encoder", "unet", "encoder", "decoder"], gpuRuntime = engine.onGpu ? unpack("gpu_runtime") : void take("gpu_runtime");
    const files = [unpack("cpu_runtime"), gpuRuntime, unpack("lora"), ...names.map(network)];
    const [cpu, gpu, factors, text_encoder, unet, encoder, decoder] = await Promise.all(files);
    onProgress("Starting the networks …");
    const values = { tokenizer: facts.tokenizer, config: facts.config, fast };
    await Promise.all([
      engine.ask(engine.painter, "load", { ...values, runtimes: { cpu, gpu }, networks: { text_encoder, unet: { ...unet, factors, ...facts.networks } } }),
      engine.ask(engine.developer, "load", { ...values, runtimes: { cpu }, networks: { encoder, decoder } }),
    ]);
    return engine;
  }

  hire(script) {
    const worker = new Worker(script);
    worker.onmessage = ({ data }) => this.receive(data);
    worker.onerror = (event) => this.fail(event.message ?? "The worker could not start.");
    return worker;
  }

  receive({ id, step, done, error, notice }) {
    if (notice) {
      this.onGpu = false;
      return this.onGpuLost(notice);
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

/** Turns a message of the runtime into one that a reader can act on. */
function sentence(message) {
  if (/memory|bad_alloc|allocation|out of bounds/i.test(message)) {
    return "There is not enough memory for this. Close other tabs or choose a smaller size, then reload the page.";
  }
  return message;
}
