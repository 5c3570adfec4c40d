// The UNet's two sets of weights: the model's, and those with the LoRA added that lets it draw in four steps.

/** The low bytes of float16 numbers, then their high bytes → float32. There are only 65,536 such numbers, so a table holds them all. */
export function toFloat32(bytes) {
  const table = Float32Array.from({ length: 65536 }, (_, code) => {
    const sign = code & 0x8000 ? -1 : 1, exponent = (code >> 10) & 31, fraction = code & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  });
  const count = bytes.length / 2;
  return new Float32Array(count).map((_, i) => table[bytes[i] | (bytes[count + i] << 8)]);
}

/**
 * A copy of the weights with a LoRA added (Hu et al. 2021, §4.1). `layers` lists the offset, rows and columns of every matrix that
 * changes; `factors` holds left (rows, rank) and right (rank, columns) of each, one after another.
 */
export function withLora(weights, factors, { rank, layers }) {
  const changed = weights.slice();
  let next = 0;
  for (const [offset, rows, columns] of layers) {
    const left = factors.subarray(next, (next += rows * rank)), right = factors.subarray(next, (next += rank * columns));
    for (let i = 0; i < rows; i++) {
      const row = changed.subarray(offset + i * columns, offset + (i + 1) * columns);
      for (let k = 0; k < rank; k++) {
        const factor = left[i * rank + k];
        for (let j = 0; j < columns; j++) row[j] += factor * right[k * columns + j];
      }
    }
  }
  return changed;
}
