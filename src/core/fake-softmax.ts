/**
 * The model inside the fake: a softmax over the next token given the class of the one before it, with six weights
 * W_D (a 2 × 3 matrix, row by row): logit_v = Σ_d W_d φ_d(c, v). Small enough to check by hand, real enough that every loss
 * has its true gradient.
 *
 * Axes: D weights · V vocabulary · c class of the preceding token.
 */
import type { LossOptions, StoredDistributions, TokenBatch, TrainingBatch } from "./policy.ts";

export const ROWS = 2;
export const COLUMNS = 3;
const WEIGHTS = ROWS * COLUMNS;
const CLASSES = 7;

interface Distribution {
  readonly logits_V: Float64Array;
  readonly logprobs_V: Float64Array;
  readonly probs_V: Float64Array;
  /** Σ_v π(v) φ(v). */
  readonly expected_D: Float64Array;
}

export class Softmax {
  readonly #weights_D: ArrayLike<number>;
  readonly #vocab: number;
  readonly #temperature: number;
  readonly #distributions = new Map<number, Distribution>();

  constructor(
    weights_D: ArrayLike<number>,
    { vocab_size, temperature }: { readonly vocab_size: number; readonly temperature: number },
  ) {
    this.#weights_D = Array.from(weights_D);
    this.#vocab = vocab_size;
    this.#temperature = temperature === 0 ? 1 : temperature;
  }

  logprob(previous: number | undefined, token: number): number {
    return Math.fround(this.after(previous).logprobs_V[token] as number);
  }

  /** ∇ log π(token | previous), added with a factor. */
  addScore(into_D: Float64Array, previous: number, token: number, factor: number): void {
    const { expected_D } = this.after(previous);
    for (let d = 0; d < WEIGHTS; d++) {
      const score = (feature(previous, token, d) - (expected_D[d] as number)) / this.#temperature;
      into_D[d] = (into_D[d] as number) + factor * score;
    }
  }

  after(previous = 0): Distribution {
    const known = this.#distributions.get(previous % CLASSES);
    if (known !== undefined) return known;
    const logits_V = Float64Array.from({ length: this.#vocab }, (_, token) => this.#logit(previous, token));
    const scaled_V = logits_V.map((logit) => logit / this.#temperature);
    const highest = Math.max(...scaled_V);
    const log_sum = highest + Math.log(scaled_V.reduce((sum, logit) => sum + Math.exp(logit - highest), 0));
    const logprobs_V = scaled_V.map((logit) => logit - log_sum);
    const probs_V = logprobs_V.map(Math.exp);
    const expected_D = Float64Array.from({ length: WEIGHTS }, (_, d) =>
      probs_V.reduce((sum, prob, token) => sum + prob * feature(previous, token, d), 0),
    );
    const distribution = { logits_V, logprobs_V, probs_V, expected_D };
    this.#distributions.set(previous % CLASSES, distribution);
    return distribution;
  }

  #logit(previous: number, token: number): number {
    let sum = 0;
    for (let d = 0; d < WEIGHTS; d++) sum += (this.#weights_D[d] as number) * feature(previous, token, d);
    return sum;
  }
}

/** φ_d(c, v): fixed numbers between -1 and 1. */
export function feature(previous: number, token: number, d: number): number {
  const mixed = Math.imul(1 + token + 263 * (previous % CLASSES) + 4099 * d, 0x9e3779b1) >>> 0;
  return Math.imul(mixed ^ (mixed >>> 15), 0x85ebca6b) / 2 ** 31;
}

export interface LossSums {
  loss: number;
  loss_tokens: number;
  kl: number;
  entropy: number;
  clipped_low: number;
  clipped_high: number;
  clipped_dual: number;
  logprob_diff_max: number;
  readonly gradient_D: Float64Array;
}

export const noLoss = (): LossSums => ({
  loss: 0,
  loss_tokens: 0,
  kl: 0,
  entropy: 0,
  clipped_low: 0,
  clipped_high: 0,
  clipped_dual: 0,
  logprob_diff_max: 0,
  gradient_D: new Float64Array(WEIGHTS),
});

interface Position {
  readonly n: number;
  readonly previous: number;
  readonly token: number;
  readonly weight: number;
}

type GrpoLoss = Extract<LossOptions, { readonly kind: "grpo" }>;

interface Models<Options extends LossOptions = LossOptions> {
  readonly policy: Softmax;
  readonly anchor: Softmax | null;
  readonly options: Options;
}

/** Of the sequences from `first` to `last` (excluded), added to `sums`. */
export function addLoss(
  sums: LossSums,
  batch: TrainingBatch,
  models: Models,
  [first, last]: readonly [number, number] = [0, batch.offsets.length - 1],
): void {
  for (let s = first; s < last; s++) {
    const positions = inLoss(batch, s);
    sums.loss_tokens += positions.length;
    const { options } = models;
    if (options.kind === "grpo") addGrpo(sums, batch, positions, { ...models, options });
    else for (const position of positions) addTokenLoss(sums, batch, position, { ...models, options });
  }
}

/** Tokens of a sequence with a weight. */
function inLoss({ tokens_N, weights_N, offsets }: TrainingBatch, sequence: number): Position[] {
  const positions: Position[] = [];
  for (let n = offsets[sequence] ?? 0; n < (offsets[sequence + 1] ?? 0); n++) {
    const weight = weights_N[n] as number;
    if (weight !== 0) positions.push({ n, previous: tokens_N[n - 1] as number, token: tokens_N[n] as number, weight });
  }
  return positions;
}

function addTokenLoss(
  sums: LossSums,
  batch: TrainingBatch,
  position: Position,
  { policy, anchor, options }: Models<Exclude<LossOptions, GrpoLoss>>,
): void {
  switch (options.kind) {
    case "nll":
      addNll(sums, position, policy);
      break;
    case "distill":
      addDistill(sums, position, policy, anchor as Softmax);
      break;
    case "distill_stored":
      addStored(sums, position, policy, batch.targets as StoredDistributions);
      break;
    case "output_norm":
      addOutputNorm(sums, position, policy);
      break;
  }
}

function addNll(sums: LossSums, { previous, token, weight }: Position, policy: Softmax): void {
  sums.loss -= weight * policy.logprob(previous, token);
  policy.addScore(sums.gradient_D, previous, token, -weight);
}

/** KL(a ‖ π) = Σ_v a(v) (log a(v) − log π(v)). */
function addDistill(sums: LossSums, { previous, weight }: Position, policy: Softmax, anchor: Softmax): void {
  const [own, other] = [policy.after(previous), anchor.after(previous)];
  for (const [token, prob] of other.probs_V.entries()) {
    sums.loss += weight * prob * ((other.logprobs_V[token] as number) - (own.logprobs_V[token] as number));
    policy.addScore(sums.gradient_D, previous, token, -weight * prob);
  }
}

/** The stored tokens, and all others as one outcome with the mass that is left. */
function addStored(sums: LossSums, { n, previous, weight }: Position, policy: Softmax, targets: StoredDistributions) {
  const { probs_V, logprobs_V } = policy.after(previous);
  const cells = Array.from({ length: targets.k }, (_, i) => n * targets.k + i);
  const stored = cells.map((cell) => ({
    token: targets.ids_NK[cell] as number,
    logprob: targets.logprobs_NK[cell] as number,
  }));
  const left = Math.max(1e-12, 1 - stored.reduce((sum, { logprob }) => sum + Math.exp(logprob), 0));
  const own_left = Math.max(1e-12, 1 - stored.reduce((sum, { token }) => sum + (probs_V[token] as number), 0));
  sums.loss += weight * left * (Math.log(left) - Math.log(own_left));
  for (const { token, logprob } of stored) {
    const prob = Math.exp(logprob);
    sums.loss += weight * prob * (logprob - (logprobs_V[token] as number));
    const from_left = (left / own_left) * (probs_V[token] as number);
    policy.addScore(sums.gradient_D, previous, token, weight * (from_left - prob));
  }
}

function addOutputNorm(sums: LossSums, { previous, weight }: Position, policy: Softmax): void {
  for (const [token, logit] of policy.after(previous).logits_V.entries()) {
    sums.loss += weight * logit * logit;
    for (let d = 0; d < WEIGHTS; d++) {
      sums.gradient_D[d] = (sums.gradient_D[d] as number) + 2 * weight * logit * feature(previous, token, d);
    }
  }
}

/** One sequence. What flows through the ratio goes to its own token, or in equal parts to all of the sequence. */
function addGrpo(
  sums: LossSums,
  batch: TrainingBatch,
  positions: readonly Position[],
  { policy, anchor, options }: Models<GrpoLoss>,
): void {
  const whole = options.importance_sampling_level === "sequence";
  const changes = positions.map(
    ({ n, previous, token }) => policy.logprob(previous, token) - (batch.old_logprobs_N[n] as number),
  );
  const terms = positions.map((position, i) => {
    const ratio = Math.exp(whole ? mean(changes) : (changes[i] as number));
    return addGrpoToken(
      sums,
      { ...position, ratio, advantage: batch.advantages_N[position.n] as number },
      { policy, anchor, options },
    );
  });
  const flow = mean(terms.map(({ through_ratio }) => through_ratio));
  for (const [i, { previous, token, weight }] of positions.entries()) {
    const { direct, through_ratio } = terms[i] as GrpoSlopes;
    policy.addScore(sums.gradient_D, previous, token, direct + (whole ? flow : through_ratio));
    sums.entropy += addEntropy(sums, previous, weight * options.entropy_coef, policy);
    sums.logprob_diff_max = Math.max(sums.logprob_diff_max, Math.abs(changes[i] as number));
  }
}

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** In the token's log-probability at a fixed ratio, and in the ratio's logarithm. */
interface GrpoSlopes {
  readonly direct: number;
  readonly through_ratio: number;
}

function addGrpoToken(
  sums: LossSums,
  { previous, token, weight, ratio, advantage }: Position & { readonly ratio: number; readonly advantage: number },
  { policy, anchor, options }: Models<GrpoLoss>,
): GrpoSlopes {
  const logprob = policy.logprob(previous, token);
  const [low, high] = [1 - options.clip_low, 1 + options.clip_high];
  if (options.surrogate === "clip" && ratio < low && advantage < 0) sums.clipped_low += 1;
  if (ratio > high && advantage > 0) sums.clipped_high += 1;
  if (options.delta !== null && ratio > options.delta && advantage < 0) sums.clipped_dual += 1;
  let [direct, through_ratio] = [0, 0];
  if (options.surrogate === "cispo") {
    direct = -Math.min(ratio, high) * advantage;
    sums.loss += weight * direct * logprob;
  } else {
    const bounded = Math.min(ratio, options.delta ?? ratio);
    const clipped = Math.min(Math.max(ratio, low), high) * advantage;
    sums.loss -= weight * Math.min(bounded * advantage, clipped);
    through_ratio = clipped < bounded * advantage || bounded < ratio ? 0 : -ratio * advantage;
  }
  if (anchor !== null) {
    const d = anchor.logprob(previous, token) - logprob;
    const value = { k1: -d, k2: (d * d) / 2, k3: Math.exp(d) - d - 1 }[options.kl_estimator];
    const slope = { k1: 1, k2: -d, k3: 1 - Math.exp(d) }[options.kl_estimator];
    const factor = options.kl_ratio_correction ? ratio : 1;
    sums.kl += factor * value;
    sums.loss += weight * options.kl_coef * factor * value;
    direct += options.kl_coef * factor * slope;
    through_ratio += options.kl_ratio_correction ? options.kl_coef * ratio * value : 0;
  }
  return { direct: weight * direct, through_ratio: weight * through_ratio };
}

/** Loss and gradient of -factor · H; returns H. */
function addEntropy(sums: LossSums, previous: number, factor: number, policy: Softmax): number {
  const { probs_V, logprobs_V } = policy.after(previous);
  const entropy = -probs_V.reduce((sum, prob, token) => sum + prob * (logprobs_V[token] as number), 0);
  if (factor === 0) return entropy;
  sums.loss -= factor * entropy;
  for (const [token, prob] of probs_V.entries())
    policy.addScore(sums.gradient_D, previous, token, factor * prob * (logprobs_V[token] as number));
  return entropy;
}

/** As `Policy.topLogprobs`, ties by the smaller id. */
export function likeliest(model: Softmax, batch: TokenBatch | TrainingBatch, k: number): StoredDistributions {
  const { tokens_N, offsets } = batch;
  const stored = {
    k,
    ids_NK: new Uint32Array(tokens_N.length * k),
    logprobs_NK: new Float32Array(tokens_N.length * k),
  };
  const starts = new Set(offsets);
  for (let n = 1; n < tokens_N.length; n++) {
    if (starts.has(n) || ("weights_N" in batch && batch.weights_N[n] === 0)) continue;
    const { logprobs_V } = model.after(tokens_N[n - 1]);
    const order = [...logprobs_V.keys()].sort((a, b) => (logprobs_V[b] as number) - (logprobs_V[a] as number) || a - b);
    for (const [i, token] of order.slice(0, k).entries()) {
      stored.ids_NK[n * k + i] = token;
      stored.logprobs_NK[n * k + i] = logprobs_V[token] as number;
    }
  }
  return stored;
}
