/** What the parts that need a model share: opening it as the peer does (f32), and prompts of random tokens. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Rng } from "../../src/base/rng.ts";
import { openEngine } from "../../src/core/engine.ts";
import type { Policy, Sampled, SequenceId } from "../../src/core/policy.ts";
import { type ModelShape, shapeOf } from "../../src/run/memory-plan.ts";
import type { Bench } from "./measure.ts";

/** As in the peers' scripts: below every vocabulary here, and no special token. */
const TOKENS_BELOW = 6000;

export const openPolicy = ({ model, threads }: Bench): Promise<Policy> =>
  openEngine({
    library: process.env.GRPO_CL_CORE ?? null,
    model_directory: model,
    dtype: "float32",
    num_threads: threads,
    kernels: "fused",
    prefix_sharing: true,
    gradient_checkpointing: false,
  });

export function shapeAt(model: string): ModelShape {
  const file = join(model, "config.json");
  return shapeOf(JSON.parse(readFileSync(file, "utf8")), file);
}

export function randomTokens(rng: Rng, length: number): Uint32Array {
  return Uint32Array.from({ length }, () => rng.int(TOKENS_BELOW));
}

interface Sampling {
  readonly newTokens: number;
  /** 0 is greedy. */
  readonly temperature: number;
  readonly seed: bigint;
}

export interface Round extends Sampling {
  readonly prompts: readonly Uint32Array[];
}

/** All prompts at once; the sequences are released. */
export async function sampleAll(policy: Policy, { prompts, seed, ...sampling }: Round): Promise<Sampled[]> {
  const sampled = await Promise.all(
    prompts.map((tokens, i) => sampleTurn(policy, { ...sampling, sequence: null, tokens, seed: seed + BigInt(i) })),
  );
  for (const { sequence } of sampled) policy.release("policy", sequence);
  return sampled;
}

export interface Turn extends Sampling {
  /** null opens one. */
  readonly sequence: SequenceId | null;
  readonly tokens: Uint32Array;
}

/** Exactly `newTokens` (no stop token). */
export async function sampleTurn(policy: Policy, { newTokens, ...turn }: Turn): Promise<Sampled> {
  const sampled = await policy.sample({
    ...turn,
    model: "policy",
    top_p: 1,
    top_k: 0,
    min_p: 0,
    max_new_tokens: newTokens,
    stop_token_ids: [],
    context_tokens_max: policy.info.context_tokens_max,
  });
  if (sampled.tokens.length !== newTokens)
    throw new Error(`${sampled.tokens.length} tokens were sampled, not ${newTokens}`);
  return sampled;
}
