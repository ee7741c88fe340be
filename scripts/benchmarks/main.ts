/** scripts/bench: each part prints our figure and, where the peers are set up, the ratio against them in the same run. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type Bench, type Comparison, compared, type Part } from "./measure.ts";
import { peerModel, SHARED } from "./peers.ts";

/** Loaded when asked for: `env` needs no core, and the others no tau2. */
const PARTS: Readonly<Record<string, () => Promise<Part>>> = {
  env: async () => (await import("./env.ts")).env,
  sample: async () => (await import("./sample.ts")).sample,
  llama: async () => (await import("./llama.ts")).llama,
  conversations: async () => (await import("./conversations.ts")).conversations,
  train: async () => (await import("./train.ts")).train,
  flops: async () => (await import("./flops.ts")).flops,
  step: async () => (await import("./step.ts")).step,
  shared: async () => (await import("./step.ts")).shared,
  first: async () => (await import("./first.ts")).first,
};
const USAGE = `scripts/bench [PART …] [--json] [--threads N] [--reps N] [--model DIR] [--domains a,b]

PART: ${Object.keys(PARTS).join(", ")}; all without one. --json prints a line each: {work, ours, peer, ratio, bar, goal};
a ratio above 1 means that we are better. The peers are looked for in $PEERS_HOME (../shared/peers/README.md); without them
only our figures are printed. On a machine that does other work use --threads 1 and read the lines in CPU seconds.`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    help: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
    threads: { type: "string", default: "2" },
    reps: { type: "string", default: "3" },
    model: { type: "string" },
    domains: { type: "string", default: "airline,retail,telecom,mock" },
  },
});
async function main(): Promise<void> {
  const bench: Bench = {
    threads: Number(values.threads),
    reps: Number(values.reps),
    model: values.model ?? defaultModel(),
    dataDirectory: process.env.TAU2_DATA_DIR ?? join(SHARED, "tau2", "data"),
    domains: values.domains.split(","),
  };
  for (const name of positionals.length > 0 ? positionals : Object.keys(PARTS)) {
    const part = await PARTS[name]?.();
    if (part === undefined) return refuse(`there is no part "${name}"`);
    say(`${name}: ours against ${part.peerName}, ${bench.threads} threads, load ${load()}`);
    for (const comparison of await compared(part, bench)) print(comparison);
  }
}

function refuse(problem: string): void {
  console.error(`scripts/bench: ${problem}\n\n${USAGE}`);
  process.exitCode = 2;
}

/** The peers' model of 27M parameters, else the small fixture. */
function defaultModel(): string {
  const small = peerModel("small");
  return existsSync(small) ? small : join(SHARED, "fixtures", "core", "models", "tiny-qwen2");
}

const load = () => readFileSync("/proc/loadavg", "utf8").split(" ").slice(0, 3).join(" ");

/** Besides the data, which alone goes to standard output with --json. */
function say(text: string): void {
  if (values.json) console.error(text);
  else console.log(`\n${text}`);
}

function print(comparison: Comparison): void {
  console.log(values.json ? JSON.stringify(comparison) : row(comparison));
}

function row(comparison: Comparison): string {
  const { work, ours, peer, ratio, bar, goal } = comparison;
  const targets = `bar ${digits(bar)}, goal ${digits(goal)}`;
  const against = ratio === null ? "no peer" : `peer ${digits(peer ?? 0)}  ratio ${ratio.toFixed(2)} (${targets})`;
  return `  ${work.padEnd(78)} ${digits(ours).padStart(10)}  ${against}`;
}

const digits = (value: number) => Number(value.toPrecision(4)).toString();

if (values.help) console.log(USAGE);
else await main();
