// The networks, computed by onnxruntime-web from the graphs that docs/live/export.py wrote.

import * as ort from "onnxruntime-web/wasm";
import { toFloat32, withLora } from "./weights.js";

ort.env.wasm.numThreads = 1; // threads need a server that sends headers; a page in a file has none
ort.env.wasm.proxy = false; // this already runs in a worker
ort.env.logLevel = "error";

const float = (data, dims) => new ort.Tensor("float32", data, dims);

/** A graph with its weights, ready to run. Nothing is left to optimise: export.py did it. */
function create(graph, weights) {
  const externalData = [{ path: "weights", data: new Uint8Array(weights.buffer) }];
  return ort.InferenceSession.create(graph, { graphOptimizationLevel: "disabled", externalData });
}

export class Networks {
  unets = new Map(); // by whether they have the LoRA; each is started when it is first needed

  /** Starts the runtime and the networks in `files`, by name: {graph, weights}. The UNet can wait. */
  static async load(runtime, { unet, ...files }, config) {
    ort.env.wasm.wasmBinary = runtime;
    const networks = Object.assign(new Networks(), { files: unet, config });
    for (const [name, { graph, weights }] of Object.entries(files)) networks[name] = await create(graph, toFloat32(weights));
    return networks;
  }

  /** The UNet, in the fast mode with the LoRA in its weights. */
  async unet(fast) {
    if (!this.unets.has(fast)) {
      const { graph, weights, factors, lora } = this.files, plain = toFloat32(weights);
      this.unets.set(fast, await create(graph, fast ? withLora(plain, toFloat32(factors), lora) : plain));
    }
    return this.unets.get(fast);
  }

  /** Ids (B of 77) → text states (B, 77, D), in one array. */
  async encode(rows) {
    const ids = BigInt64Array.from(rows.flat(), BigInt);
    const { context } = await this.text_encoder.run({ ids: new ort.Tensor("int64", ids, [rows.length, rows[0].length]) });
    return context.data;
  }

  /**
   * The UNet on the same latents for each of `batch` contexts: ε of each, and where the prompt's words are read, a map for every level,
   * `{h, w, data}` with data (h·w, 77).
   */
  async predict(fast, x, t, context, wordScale, batch, h, w) {
    const { levels } = this.config, unet = await this.unet(fast), outputs = await unet.run(this.feeds(x, t, context, wordScale, batch, h, w));
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
