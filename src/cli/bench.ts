/** `grpo-cl bench cl`: compares the methods on the built-in domains. */
import { type ArgsDef, defineCommand } from "citty";
import { UserError } from "../base/errors.ts";
import { METHODS } from "../cl/registry.ts";
import { didYouMean } from "../config/nearest.ts";
import type { RunConfig } from "../config/schema.ts";
import { compareRuns } from "../metrics/compare.ts";
import { readRun } from "../metrics/record.ts";
import { comparisonText } from "../metrics/tables.ts";
import { BENCH_SETTINGS, benchMethods, freeBenchDirectory, runDirectory } from "../run/bench.ts";
import { openSession } from "../run/open-session.ts";
import { knownDomains } from "../tau2/domains/index.ts";
import { CONFIG_ARGS, parseRunArguments } from "./arguments.ts";
import { edgeOf } from "./console.ts";
import type { Host } from "./host.ts";

/** Seeds that chose no settings. */
const REPORTED_SEEDS = [11, 12, 13, 14, 15, 21, 22, 23, 24, 25];
const DEFAULT_SEEDS = "2";

const ARGS = {
  methods: {
    type: "string",
    description: "Methods, with commas between them. Default: all.",
    valueHint: "NAME,NAME…",
  },
  seeds: {
    type: "string",
    description: `How many seeds, or which ones, with commas. Default: ${DEFAULT_SEEDS}.`,
    valueHint: "N|SEED,SEED…",
  },
  json: { type: "boolean", description: "Print JSON." },
  ...CONFIG_ARGS,
} satisfies ArgsDef;

export const benchCommand = (host: Host) =>
  defineCommand({
    meta: { name: "bench", description: "Built-in benchmarks." },
    subCommands: { cl: clCommand(host) },
  });

const clCommand = (host: Host) =>
  defineCommand({
    meta: {
      name: "cl",
      description:
        "Run continual-learning methods on the built-in domains and compare them, with intervals. Takes the options of train; log_dir holds a directory for every run.",
    },
    args: ARGS,
    run: async ({ rawArgs }) => {
      const configs = await configsOf(host, rawArgs);
      const edge = { ...edgeOf({ ...host, print: host.note }), reporter: onlyProgress(host) };
      const { coreLibrary: library } = host.assets;
      const paths = await benchMethods({
        configs: configs.runs,
        edge,
        open: (config) => openSession(config, { edge, library, purpose: "train" }),
        onRun: ({ cl_algorithm, seed }, { ms, isShared }) =>
          host.note(
            `${cl_algorithm}, seed ${seed}: ${(ms / 1000).toFixed(1)} s${isShared ? " (first experience shared)" : ""}\n`,
          ),
      });
      const comparison = compareRuns(paths.map(readRun));
      host.print(
        configs.json
          ? `${JSON.stringify(comparison)}\n`
          : `${comparisonText(comparison)}\n\nRuns: ${configs.directory}\n`,
      );
    },
  });

/** Lines of single runs are in their run.log. */
const onlyProgress = (host: Host) => ({ ...edgeOf(host).reporter, line: () => {} });

async function configsOf(host: Host, rawArgs: readonly string[]) {
  const given = { command: "train", args: ARGS, knownDomains: knownDomains() } as const;
  const named = rawArgs.some((word) => /^--config(=|$)/.test(word)) ? rawArgs : ["--config", "quickstart", ...rawArgs];
  const parse = (flags: readonly string[]) => parseRunArguments(host, { ...given, rawArgs: flags });
  const { own } = await parse([...named, "--cl_algorithm", "sequential"]);
  const directory = freeBenchDirectory(logDirectory(rawArgs) ?? "runs/bench_cl");
  const runs: RunConfig[] = [];
  for (const seed of seedsOf(own.seeds)) {
    for (const method of methodsOf(own.methods)) {
      const settings = Object.entries(BENCH_SETTINGS[method] ?? {}).flatMap(([key, value]) => [
        `--${key}`,
        String(value),
      ]);
      const fixed = [
        "--cl_algorithm",
        method,
        "--seed",
        String(seed),
        "--log_dir",
        runDirectory(directory, method, seed),
      ];
      runs.push((await parse([...settings, ...named, ...fixed])).config);
    }
  }
  return { runs, directory, json: own.json === true };
}

function logDirectory(rawArgs: readonly string[]): string | undefined {
  const at = rawArgs.findIndex((word) => word.startsWith("--log_dir"));
  const [, inline] = rawArgs[at]?.split("=") ?? [];
  return at === -1 ? undefined : (inline ?? rawArgs[at + 1]);
}

type Method = RunConfig["cl_algorithm"];

function methodsOf(text: string | boolean | undefined): Method[] {
  const known = Object.keys(METHODS);
  if (text === undefined) return known as Method[];
  return String(text)
    .split(",")
    .filter((name) => name !== "")
    .map((name) => {
      if (known.includes(name)) return name as Method;
      throw new UserError(
        "--methods",
        `unknown method "${name}"${didYouMean(name, known)}; known are ${known.join(", ")}`,
      );
    });
}

/** A number alone says how many; `7,` is the seed 7. */
function seedsOf(text: string | boolean | undefined): number[] {
  const given = String(text ?? DEFAULT_SEEDS);
  const numbers = given.split(",").flatMap((word) => (word.trim() === "" ? [] : [Number(word)]));
  if (numbers.length === 0 || numbers.some((seed) => !Number.isSafeInteger(seed) || seed < 0))
    throw new UserError("--seeds", `expected a number of seeds, or seeds with commas between them, got "${given}"`);
  if (given.includes(",")) return [...new Set(numbers)];
  const [count] = numbers as [number];
  if (count >= 1 && count <= REPORTED_SEEDS.length) return REPORTED_SEEDS.slice(0, count);
  throw new UserError(
    "--seeds",
    `from 1 to ${REPORTED_SEEDS.length} seeds can be counted; more are named, with commas`,
  );
}
