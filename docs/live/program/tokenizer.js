// Prompt → 77 ids: CLIP's byte-level BPE, as minisd/tokenizer.py.
//
// A text is lowercased and split into words, every word into bytes, and bytes are merged in the order that was learnt.

const [START, END] = ["<|startoftext|>", "<|endoftext|>"];
const SPECIAL_WORDS = "<[|]endoftext[|]>|<[|]startoftext[|]>";
const WORDS = new RegExp(
  `${SPECIAL_WORDS}|'s|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|[^\\p{White_Space}\\p{L}\\p{N}]+`, "gu");
const PIECES = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}+|[^\p{White_Space}\p{L}\p{N}]+/gu; // splits only what looks like a special word

/** GPT-2's names for the 256 bytes: printable ones stand for themselves, the others take the letters from 256 on. */
function byteNames() {
  const printable = (b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : next++));
}

export class Tokenizer {
  /** `vocab` from token to id, `merges` as pairs, `pad` the padding token. */
  constructor({ vocab, merges, pad, length }) {
    Object.assign(this, { vocab, pad, length });
    this.ranks = new Map(merges.map(([a, b], rank) => [`${a} ${b}`, rank]));
    this.tokens = new Map(Object.entries(vocab).map(([token, id]) => [id, token]));
    this.bytes = byteNames();
    this.special = [...new Set([START, END, ...(pad === END ? [] : [pad])])];
    [this.startId, this.endId, this.padId] = [vocab[START], vocab[END], vocab[pad]];
  }

  /** The tokens of a text: [{id, text, word}], where `word` counts the words that the text was split into. */
  tokenize(text) {
    const found = [];
    let word = 0;
    for (const part of this.splitSpecial(text)) {
      if (this.special.includes(part)) {
        found.push({ id: this.vocab[part], text: part, word: word++ });
        continue;
      }
      for (const piece of normalized(part).match(WORDS)?.flatMap((one) => one.match(PIECES) ?? []) ?? []) {
        for (const token of this.merge(piece)) {
          found.push({ id: this.vocab[token] ?? this.endId, text: this.readable(token), word });
        }
        word++;
      }
    }
    return found;
  }

  /** Start, the ids of the prompt, end, padding: always 77; `dropped` tokens did not fit. */
  encode(text) {
    const tokens = this.tokenize(text), room = this.length - 2;
    const ids = [this.startId, ...tokens.slice(0, room).map((token) => token.id), this.endId];
    while (ids.length < this.length) ids.push(this.padId);
    return { ids, tokens: tokens.slice(0, room), dropped: tokens.slice(room) };
  }

  /** Byte-pair encoding: merge the neighbours that were learnt first until no pair is left that was learnt. */
  merge(word) {
    let parts = [...new TextEncoder().encode(word)].map((byte) => this.bytes[byte]);
    parts[parts.length - 1] += "</w>";
    for (;;) {
      const ranks = parts.slice(1).map((part, i) => this.ranks.get(`${parts[i]} ${part}`) ?? Infinity);
      const best = Math.min(...ranks);
      if (best === Infinity) return parts;
      const i = ranks.indexOf(best);
      parts = [...parts.slice(0, i), parts[i] + parts[i + 1], ...parts.slice(i + 2)];
    }
  }

  splitSpecial(text) {
    const escaped = this.special.map((token) => token.replace(/[|!]/g, "\\$&")).join("|");
    return text.split(new RegExp(`(${escaped})`)).filter(Boolean);
  }

  /** A token as text; bytes that are no text by themselves stay as their names. */
  readable(token) {
    const bytes = [...token.replace("</w>", "")].map((letter) => this.bytes.indexOf(letter));
    const text = new TextDecoder().decode(new Uint8Array(bytes));
    return text.includes("\uFFFD") ? bytes.map((byte) => `‹${byte.toString(16)}›`).join("") : text;
  }
}

/** NFC, single spaces, lower case letter by letter (a Σ at a word's end becomes σ, as in the Python library). */
function normalized(text) {
  return [...text.normalize("NFC").replace(/\p{White_Space}+/gu, " ")].map((letter) => letter.toLowerCase()).join("");
}
