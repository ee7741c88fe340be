/**
 * A rollout as the run keeps it: in memory, in `rollouts/` and in a checkpoint's trajectories.json. The text is JSON in
 * which tau2's ints and floats stay apart (`2` and `2.0` in the arguments of a call).
 */
import {
  dumps,
  type ExactObject,
  type ExactValue,
  entriesOf,
  exactOf,
  isArray,
  isObject,
  objectOf,
  parseExact,
  plainOf,
} from "../base/exact.ts";
import type { Rollout } from "../rollout/types.ts";

export interface Trajectory extends Rollout {
  /** The experience that made it (the seed's name), from 0. */
  readonly task_idx: number;
  /** Step within the experience. */
  readonly step: number;
  /** Made by replay, for a domain other than the experience's. */
  readonly replayed: boolean;
}

export interface TrajectoryTextOptions {
  /** Log-probabilities are half of the text; the memory needs them, a log of rollouts may not. */
  readonly with_logprobs: boolean;
}

/**
 * One line. `sampled` holds the runs [from, to) of `tokens` that the policy sampled, `logprobs` one number per sampled
 * token, in order.
 */
export function trajectoryText(trajectory: Trajectory, { with_logprobs }: TrajectoryTextOptions): string {
  const { tokens, sampled_mask, logprobs, messages, reward_info, ...facts } = trajectory;
  const runs = runsOf(sampled_mask);
  const recorded = runs.flatMap(([from, to]) => Array.from(logprobs.subarray(from, to), shortest));
  return dumps({
    ...(exactOf(facts) as ExactObject),
    tokens: Array.from(tokens),
    sampled: runs,
    ...(with_logprobs ? { logprobs: recorded } : {}),
    messages: messages as unknown as ExactValue,
    reward_info: reward_info as unknown as ExactValue,
  });
}

/** The trajectory of `trajectoryText`; log-probabilities that were left out are NaN, so that nothing trains on them. */
export function parseTrajectory(text: string): Trajectory {
  return trajectoryOf(parseExact(text));
}

export function trajectoryOf(value: ExactValue): Trajectory {
  if (!isObject(value)) throw new Error("a trajectory must be an object");
  const { tokens, sampled, logprobs, ...facts } = plainExceptArguments(value) as Record<string, unknown> & Stored;
  const sampled_mask = new Uint8Array(tokens.length);
  const values = new Float32Array(tokens.length);
  let next = 0;
  for (const [from, to] of sampled) {
    sampled_mask.fill(1, from, to);
    for (let t = from; t < to; t++) values[t] = logprobs?.[next++] ?? Number.NaN;
  }
  return { ...facts, tokens: Uint32Array.from(tokens), sampled_mask, logprobs: values } as unknown as Trajectory;
}

interface Stored {
  readonly tokens: readonly number[];
  readonly sampled: readonly (readonly [number, number])[];
  readonly logprobs?: readonly number[];
}

function runsOf(mask: Uint8Array): [number, number][] {
  const runs: [number, number][] = [];
  for (let from = mask.indexOf(1); from !== -1; ) {
    const end = mask.indexOf(0, from);
    const to = end === -1 ? mask.length : end;
    runs.push([from, to]);
    from = mask.indexOf(1, to);
  }
  return runs;
}

/** Nine digits tell any two float32 apart. */
const shortest = (value: number): number => Number(value.toPrecision(9));

/** The arguments of calls, and what the evaluator noted, are tau2's exact values; everything else is plain. */
const EXACT_FIELDS = new Set(["arguments", "info"]);

function plainExceptArguments(value: ExactValue): unknown {
  if (isArray(value)) return value.map(plainExceptArguments);
  if (!isObject(value)) return plainOf(value);
  return objectOf(
    entriesOf(value).map(([key, item]) => [
      key,
      EXACT_FIELDS.has(key) ? item : (plainExceptArguments(item) as ExactValue),
    ]),
  );
}
