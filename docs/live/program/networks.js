// The three networks, computed by onnxruntime-web from the graphs that docs/live/export.py wrote.

import * as ort from "onnxruntime-web/wasm";

ort.env.wasm.numThreads = 1; // threads need a server that sends headers; a page in a file has none
ort.env.wasm.proxy = false; // this already runs in a worker
ort.env.logLevel = "error";

const float = (data, dims) => new ort.Tensor("float32", data, dims);

export class Networks {
  /** Starts the runtime with the networks that `graphs` has, by name. */
  static async load(runtime, graphs, config) {
    ort.env.wasm.wasmBinary = runtime;
    const networks = new Networks();
    networks.config = config;
    for (const [name, graph] of Object.entries(graphs)) {
      networks[name] = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
    }
    return networks;
  }

  /** Ids (B of 77) → text states (B, 77, D), in one array. */
  async encode(rows) {
    const ids = BigInt64Array.from(rows.flat(), BigInt);
    const { context } = await this.text_encoder.run({ ids: new ort.Tensor("int64", ids, [rows.length, rows[0].length]) });
    return context.data;
  }

  /**
   * The UNet on the same latents for each of `batch` contexts: ε of each, and where the prompt's words look, a map for every level,
   * `{h, w, data}` with data (h·w, 77).
   */
  async predict(x, t, context, wordScale, batch, h, w) {
    const { channels, contextDim, length, levels } = this.config;
    const twice = new Float32Array(batch * x.length);
    for (let i = 0; i < batch; i++) twice.set(x, i * x.length);
    const outputs = await this.unet.run({
      x: float(twice, [batch, channels, h, w]),
      t: float(Float32Array.of(t), [1]),
      context: float(context, [batch, length, contextDim]),
      word_scale: float(wordScale, [batch, length]),
    });
    const eps = Array.from({ length: batch }, (_, i) => outputs.eps.data.slice(i * x.length, (i + 1) * x.length));
    const attention = levels.map((level) => {
      const { data, dims } = outputs[`attention_${level}`];
      return { level, h: Math.ceil(h / 2 ** level), w: Math.ceil(w / 2 ** level), data: data.slice(-dims[1] * dims[2]) };
    });
    return { eps: batch === 2 ? eps : [null, eps[0]], attention };
  }

  /** Latents (4, h, w) → image (3, H, W). */
  async decode(latents, h, w) {
    const { image } = await this.decoder.run({ latents: float(latents, [1, this.config.channels, h, w]) });
    return image.data;
  }
}
