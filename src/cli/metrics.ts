/** `grpo-cl metrics …`: what runs came to, from their directories. No model is needed. */
import { type ArgsDef, defineCommand } from "citty";
import { writeFileAtomic } from "../base/atomic.ts";
import { UserError } from "../base/errors.ts";
import { areComparable } from "../metrics/comparable.ts";
import { compareRuns, isReference } from "../metrics/compare.ts";
import { comparisonSvg } from "../metrics/plot/comparison.ts";
import { learningCurvesSvg } from "../metrics/plot/learning-curves.ts";
import { pictureBytes } from "../metrics/plot/picture.ts";
import { recomputed } from "../metrics/recompute.ts";
import { type RunRecord, readRun } from "../metrics/record.ts";
import { summarise } from "../metrics/summary.ts";
import { comparisonText, summaryText } from "../metrics/tables.ts";
import { parseOwnFlags } from "./arguments.ts";
import type { Host } from "./host.ts";

const RUNS = {
  run: { type: "positional", description: "Run directories.", required: false },
  from_rollouts: {
    type: "boolean",
    description: "Score the stored conversations again instead of reading the scores in metrics.jsonl.",
  },
} satisfies ArgsDef;
const JSON_FLAG = { json: { type: "boolean", description: "Print JSON." } } satisfies ArgsDef;
const OUT = {
  out: { type: "string", description: "Picture to write, .png or .svg (short: -o).", valueHint: "FILE" },
} satisfies ArgsDef;

export const metricsCommand = (host: Host) =>
  defineCommand({
    meta: { name: "metrics", description: "Summarise, plot and compare runs." },
    subCommands: { summary: summaryCommand(host), plot: plotCommand(host), compare: compareCommand(host) },
  });

const summaryCommand = ({ print }: Host) =>
  defineCommand({
    meta: {
      name: "summary",
      description:
        "Score matrix, pass^k and transfer metrics of runs, with intervals. Runs on one domain, or joint ones, among them serve intransigence.",
    },
    args: { ...RUNS, ...JSON_FLAG },
    run: async ({ rawArgs }) => {
      const { records, own } = await runsOf("summary", rawArgs, { ...RUNS, ...JSON_FLAG });
      const summaries = records.map((record) => summarise(record, referencesOf(record, records)));
      print(own.json === true ? `${JSON.stringify(summaries)}\n` : `${summaries.map(summaryText).join("\n\n")}\n`);
    },
  });

const plotCommand = ({ print }: Host) =>
  defineCommand({
    meta: { name: "plot", description: "Learning curves of a run: loss, training reward, evaluation, score matrix." },
    args: { ...RUNS, ...OUT },
    run: async ({ rawArgs }) => {
      const { records, own } = await runsOf("plot", rawArgs, { ...RUNS, ...OUT });
      const [record, more] = records;
      if (record === undefined || more !== undefined)
        throw new UserError("grpo-cl metrics plot", "takes one run; metrics compare overlays several");
      const file = typeof own.out === "string" ? own.out : "learning_curves.png";
      await writePicture(file, learningCurvesSvg(record));
      print(`${file}\n`);
    },
  });

const compareCommand = ({ print }: Host) =>
  defineCommand({
    meta: {
      name: "compare",
      description:
        "Runs side by side: seeds of one method are one row, with intervals over tasks, the spread over seeds and paired differences.",
    },
    args: { ...RUNS, ...OUT, ...JSON_FLAG },
    run: async ({ rawArgs }) => {
      const { records, own } = await runsOf("compare", rawArgs, { ...RUNS, ...OUT, ...JSON_FLAG });
      const comparison = compareRuns(records);
      if (typeof own.out === "string") await writePicture(own.out, comparisonSvg(records, comparison));
      print(own.json === true ? `${JSON.stringify(comparison)}\n` : `${comparisonText(comparison)}\n`);
    },
  });

/** What says how much each domain of the run can reach. */
const referencesOf = (record: RunRecord, records: readonly RunRecord[]): RunRecord[] =>
  isReference(record) ? [] : records.filter((other) => isReference(other) && areComparable(record, other));

async function runsOf(command: string, rawArgs: readonly string[], args: ArgsDef) {
  const words = rawArgs.map((word) => (word === "-o" ? "--out" : word));
  const first = words.findIndex((word) => word.startsWith("--"));
  const paths = first === -1 ? words : words.slice(0, first);
  const own = parseOwnFlags(first === -1 ? [] : words.slice(first), args);
  if (paths.length === 0) throw new UserError(`grpo-cl metrics ${command}`, "needs a run directory");
  const read = paths.map(readRun);
  const records: readonly RunRecord[] = own.from_rollouts === true ? await Promise.all(read.map(recomputed)) : read;
  return { records, own };
}

async function writePicture(file: string, svg: string): Promise<void> {
  writeFileAtomic(file, await pictureBytes(file, svg));
}
