/** Decoding: greedy, 128 new tokens after prompts of 256, no stop token; the time of one token (prefill) is taken off. */
import { Rng } from "../../src/base/rng.ts";
import {
  type Bench,
  difference,
  type Figure,
  type Figures,
  type Part,
  rate,
  repeated,
  type Target,
  timed,
} from "./measure.ts";
import { openPolicy, randomTokens, sampleAll } from "./model.ts";
import { middle, peerLines } from "./peers.ts";

export const BATCHES = [1, 8, 32];
export const [PROMPT, NEW] = [256, 128];

export const workOf = (batch: unknown) => `decode, batch ${batch}`;

/** With --threads 1. */
const TARGETS: Readonly<Record<string, Target>> = {
  [workOf(1)]: { bar: 1.5, goal: 2 },
  [workOf(8)]: { bar: 1.3, goal: 1.6 },
  [workOf(32)]: { bar: 1.2, goal: 1.7 },
};

export const sample: Part = {
  unit: "tokens",
  peerName: "transformers generate()",
  target: (work) => TARGETS[work] ?? null,
  ours,
  peer,
};

export async function ours(bench: Bench): Promise<Figures> {
  using policy = await openPolicy(bench);
  const rng = Rng.from(0);
  const run = async (batch: number, newTokens: number) => {
    const prompts = Array.from({ length: batch }, () => randomTokens(rng, PROMPT)); // fresh ones: no cache of the last run
    return timed(() => sampleAll(policy, { prompts, newTokens, temperature: 0, seed: 0n }));
  };
  const figures = new Map<string, Figure[]>();
  for (const batch of BATCHES) {
    await run(batch, 4);
    const decode = async () => {
      const prefill = await run(batch, 1);
      return rate(batch * (NEW - 1), difference(await run(batch, NEW), prefill), bench.threads);
    };
    figures.set(workOf(batch), await repeated(bench.reps, decode));
  }
  return figures;
}

async function peer({ model, threads, reps }: Bench): Promise<Figures | null> {
  const lines = await peerLines("venv", "bench_generate.py", [
    model,
    "--threads",
    threads,
    "--reps",
    reps,
    "--batch",
    ...BATCHES,
    "--prompt-len",
    PROMPT,
    "--new",
    NEW,
  ]);
  if (lines === null) return null;
  return new Map(
    lines.map((line) => [
      workOf(line.batch),
      [{ wall: middle(line.decode_tok_s), cpu: middle(line.decode_tok_per_cpu_s_x_threads) }],
    ]),
  );
}
