/**
 * The built-in benchmark of continual-learning methods: every method with every seed, one run after the other, each in a
 * directory of its own. Methods that do in the first experience what sequential does compute it once: the others go on
 * from there, and the digest of weights, moments and vectors is checked.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { methodOf } from "../cl/registry.ts";
import type { RunConfig } from "../config/schema.ts";
import { SECTIONS } from "../config/schema.ts";
import { save } from "./acts.ts";
import type { Run } from "./run.ts";
import type { Edge, Session } from "./session.ts";
import { train } from "./train.ts";

type Method = RunConfig["cl_algorithm"];

/** In the first experience these change no weight, measure nothing and remember nothing but rollouts. */
export const SEQUENTIAL_AT_FIRST: readonly Method[] = [
  "sequential",
  "replay",
  "adaptive_replay",
  "ewc",
  "online_ewc",
  "mas",
  "lwf",
  "a_gem",
];

/** Adapters want a larger learning rate than whole weights. */
const ADAPTER: Partial<RunConfig> = { lora_r: 16, lora_alpha: 32, learning_rate: 1e-3 };

/** What a method is run with beside the config: chosen on other seeds than those that are reported. */
export const BENCH_SETTINGS: Readonly<Partial<Record<Method, Partial<RunConfig>>>> = {
  joint: { learning_rate: 2e-4, kl_coef: 0.02 },
  replay: { replay_ratio: 0.5 },
  adaptive_replay: { replay_ratio: 0.4, probe_interval: 8 },
  a_gem: { replay_ratio: 0.5 },
  ewc_pp: { ewc_pp_interval: 8 },
  lwf: { lwf_alpha: 0.05 },
  o_lora: ADAPTER,
  progressive: ADAPTER,
  dynamic_expansion: ADAPTER,
};

/** A first experience that other methods may go on from. */
interface Shared {
  /** A checkpoint: all steps done, the experience's end not. */
  readonly checkpoint: string;
  readonly digest: string;
}

export interface BenchOptions {
  /** In the order in which they run; each has its method, seed and an unused log_dir. */
  readonly configs: readonly RunConfig[];
  readonly edge: Edge;
  /** Opens a policy for the run; `resume_from` of the config says from where. */
  readonly open: (config: RunConfig) => Promise<Session>;
  /** After each run. */
  readonly onRun: (config: RunConfig, run: { readonly ms: number; readonly isShared: boolean }) => void;
}

/** Gives the run directories. */
export async function benchMethods({ configs, edge, open, onRun }: BenchOptions): Promise<string[]> {
  const shared = new Map<string, Shared>();
  for (const config of configs) {
    const began = edge.now();
    const key = SEQUENTIAL_AT_FIRST.includes(config.cl_algorithm) ? firstExperienceOf(config) : null;
    const known = key === null ? undefined : shared.get(key);
    const made = await benchRun(config, { open, known, keep: key !== null });
    if (key !== null && made !== null) shared.set(key, made);
    onRun(config, { ms: edge.now() - began, isShared: known !== undefined });
  }
  return configs.map(({ log_dir }) => log_dir);
}

async function benchRun(
  config: RunConfig,
  {
    open,
    known,
    keep,
  }: { readonly open: BenchOptions["open"]; readonly known: Shared | undefined; readonly keep: boolean },
): Promise<Shared | null> {
  const resumed = known === undefined ? config : { ...config, resume_from: known.checkpoint };
  const session = asMethod(await open(resumed), config);
  using _core = session.policy;
  let made: Shared | null = null;
  await train(config, session, {
    onTrained: async (run, { index }) => {
      if (index > 0 || !keep) return;
      const digest = await run.policy.digest();
      if (known === undefined) made = { checkpoint: await kept(run), digest };
      else if (digest !== known.digest)
        throw new Error(
          `bench: ${config.cl_algorithm} stands elsewhere after the first experience than the run it shares`,
        );
    },
  });
  return made;
}

async function kept(run: Run): Promise<string> {
  await save(run, "latest");
  return run.directory.checkpoint("latest");
}

/** The checkpoint is another method's, which has no state of its own yet. */
function asMethod(session: Session, config: RunConfig): Session {
  const { resume } = session;
  if (resume === null) return session;
  const method = methodOf(config);
  const state = { ...resume.state, method: { name: method.name, state: method.state() } };
  return { ...session, method, resume: { ...resume, config, state } };
}

/** Everything that the first experience depends on. */
function firstExperienceOf(config: RunConfig): string {
  const free = ["log_dir", "resume_from", ...Object.keys(SECTIONS.cl)];
  return JSON.stringify(Object.entries(config).filter(([key]) => !free.includes(key)));
}

/** `runs/bench_cl`, else `runs/bench_cl-2`, … */
export function freeBenchDirectory(name: string): string {
  let free = name;
  for (let number = 2; existsSync(free); number++) free = `${name}-${number}`;
  return free;
}

export const runDirectory = (directory: string, method: Method, seed: number): string =>
  join(directory, `${method}-seed${seed}`);
