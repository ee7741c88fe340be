/**
 * Random streams named by a path of labels: `Rng.from(seed).fork("rollout", step, task.id, sample)`.
 *
 * A stream is its path: the key of a child is SplitMix64's finaliser over the parent's key and the FNV-1a hash of the
 * label, so a stream depends on nothing that ran before it. fork(a, b) is fork(a).fork(b). Numbers come from sfc32
 * (Doty-Humphrey, PractRand), seeded by the key: 32-bit arithmetic is exact and quick in JavaScript. Forking does not
 * move a stream, and drawing does not change what it forks.
 */

export type Label = string | number;

const MASK = (1n << 64n) - 1n;
const GOLDEN = 0x9e3779b97f4a7c15n;
const FNV_OFFSET = 0xcbf29ce484222325n;
const FNV_PRIME = 0x100000001b3n;

export class Rng {
  readonly #key: bigint;
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  private constructor(key: bigint) {
    this.#key = key;
    const second = mix(key + GOLDEN);
    this.#a = Number(key & 0xffffffffn) | 0;
    this.#b = Number(key >> 32n) | 0;
    this.#c = Number(second & 0xffffffffn) | 0;
    for (let round = 0; round < 12; round++) this.uint32();
  }

  /** `seed`: a safe integer, or any bigint (its low 64 bits count). */
  static from(seed: number | bigint): Rng {
    return new Rng(mix((BigInt(seed) & MASK) + GOLDEN));
  }

  /** The stream under this one; every label counts, also by type: fork(1) is not fork("1"). */
  fork(...labels: readonly Label[]): Rng {
    return new Rng(labels.reduce((key, label) => mix(key ^ mix(hashLabel(label))), this.#key));
  }

  /** Uniform in [0, 2^32). */
  uint32(): number {
    const sum = (((this.#a + this.#b) | 0) + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  /** Uniform in [0, 2^64): what the core takes as a sampling seed. */
  uint64(): bigint {
    return (BigInt(this.uint32()) << 32n) | BigInt(this.uint32());
  }

  /** Uniform in [0, n), without modulo bias; 1 <= n <= 2^32. */
  int(n: number): number {
    if (!Number.isInteger(n) || n < 1 || n > 2 ** 32) throw new RangeError(`Rng.int: ${n} is not in 1..2^32`);
    const limit = 2 ** 32 - (2 ** 32 % n);
    for (;;) {
      const drawn = this.uint32();
      if (drawn < limit) return drawn % n;
    }
  }

  /** Uniform in [0, 1), 53 bits. */
  uniform(): number {
    return ((this.uint32() >>> 5) * 2 ** 26 + (this.uint32() >>> 6)) / 2 ** 53;
  }

  /** A shuffled copy (Fisher-Yates). */
  shuffle<T>(items: readonly T[]): T[] {
    const shuffled = [...items];
    for (let last = shuffled.length - 1; last > 0; last--) {
      const other = this.int(last + 1);
      const kept = shuffled[last] as T;
      shuffled[last] = shuffled[other] as T;
      shuffled[other] = kept;
    }
    return shuffled;
  }

  pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw new RangeError("Rng.pick: no items");
    return items[this.int(items.length)] as T;
  }

  /** Index drawn in proportion to its weight; weights are >= 0 and not all 0. */
  pickWeighted(weights: readonly number[]): number {
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    if (!(total > 0)) throw new RangeError("Rng.pickWeighted: the weights sum to nothing");
    let left = this.uniform() * total;
    for (const [index, weight] of weights.entries()) {
      left -= weight;
      if (left < 0) return index;
    }
    return weights.findLastIndex((weight) => weight > 0);
  }
}

/** SplitMix64's finaliser (Steele, Lea & Flood 2014). */
function mix(value: bigint): bigint {
  let z = value & MASK;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return z ^ (z >> 31n);
}

function hashLabel(label: Label): bigint {
  let hash = FNV_OFFSET;
  for (const byte of new TextEncoder().encode(typeof label === "number" ? `n${label}` : `s${label}`))
    hash = ((hash ^ BigInt(byte)) * FNV_PRIME) & MASK;
  return hash;
}
