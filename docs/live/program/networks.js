// The networks, computed by onnxruntime-web from the graphs that docs/live/export.py wrote. A GPU computes the UNet, if there is one.

import * as gpu from "onnxruntime-web/jspi";
import * as cpu from "onnxruntime-web/wasm";
import { CudaNoise } from "./noise.js";
import { toFloat32, withLora } from "./weights.js";

for (const { env } of [cpu, gpu]) {
  env.wasm.numThreads = 1; // threads need a server that sends headers; a page in a file has none
  env.wasm.proxy = false; // this already runs in a worker
  env.logLevel = "error";
}

const AGREES = 1e-3; // largest difference of two predictions, whose numbers are about 1 in size

const float = (data, dims) => new cpu.Tensor("float32", data, dims);

/** A graph with its weights, ready to run. For the CPU nothing is left to optimise: export.py did it. */
function create(graph, weights, onGpu = false) {
  const externalData = [{ path: "weights", data: new Uint8Array(weights.buffer) }];
  if (onGpu) return gpu.InferenceSession.create(graph, { executionProviders: ["webgpu"], externalData });
  return cpu.InferenceSession.create(graph, { graphOptimizationLevel: "disabled", externalData });
}

export class Networks {
  unets = new Map(); // by whether they have the LoRA; each is started when it is first needed

  /**
   * Starts the runtime and the networks in `files`, by name: {graph, weights}. The UNet can wait. `runtimes` has one for the GPU if there
   * is a GPU; `onGpuLost` is called with the reason when the GPU is given up.
   */
  static async load(runtimes, { unet, ...files }, config, onGpuLost) {
    cpu.env.wasm.wasmBinary = runtimes.cpu;
    gpu.env.wasm.wasmBinary = runtimes.gpu;
    const networks = Object.assign(new Networks(), { files: unet, config, onGpuLost, onGpu: Boolean(unet && runtimes.gpu) });
    for (const [name, { graph, weights }] of Object.entries(files)) networks[name] = await create(graph, toFloat32(weights));
    return networks;
  }

  /** The UNet, in the fast mode with the LoRA in its weights. */
  async unet(fast) {
    if (!this.unets.has(fast)) {
      const { graph, weights, factors, lora } = this.files, plain = toFloat32(weights);
      const numbers = fast ? withLora(plain, toFloat32(factors), lora) : plain;
      const session = (this.onGpu && (await this.startOnGpu(fast, numbers))) || (await create(graph, numbers));
      this.unets.set(fast, session);
    }
    return this.unets.get(fast);
  }

  /** The UNet on the GPU; nothing, if it does not start or does not predict what PyTorch does (see `prediction` in export.py). */
  async startOnGpu(fast, numbers) {
    try {
      const session = await create(this.files.graph, numbers, true), side = this.config.size / this.config.factor;
      const noise = new CudaNoise(0).randn(this.config.channels * side * side), ones = new Float32Array(this.config.length).fill(1);
      const { eps } = await session.run(this.feeds(noise, 500, await this.encode([this.files.empty]), ones, 1, side, side));
      const expected = this.files.expected[fast ? "fast" : "plain"];
      if (eps.data.every((value, i) => Math.abs(value - expected[i]) <= AGREES)) return session;
      session.release().catch(() => {});
      this.leaveGpu("The GPU computes other numbers than it should. The page draws without it, more slowly.");
    } catch {
      this.leaveGpu("WebGPU does not work here. The page draws without it, more slowly.");
    }
  }

  /** From here on, the CPU computes the UNet. */
  leaveGpu(why) {
    for (const session of this.unets.values()) session.release().catch(() => {});
    Object.assign(this, { unets: new Map(), onGpu: false });
    this.onGpuLost(why);
  }

  /** The UNet's outputs. If the GPU fails, the CPU takes over. */
  async run(fast, feeds) {
    const unet = await this.unet(fast);
    if (!this.onGpu) return unet.run(feeds);
    try {
      const outputs = await unet.run(feeds);
      if (outputs.eps.data.every(Number.isFinite)) return outputs;
    } catch {}
    this.leaveGpu("The GPU stopped working or ran out of memory. Drawing goes on without it, more slowly.");
    return this.run(fast, feeds);
  }

  /** Ids (B of 77) → text states (B, 77, D), in one array. */
  async encode(rows) {
    const ids = BigInt64Array.from(rows.flat(), BigInt);
    const { context } = await this.text_encoder.run({ ids: new cpu.Tensor("int64", ids, [rows.length, rows[0].length]) });
    return context.data;
  }

  /**
   * The UNet on the same latents for each of `batch` contexts: ε of each, and where the prompt's words are read, a map for every level,
   * `{h, w, data}` with data (h·w, 77).
   */
  async predict(fast, x, t, context, wordScale, batch, h, w) {
    const { levels } = this.config, outputs = await this.run(fast, this.feeds(x, t, context, wordScale, batch, h, w));
    const eps = Array.from({ length: batch }, (_, i) => outputs.eps.data.slice(i * x.length, (i + 1) * x.length));
    const attention = levels.map((level) => {
      const { data, dims } = outputs[`attention_${level}`];
      return { level, h: Math.ceil(h / 2 ** level), w: Math.ceil(w / 2 ** level), data: data.slice(-dims[1] * dims[2]) };
    });
    return { eps: batch === 2 ? eps : [null, eps[0]], attention };
  }

  feeds(x, t, context, wordScale, batch, h, w) {
    const { channels, contextDim, length } = this.config, repeated = new Float32Array(batch * x.length);
    for (let i = 0; i < batch; i++) repeated.set(x, i * x.length);
    return {
      x: float(repeated, [batch, channels, h, w]),
      t: float(Float32Array.of(t), [1]),
      context: float(context, [batch, length, contextDim]),
      word_scale: float(wordScale, [batch, length]),
    };
  }

  /** Image (3, H, W) → mean and standard deviation of its latents (4, h, w). */
  async compress(image, height, width) {
    const { mean, std } = await this.encoder.run({ image: float(image, [1, 3, height, width]) });
    return { mean: mean.data, std: std.data };
  }

  /** Latents (4, h, w) → image (3, H, W). */
  async decode(latents, h, w) {
    const { image } = await this.decoder.run({ latents: float(latents, [1, this.config.channels, h, w]) });
    return image.data;
  }
}
