/** What the parts that need a model share: opening it as the peer does (f32), and prompts of random tokens. */
import type { Rng } from "../../src/base/rng.ts";
import { openEngine } from "../../src/core/engine.ts";
import type { Policy, Sampled, SampleRequest } from "../../src/core/policy.ts";
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

export function randomTokens(rng: Rng, length: number): Uint32Array {
  return Uint32Array.from({ length }, () => rng.int(TOKENS_BELOW));
}

export interface Round {
  readonly prompts: readonly Uint32Array[];
  readonly newTokens: number;
  /** 0 is greedy. */
  readonly temperature: number;
  readonly seed: bigint;
}

/** All prompts at once, exactly `newTokens` each (no stop token); the sequences are released. */
export async function sampleAll(policy: Policy, { prompts, newTokens, temperature, seed }: Round): Promise<Sampled[]> {
  const requestOf = (tokens: Uint32Array, i: number): SampleRequest => ({
    model: "policy",
    sequence: null,
    tokens,
    temperature,
    top_p: 1,
    top_k: 0,
    min_p: 0,
    max_new_tokens: newTokens,
    stop_token_ids: [],
    seed: seed + BigInt(i),
    context_tokens_max: policy.info.context_tokens_max,
  });
  const sampled = await Promise.all(prompts.map((tokens, i) => policy.sample(requestOf(tokens, i))));
  for (const { sequence, tokens } of sampled) {
    if (tokens.length !== newTokens) throw new Error(`${tokens.length} tokens were sampled, not ${newTokens}`);
    policy.release("policy", sequence);
  }
  return sampled;
}
