/**
 * DER++ (Buzzega et al. 2020) for policies: a reservoir keeps sequences with the 64 largest log-probabilities of each
 * position, as they were when sampled; α · KL(stored ‖ π), with the rest of the vocabulary as one outcome (the paper takes
 * the squared distance of logits), plus β · NLL of those with reward 1. Sequences of the current experience are kept out
 * of the draw: they are what the policy is to move away from.
 */
import type { Rng } from "../base/rng.ts";
import type { Rollout } from "../rollout/types.ts";
import { type ContinualMethod, PLAIN, type Plan, type StoredSequence, type UpdateContext } from "./method.ts";
import { arrayOf, textOf } from "./packed-array.ts";

export interface DerPpConfig {
  readonly der_alpha: number;
  readonly der_beta: number;
  /** Sequences in the reservoir. */
  readonly der_buffer_size: number;
  /** Sequences drawn in a step, as a share of its rollouts. */
  readonly replay_ratio: number;
}

const KEPT_TOKENS = 64;
const REWARD_MIN = 1 - 1e-6;

interface Entry extends StoredSequence {
  readonly task_idx: number;
  readonly reward: number;
}

export function derPp(config: DerPpConfig): ContinualMethod {
  let reservoir: Entry[] = [];
  let seen = 0;

  /** Reservoir sampling (Vitter 1985): each of the sequences seen so far is kept with equal chance. */
  function* remember({ groups, experience, rng }: UpdateContext): Plan {
    const places = groups
      .flatMap((group) => group.rollouts)
      .filter(({ sampled_mask, termination }) => sampled_mask.includes(1) && termination !== "infrastructure_error")
      .map((rollout) => ({ rollout, at: placeOf(seen++, config.der_buffer_size, rng) }))
      .filter(({ at }) => at !== null) as { rollout: Rollout; at: number }[];
    if (places.length === 0) return;
    const sequences = places.map(({ rollout: { tokens, sampled_mask } }) => ({ tokens, sampled_mask }));
    const { distributions } = yield { op: "record_distributions", sequences, k: KEPT_TOKENS };
    const kept = [...reservoir];
    for (const [i, { rollout, at }] of places.entries()) {
      const { tokens, sampled_mask, reward } = rollout;
      const distribution = distributions[i] as StoredSequence["distribution"];
      kept[at] = { tokens, sampled_mask, reward, task_idx: experience.index, distribution };
    }
    reservoir = kept;
  }

  return {
    ...PLAIN,
    name: "der_pp",
    *beforeUpdate(context): Plan {
      const { experience, groups, rng } = context;
      const rollouts = groups.reduce((sum, group) => sum + group.rollouts.length, 0);
      const earlier = reservoir.filter(({ task_idx }) => task_idx < experience.index);
      const count = Math.max(1, Math.round(config.replay_ratio * rollouts));
      yield* remember({ ...context, rng: rng.fork("reservoir") });
      return yield* pulled(rng.fork("draw").shuffle(earlier).slice(0, count), config);
    },
    state: () => ({ seen, reservoir: reservoir.map(packed) }),
    restore: (saved) => {
      const state = saved as { readonly seen: number; readonly reservoir: readonly Packed[] };
      seen = state.seen;
      reservoir = state.reservoir.map(unpacked);
    },
  };
}

/** The n-th sequence (from 0) takes a free place, or the place of one drawn, or none. */
function placeOf(n: number, capacity: number, rng: Rng): number | null {
  if (n < capacity) return n;
  const at = rng.int(n + 1);
  return at < capacity ? at : null;
}

function* pulled(drawn: readonly Entry[], { der_alpha, der_beta }: DerPpConfig): Plan {
  if (drawn.length === 0 || der_alpha + der_beta === 0) return;
  let penalty = 0;
  const successes = drawn.filter(({ reward }) => reward >= REWARD_MIN);
  if (der_alpha > 0) {
    const loss = { kind: "distill_stored", sequences: drawn } as const;
    penalty += (yield { op: "backward", loss, strength: der_alpha }).value;
  }
  if (der_beta > 0 && successes.length > 0) {
    const loss = { kind: "nll", sequences: successes } as const;
    penalty += (yield { op: "backward", loss, strength: der_beta }).value;
  }
  return penalty;
}

type Packed = ReturnType<typeof packed>;

const packed = ({ tokens, sampled_mask, reward, task_idx, distribution: { k, ids_TK, logprobs_TK } }: Entry) => ({
  task_idx,
  reward,
  k,
  tokens: textOf(tokens),
  sampled_mask: textOf(sampled_mask),
  ids: textOf(ids_TK),
  logprobs: textOf(logprobs_TK),
});

const unpacked = ({ task_idx, reward, k, tokens, sampled_mask, ids, logprobs }: Packed): Entry => ({
  task_idx,
  reward,
  tokens: arrayOf(tokens, Uint32Array),
  sampled_mask: arrayOf(sampled_mask, Uint8Array),
  distribution: { k, ids_TK: arrayOf(ids, Uint32Array), logprobs_TK: arrayOf(logprobs, Float32Array) },
});
