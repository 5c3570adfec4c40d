// Gaussian noise from a seed, equal to that of torch.Generator("cuda"), as minisd/cuda_noise.py.

const f32 = Math.fround;

/** a · b of two unsigned 32-bit numbers: the high and the low word of the product. */
function multiply(a, b) {
  const [a0, a1, b0, b1] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = a1 * b0 + ((a0 * b0) >>> 16), cross = a0 * b1 + (middle & 0xffff);
  return [(a1 * b1 + Math.floor(middle / 65536) + Math.floor(cross / 65536)) >>> 0, Math.imul(a, b) >>> 0];
}

/** Philox 4×32-10 (Salmon et al. 2011): a counter of four words and a key of two become four random words. */
export function philox([a, b, c, d], [low, high]) {
  for (let round = 0; round < 10; round++) {
    const [leftHigh, leftLow] = multiply(a, 0xd2511f53), [rightHigh, rightLow] = multiply(c, 0xcd9e8d57);
    [a, b, c, d] = [(rightHigh ^ b ^ low) >>> 0, rightLow, (leftHigh ^ d ^ high) >>> 0, leftLow];
    [low, high] = [(low + 0x9e3779b9) >>> 0, (high + 0xbb67ae85) >>> 0];
  }
  return [a, b, c, d];
}

export class CudaNoise {
  constructor(seed) {
    const whole = BigInt.asUintN(64, BigInt(seed));
    this.key = [Number(whole & 0xffffffffn), Number(whole >> 32n)];
    this.draws = 0;
  }

  /** `count` standard normal numbers: two random words each, made normal by Box & Muller 1958, in float32 throughout. */
  randn(count) {
    const unit = (word) => f32(f32(f32(word) * 2 ** -32) + 2 ** -33); // in (0, 1]
    const numbers = Float32Array.from({ length: count }, (_, i) => {
      const [u, v] = philox([this.draws, 0, i, 0], this.key).map(unit);
      return f32(Math.sqrt(f32(-2 * f32(Math.log(u))))) * f32(Math.sin(f32(f32(2 * Math.PI) * v)));
    });
    this.draws++;
    return numbers;
  }
}
