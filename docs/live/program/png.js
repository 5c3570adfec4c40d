// A PNG that says how it was made: the chunks "minisd" (JSON) and "parameters", as minisd/image_files.py writes them.

import { isFast } from "./state.js";

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc(bytes) {
  return ~bytes.reduce((c, byte) => TABLE[(c ^ byte) & 0xff] ^ (c >>> 8), -1) >>> 0;
}

/** An iTXt chunk: a keyword and a text in UTF-8. */
function textChunk(keyword, text) {
  const utf8 = new TextEncoder();
  const body = new Uint8Array([...utf8.encode("iTXt" + keyword), 0, 0, 0, 0, 0, ...utf8.encode(text)]);
  const chunk = new Uint8Array(body.length + 8), view = new DataView(chunk.buffer);
  view.setUint32(0, body.length - 4);
  chunk.set(body, 4);
  view.setUint32(4 + body.length, crc(body));
  return chunk;
}

/** The settings of a run; `live` says what the command line cannot repeat. */
export function settingsOf({ request, origin }, facts) {
  const live = [
    request.start?.noise && "started from painted noise",
    request.start?.image && `started from a ${request.start.mask ? "masked" : "painted"} picture, strength ${request.start.strength}`,
    request.muted && "attention of words changed",
    origin && `went on from a step of: ${origin.request.prompt}`,
  ].filter(Boolean);
  const { prompt, negative, sampler, steps, scale, seed, width, height } = request;
  return { prompt, negative_prompt: negative, model: "tiny", sampler, steps, guidance_scale: scale, seed: Number.isSafeInteger(Number(seed)) ? Number(seed) : seed, noise: "cuda",
    width, height, version: facts.version, ...(isFast(request) ? { lora: ["tiny"] } : {}), ...(live.length ? { live: live.join("; ") } : {}) }; // prettier-ignore
}

function parameters(s) {
  const negative = s.negative_prompt ? [`Negative prompt: ${s.negative_prompt}`] : [];
  const line = `Steps: ${s.steps}, Sampler: ${s.sampler}, CFG scale: ${s.guidance_scale}, Seed: ${s.seed}, Size: ${s.width}x${s.height}`;
  const lora = s.lora ? `, LoRA: ${s.lora}` : "";
  return [s.prompt, ...negative, `${line}, Model: ${s.model}${lora}, Version: minisd ${s.version}`].join("\n");
}

/** The picture on a canvas as a PNG with its settings inside. */
export async function pngWithSettings(canvas, settings) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  const bytes = new Uint8Array(await blob.arrayBuffer()), head = 33; // the signature and the first chunk
  const chunks = [textChunk("parameters", parameters(settings)), textChunk("minisd", JSON.stringify(settings))];
  return new Blob([bytes.slice(0, head), ...chunks, bytes.slice(head)], { type: "image/png" });
}
