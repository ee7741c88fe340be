/** The decoding of part `sample`, against llama.cpp with the same weights in f32 (its keys and values are f16). */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Bench, Figures, Part, Target } from "./measure.ts";
import { jsonLines, LLAMA, outputOf, SHARED } from "./peers.ts";
import { BATCHES, NEW, ours, PROMPT, workOf } from "./sample.ts";

/** With --threads 1. */
const TARGETS: Readonly<Record<string, Target>> = {
  [workOf(1)]: { bar: 0.8, goal: 1 },
  [workOf(8)]: { bar: 0.8, goal: 1.1 },
  [workOf(32)]: { bar: 0.8, goal: 1.3 },
};

export const llama: Part = {
  unit: "tokens",
  peerName: "llama.cpp",
  target: (work) => TARGETS[work] ?? null,
  ours,
  peer,
};

async function peer({ model, threads, reps }: Bench): Promise<Figures | null> {
  if (!existsSync(LLAMA)) return null;
  const script = join(SHARED, "peers", "bench_llamacpp.sh");
  const sizes = [PROMPT, NEW, BATCHES.join(","), reps].map(String);
  const lines = jsonLines(await outputOf(["bash", script, model, "f32", ...sizes], { THREADS: String(threads) }));
  const figureOf = (line: Record<string, unknown>) => ({
    wall: Number(line.decode_tok_s),
    cpu: Number(line.decode_tok_per_cpu_s_x_threads),
  });
  return new Map(
    BATCHES.map((batch) => [workOf(batch), lines.filter((line) => line.batch === batch).map(figureOf)] as const),
  );
}
