/**
 * Every loss of the GRPO family through the boundary, away from the policy that sampled: the reported loss, KL and shares
 * against plain formulas over `logprobs` (the formulas against TRL's own numbers: core-rs/tests/losses). Neither sharing
 * prefixes nor the order of the sequences matters.
 */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { LossOptions, Policy, TrainingBatch } from "../../src/core/policy.ts";
import { grpoLoss } from "../support/loss.ts";
import { ADAMW, MODELS, modelDirectory, openModel } from "./opened.ts";

type GrpoLoss = Extract<LossOptions, { readonly kind: "grpo" }>;

const CASES: readonly (Partial<GrpoLoss> & { readonly name: string })[] = [
  { name: "grpo", clip_low: 0.02, clip_high: 0.03 },
  { name: "dual clip", clip_low: 0.02, clip_high: 0.03, delta: 1.06 },
  { name: "k1 corrected", kl_estimator: "k1", kl_ratio_correction: true },
  { name: "k2", kl_estimator: "k2" },
  { name: "gspo", importance_sampling_level: "sequence", clip_low: 0.003, clip_high: 0.004, kl_ratio_correction: true },
  { name: "cispo", surrogate: "cispo", clip_high: 0.02 },
  { name: "cispo of sequences", surrogate: "cispo", importance_sampling_level: "sequence", clip_high: 0.004 },
];

/** Eight sequences of unequal lengths over two shared prefixes; a token in three is not the policy's. */
function batchOf(old_logprobs_N?: Float32Array): TrainingBatch {
  const sequences = Array.from({ length: 8 }, (_, s) => {
    const prompt = Array.from({ length: 12 }, (_, t) => 20 + 7 * t + (s % 2));
    return [...prompt, ...Array.from({ length: 9 + s }, (_, t) => 30 + ((s * 37 + t * 11) % 400))];
  });
  const offsets = Uint32Array.from([0, ...sequences.map((_, s) => sequences.slice(0, s + 1).flat().length)]);
  const sampled = sequences.flatMap((sequence) => sequence.map((_, t) => t >= 12 && t % 3 !== 0));
  const tokens = sequences.flat();
  return {
    tokens_N: Uint32Array.from(tokens),
    offsets,
    weights_N: Float32Array.from(sampled, (one, n) => (one ? 0.01 + 0.001 * (n % 4) : 0)),
    advantages_N: Float32Array.from(tokens, (token, n) => (sampled[n] ? (token % 5) / 2 - 1 : 0)),
    old_logprobs_N: old_logprobs_N ?? new Float32Array(tokens.length),
  };
}

function reordered(batch: TrainingBatch): TrainingBatch {
  const order = [5, 2, 7, 0, 3, 6, 1, 4];
  const bounds = order.map((s) => [batch.offsets[s] ?? 0, batch.offsets[s + 1] ?? 0] as const);
  const picked = (values: Float32Array) =>
    Float32Array.from(bounds.flatMap(([from, to]) => [...values.subarray(from, to)]));
  let end = 0;
  return {
    tokens_N: Uint32Array.from(bounds.flatMap(([from, to]) => [...batch.tokens_N.subarray(from, to)])),
    offsets: Uint32Array.from([0, ...bounds.map(([from, to]) => (end += to - from))]),
    weights_N: picked(batch.weights_N),
    advantages_N: picked(batch.advantages_N),
    old_logprobs_N: picked(batch.old_logprobs_N),
  };
}

interface LogProbs {
  readonly now: Float32Array;
  readonly reference: Float32Array;
}

/** The loss and what is reported of it, in plain numbers. */
function plain({ offsets, weights_N, advantages_N, old_logprobs_N }: TrainingBatch, loss: GrpoLoss, at: LogProbs) {
  let [value, kl, low, high, dual, tokens] = [0, 0, 0, 0, 0, 0];
  for (let s = 0; s + 1 < offsets.length; s++) {
    const inLoss = [...weights_N.keys()].slice(offsets[s], offsets[s + 1]).filter((n) => weights_N[n] !== 0);
    const logRatio = (n: number) => (at.now[n] ?? 0) - (old_logprobs_N[n] ?? 0);
    const mean = inLoss.reduce((sum, n) => sum + logRatio(n), 0) / inLoss.length;
    for (const n of inLoss) {
      const r = Math.exp(loss.importance_sampling_level === "sequence" ? mean : logRatio(n));
      const A = advantages_N[n] ?? 0;
      const d = (at.reference[n] ?? 0) - (at.now[n] ?? 0);
      const estimate = { k1: -d, k2: (d * d) / 2, k3: Math.exp(d) - d - 1 }[loss.kl_estimator];
      const token_kl = loss.kl_ratio_correction ? r * estimate : estimate;
      const clipped = Math.min(Math.max(r, 1 - loss.clip_low), 1 + loss.clip_high) * A;
      const surrogate =
        loss.surrogate === "cispo"
          ? -Math.min(r, 1 + loss.clip_high) * A * (at.now[n] ?? 0)
          : -Math.min(Math.min(r, loss.delta ?? r) * A, clipped);
      value += (weights_N[n] ?? 0) * (surrogate + loss.kl_coef * token_kl);
      kl += token_kl;
      low += loss.surrogate === "clip" && r < 1 - loss.clip_low && A < 0 ? 1 : 0;
      high += r > 1 + loss.clip_high && A > 0 ? 1 : 0;
      dual += loss.delta !== null && r > loss.delta && A < 0 ? 1 : 0;
      tokens += 1;
    }
  }
  return { value, kl: kl / tokens, low: low / tokens, high: high / tokens, dual: dual / tokens };
}

const scratch = mkdtempSync(join(tmpdir(), "grpo-cl-losses-"));
afterAll(() => rmSync(scratch, { recursive: true }));

/** A directory of a policy that has moved away from what it recorded. */
async function movedModel(model: string) {
  using policy = await openModel(model);
  const batch = batchOf(await policy.logprobs("policy", batchOf(), { temperature: 1 }));
  await policy.forwardBackward(batch, { kind: "nll", temperature: 1 });
  await policy.optimizerStep({ ...ADAMW, learning_rate: 3e-4 });
  const model_directory = join(scratch, model);
  await policy.save(model_directory);
  return { batch, model_directory };
}

/** The anchor is the model before it moved. */
async function openMoved(
  model: string,
  options: { readonly model_directory: string; readonly prefix_sharing: boolean },
) {
  const policy = await openModel(model, options);
  await policy.loadModel("base", modelDirectory(model));
  return policy;
}

const gradientNorm = async (policy: Policy, batch: TrainingBatch, loss: LossOptions) => {
  const report = await policy.forwardBackward(batch, loss);
  const { grad_norm } = await policy.optimizerStep({ ...ADAMW, learning_rate: 0 });
  return { report, grad_norm };
};

describe.skipIf(MODELS.length === 0)("losses away from the sampling policy", () => {
  test.each(MODELS)("%s", async (model) => {
    const { batch, model_directory } = await movedModel(model);
    using policy = await openMoved(model, { model_directory, prefix_sharing: true });
    using unshared = await openMoved(model, { model_directory, prefix_sharing: false });
    const at = {
      now: await policy.logprobs("policy", batch, { temperature: 1 }),
      reference: await policy.logprobs("base", batch, { temperature: 1 }),
    };
    let clipped = 0;
    for (const { name, ...fields } of CASES) {
      const loss = grpoLoss({ kl_coef: 0.5, ...fields });
      const expected = plain(batch, loss, at);
      const { report, grad_norm } = await gradientNorm(policy, batch, loss);
      expect({ name, close: Math.abs(report.loss - expected.value) < 1e-5 }).toEqual({ name, close: true });
      expect(report.kl_mean).toBeCloseTo(expected.kl, 5);
      expect(report.clip_low_fraction).toBeCloseTo(expected.low, 6);
      expect(report.clip_high_fraction).toBeCloseTo(expected.high, 6);
      expect(report.dual_clip_fraction).toBeCloseTo(expected.dual, 6);
      clipped += expected.low + expected.high + expected.dual;
      const others = [await gradientNorm(policy, reordered(batch), loss), await gradientNorm(unshared, batch, loss)];
      for (const other of others) {
        expect(Math.abs(other.report.loss - report.loss)).toBeLessThan(1e-6);
        expect(Math.abs(other.grad_norm / grad_norm - 1)).toBeLessThan(1e-3);
      }
    }
    expect(clipped).toBeGreaterThan(0);
  });
});
