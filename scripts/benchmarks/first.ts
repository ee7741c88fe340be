/** From the start of the program to the end of its first GRPO step, and the most memory that it held: each in a process of its own. */
import { readFileSync } from "node:fs";
import { Rng } from "../../src/base/rng.ts";
import type { Bench, Figures, Part, Target } from "./measure.ts";
import { openPolicy } from "./model.ts";
import { grpoStep, PLAIN, trlLines } from "./step.ts";

const TIME = "start to the end of the first GRPO step";
const MEMORY = "peak memory of two GRPO steps, 1/GiB";
const TIMEOUT_MS = 10 * 60_000;

/** By the work, and the model that it is asked of. Memory as a share of TRL's: at most 0.3, better 0.15. */
const TARGETS: Readonly<Record<string, Readonly<Record<string, Target>>>> = {
  [TIME]: { "tiny-qwen2": { bar: 8, goal: 15 } },
  [MEMORY]: { small: { bar: 1 / 0.3, goal: 1 / 0.15 } },
};

export const first: Part = {
  unit: "1",
  peerName: "TRL GRPOTrainer",
  target: (work, model) => TARGETS[work]?.[model] ?? null,
  ours,
  peer,
};

async function ours(bench: Bench): Promise<Figures> {
  const began = performance.now();
  const child = Bun.spawn([process.execPath, import.meta.path, JSON.stringify(bench)], {
    stdout: "pipe",
    stderr: "inherit",
    timeout: TIMEOUT_MS,
  });
  const [output, code] = await Promise.all([new Response(child.stdout).text(), child.exited]);
  if (code !== 0) throw new Error(`a first step ended with ${code}`);
  const { at, cpuS, peakMib } = JSON.parse(output) as { at: number; cpuS: number; peakMib: number };
  const wallS = (at - began - performance.timeOrigin) / 1000;
  return figures({ wallS, cpuS: cpuS / bench.threads, peakMib });
}

async function peer(bench: Bench): Promise<Figures | null> {
  const lines = await trlLines(bench, PLAIN, 2);
  const [line] = lines ?? [];
  if (line === undefined) return null;
  const wallS = Number(line.to_first_step_s);
  return figures({ wallS, cpuS: wallS, peakMib: Number(line.peak_rss_mib) });
}

function figures({ wallS, cpuS, peakMib }: { wallS: number; cpuS: number; peakMib: number }): Figures {
  const memory = 1024 / peakMib;
  return new Map([
    [TIME, [{ wall: 1 / wallS, cpu: 1 / cpuS }]],
    [MEMORY, [{ wall: memory, cpu: memory }]],
  ]);
}

/** In the process of its own: two steps, since the moments are first touched in the first. */
async function steps(bench: Bench): Promise<void> {
  using policy = await openPolicy(bench);
  await policy.weightOp({ op: "snapshot", name: "base" });
  const rng = Rng.from(0);
  await grpoStep(policy, rng);
  const at = performance.timeOrigin + performance.now();
  const { user, system } = process.cpuUsage();
  await grpoStep(policy, rng);
  const peak = /VmHWM:\s+(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
  console.log(JSON.stringify({ at, cpuS: (user + system) / 1e6, peakMib: Number(peak) / 1024 }));
}

if (import.meta.main) await steps(JSON.parse(process.argv[2] ?? "{}") as Bench);
