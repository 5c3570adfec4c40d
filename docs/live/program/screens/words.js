// Screen 1: the words become tokens, the tokens 77 numbered boxes, the boxes 77 rows of numbers.

import { h, paint, picture, settled } from "../dom.js";

/** The known word with the fewest letters to change, if few enough. */
function nearest(word, words) {
  const distance = (a, b) => {
    let row = Array.from({ length: b.length + 1 }, (_, j) => j);
    for (let i = 1; i <= a.length; i++) {
      const next = [i];
      for (let j = 1; j <= b.length; j++) next[j] = Math.min(next[j - 1] + 1, row[j] + 1, row[j - 1] + (a[i - 1] !== b[j - 1]));
      row = next;
    }
    return row[b.length];
  };
  const [best] = words.map((known) => [distance(word, known), known]).sort(([a], [b]) => a - b);
  return best && best[0] <= Math.max(1, word.length / 3) ? best[1] : null;
}

export function unknownWords(prompt, words) {
  return [...new Set(prompt.toLowerCase().match(/\p{L}+/gu) ?? [])].filter((word) => !words.includes(word));
}

export function mount(root, app) {
  const { facts, tokenizer } = app;
  const chips = h("div", { class: "chips", "aria-label": "Tokens" });
  const hints = h("div", { class: "hints", "aria-live": "polite" });
  const boxes = h("div", { class: "boxes", role: "img" });
  const states = picture("The 77 states of the prompt, one row for each box", "pixelated wide");
  const told = h("p", { class: "quiet" });
  const known = h("div", { class: "known" }, facts.words.map((word) =>
    h("button", { class: "word", onclick: () => app.set({ prompt: `${app.state.prompt.trim()} ${word}`.trim() }) }, word))); // prettier-ignore
  root.append(
    h("h3", {}, "Tokens"), chips, hints,
    h("h3", {}, `${tokenizer.length} boxes`), boxes, told,
    h("h3", {}, "Text states: what the UNet reads"),
    h("p", { class: "quiet" }, "The UNet is the network that predicts the noise. At every step it reads these rows, one for each box."), states,
    h("details", {}, h("summary", {}, `All ${facts.words.length} words of this model`), known),
  ); // prettier-ignore

  const encode = settled(async () => {
    if (!app.engine) return;
    const { context } = await app.engine.encode([app.state.prompt]);
    paintStates(states, context, tokenizer.length, facts.config.contextDim);
  }, 350);

  let shown;
  return {
    update() {
      const { prompt } = app.state;
      if (prompt === shown && app.engine === this.engine) return;
      [shown, this.engine] = [prompt, app.engine];
      const { ids, tokens, dropped } = tokenizer.encode(prompt);
      const unknown = unknownWords(prompt, facts.words);
      chips.replaceChildren(...wordsOf(tokens).map((word) => wordChip(word, unknown)));
      if (!tokens.length) chips.append(h("p", { class: "quiet" }, "No words. This is what the model reads when it draws without a prompt."));
      hints.replaceChildren(...unknown.map((word) => hint(word, app)));
      if (dropped.length) hints.append(h("p", {}, `${tokens.length} tokens fit. The last ${dropped.length} are left out.`));
      boxes.replaceChildren(...ids.map((id, i) => box(id, i, tokens.length, tokenizer)));
      boxes.setAttribute("aria-label", `Start, ${tokens.length} tokens, end, ${tokenizer.length - 2 - tokens.length} boxes of padding`);
      told.textContent =
        `1 start + ${tokens.length} tokens + 1 end + ${tokenizer.length - 2 - tokens.length} padding = ${tokenizer.length}. ` +
        "Every prompt, short or long, fills the same number of boxes.";
      encode();
    },
  };
}

/** Tokens grouped by the word that they spell. */
function wordsOf(tokens) {
  const words = [];
  for (const token of tokens) (words[token.word] ??= []).push(token);
  return words.filter(Boolean);
}

function wordChip(tokens, unknown) {
  const strange = unknown.includes(tokens.map((token) => token.text).join(""));
  return h("span", { class: strange ? "chip strange" : "chip" }, tokens.map((token) => h("span", { class: "token" }, token.text, h("small", {}, String(token.id)))));
}

function hint(word, app) {
  const near = nearest(word, app.facts.words);
  const replace = () => app.set({ prompt: app.state.prompt.replace(new RegExp(`(?<!\\p{L})${word}(?!\\p{L})`, "giu"), near) });
  return h("p", {}, `The model has never seen the word “${word}”. `, near && h("button", { class: "link", onclick: replace }, `Use “${near}”`));
}

function box(id, i, count, tokenizer) {
  const kind = i === 0 ? "start" : i <= count ? "text" : i === count + 1 ? "end" : "padding";
  const title = `box ${i}: ${kind === "text" ? tokenizer.readable(tokenizer.tokens.get(id)) : kind}, id ${id}`;
  return h("span", { class: `box ${kind}`, title }, kind === "padding" ? "" : String(id));
}

function paintStates(canvas, context, rows, columns) {
  const pixels = new Uint8ClampedArray(4 * rows * columns).fill(255);
  for (let i = 0; i < rows * columns; i++) pixels.fill(127.5 + 60 * context[i], 4 * i, 4 * i + 3);
  paint(canvas, pixels, columns, rows);
}
