/**
 * Replay whose ratio follows what is being forgotten. Every few steps it probes the earlier domains on training tasks; the
 * largest drop from the best probe so far moves the ratio, and domains are drawn in proportion to their drops.
 */
import type { Rng } from "../base/rng.ts";
import type { RememberedTask } from "./memory.ts";
import { type BatchContext, type ContinualMethod, type MethodOp, PLAIN, type Plan } from "./method.ts";
import { type ReplayConfig, replayCount, withReplayed } from "./replay.ts";

export interface AdaptiveReplayConfig extends ReplayConfig {
  /** Steps between probes. */
  readonly probe_interval: number;
}

export const ADAPTIVE_RATIO = { least: 0.1, most: 0.5 } as const;
const PROBE = { tasks_max: 16, trials: 2 } as const;
const [LARGE_DROP, SMALL_DROP] = [0.1, 0.02];
const [UP, DOWN] = [0.1, 0.05];

export function adaptiveReplay(config: AdaptiveReplayConfig): ContinualMethod {
  let state: { ratio: number; best: Record<string, number>; drop: Record<string, number> } = {
    ratio: config.replay_ratio,
    best: {},
    drop: {},
  };

  /** The best probe of each domain, and how far below it the domain is now. */
  function* measured(
    domains: readonly string[],
  ): Generator<MethodOp, void, { rewards: Readonly<Record<string, number>> }> {
    const { rewards } = yield { op: "probe", domains, tasks: "train", ...PROBE };
    const best = { ...state.best };
    const drop = { ...state.drop };
    for (const [domain, reward] of Object.entries(rewards)) {
      drop[domain] = (best[domain] ?? reward) - reward;
      best[domain] = Math.max(best[domain] ?? reward, reward);
    }
    state = { ...state, best, drop };
  }

  return {
    ...PLAIN,
    name: "adaptive_replay",
    augmentBatch: (context) => withReplayed(context, drawnByDrop(context, state), config),
    *afterStep({ experience: { earlier, steps }, step }): Plan {
      if (earlier.length === 0 || (step + 1) % config.probe_interval !== 0 || step + 1 === steps) return;
      yield* measured(earlier);
      state = {
        ...state,
        ratio: adapted(
          state.ratio,
          earlier.map((domain) => state.drop[domain] ?? 0),
        ),
      };
    },
    *afterExperience({ experience: { earlier, domain } }): Plan {
      yield* measured([...earlier, domain]);
    },
    state: () => state,
    restore: (saved) => {
      state = saved as typeof state;
    },
  };
}

export function adapted(ratio: number, drops: readonly number[]): number {
  const largest = Math.max(...drops);
  const change = largest > LARGE_DROP ? UP : largest < SMALL_DROP ? -DOWN : 0;
  return Math.min(ADAPTIVE_RATIO.most, Math.max(ADAPTIVE_RATIO.least, ratio + change));
}

/** A domain in proportion to max(drop, 0.02), then one of its remembered tasks that is not drawn yet. */
function drawnByDrop(
  { tasks, experience, step, memory, rng }: BatchContext,
  { ratio, drop }: { readonly ratio: number; readonly drop: Readonly<Record<string, number>> },
): RememberedTask[] {
  const piles = experience.earlier.map((domain) => ({
    left: rng.shuffle(memory.tasksOf([domain])),
    weight: Math.max(drop[domain] ?? 0, SMALL_DROP),
  }));
  const wanted = replayCount({ step, ratio, batch: tasks.length });
  return Array.from({ length: wanted }, () => drawnOne(piles, rng)).flatMap((task) => task ?? []);
}

function drawnOne(piles: readonly { left: RememberedTask[]; weight: number }[], rng: Rng): RememberedTask | undefined {
  const full = piles.filter(({ left }) => left.length > 0);
  if (full.length === 0) return undefined;
  return full[rng.pickWeighted(full.map(({ weight }) => weight))]?.left.pop();
}
