// A worker: computes off the page's thread, so that the page stays responsive. One job at a time, in the order of asking.
//
// Messages in: {id, job, …}; {stop: id}. Messages out: {id, step}, {id, done}, {id, error}, {notice}.

import { Networks } from "./networks.js";
import { denoise } from "./pipeline.js";
import { Tokenizer } from "./tokenizer.js";

let networks, tokenizer, config;
let queue = Promise.resolve();
const stopped = new Set();

const breathe = () => new Promise((resolve) => setTimeout(resolve)); // lets a "stop" come in

const jobs = {
  async load({ runtimes, networks: files, fast, tokenizer: vocabulary, config: settings }) {
    config = settings;
    tokenizer = new Tokenizer(vocabulary);
    networks = await Networks.load(runtimes, files, config, (notice) => postMessage({ notice }));
    if (files.unet) await networks.unet(fast);
  },

  async encode({ texts }) {
    return { context: await networks.encode(texts.map((text) => tokenizer.encode(text).ids)) };
  },

  async draw({ id, request, replay }) {
    let latents;
    for await (const step of denoise(networks, tokenizer, config, request, replay)) {
      postMessage({ id, step });
      latents = step.next;
      await breathe();
      if (stopped.has(id)) return { stopped: true };
    }
    return { latents };
  },

  async compress({ image, height, width }) {
    return networks.compress(image, height, width);
  },

  async decode({ latents, h, w }) {
    return { image: await networks.decode(latents, h, w) };
  },
};

self.onmessage = ({ data }) => {
  if (data.stop !== undefined) {
    stopped.add(data.stop);
    return;
  }
  queue = queue.then(async () => {
    await breathe();
    if (stopped.has(data.id)) return postMessage({ id: data.id, done: { stopped: true } });
    try {
      postMessage({ id: data.id, done: await jobs[data.job](data) });
    } catch (error) {
      postMessage({ id: data.id, error: String(error?.message ?? error) });
    }
  });
};
