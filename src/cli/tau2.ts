/** `grpo-cl tau2 replay PATH…`: recorded simulations through our environments and evaluators, compared with what was recorded. */
import { type ArgsDef, defineCommand } from "citty";
import { UserError } from "../base/errors.ts";
import { type Found, findRecordings } from "../run/recordings.ts";
import { type ReplayRow, replayRecordings } from "../run/replay-recordings.ts";
import { parseDomainFlags } from "./arguments.ts";
import { DATA_ARGS, DOMAIN_DIR_ARG } from "./data.ts";
import type { Host } from "./host.ts";

const ARGS = {
  path: { type: "positional", description: "Results files of tau2-bench, or directories of them.", required: false },
  tasks: {
    type: "string",
    description:
      "Score with today's tasks of the data directory (default), or with those in the recording: today or recorded.",
    valueHint: "NAME",
  },
  ...DATA_ARGS,
  ...DOMAIN_DIR_ARG,
} satisfies ArgsDef;

export const tau2Command = (host: Host) =>
  defineCommand({
    meta: { name: "tau2", description: "Check this program against tau2-bench's recorded simulations." },
    subCommands: { replay: replayCommand(host) },
  });

const replayCommand = ({ env, print, fail }: Host) =>
  defineCommand({
    meta: {
      name: "replay",
      description:
        "Replay recorded simulations and compare rewards and checks; exit code 1 when any differ. Judged statements keep their recorded verdicts.",
    },
    args: ARGS,
    run: async ({ rawArgs }) => {
      const first = rawArgs.findIndex((argument) => argument.startsWith("--"));
      const paths = first === -1 ? rawArgs : rawArgs.slice(0, first);
      const { own } = await parseDomainFlags(first === -1 ? [] : rawArgs.slice(first), ARGS);
      if (paths.length === 0) throw new UserError("grpo-cl tau2 replay", "needs a results file or a directory of them");
      const tau2_data_dir = typeof own.tau2_data_dir === "string" ? own.tau2_data_dir : env.TAU2_DATA_DIR || null;
      const found = findRecordings(paths);
      const rows = [...replayRecordings(found.recordings, { tau2_data_dir, tasks: tasksNamed(own.tasks) })];
      print(own.json === true ? jsonText(found, rows) : report(found, rows));
      if (rows.some(({ verdict }) => verdict !== "same")) fail(1);
    },
  });

function tasksNamed(name: string | boolean | undefined): "today" | "recorded" {
  if (name === undefined || name === "today") return "today";
  if (name === "recorded") return name;
  throw new UserError("--tasks", `expected today or recorded, got "${name}"`);
}

function jsonText({ recordings, passedOver }: Found, rows: readonly ReplayRow[]): string {
  const files = recordings.map(({ path, layout, domain, runs }) => ({
    path,
    layout,
    domain,
    simulations: runs.length,
  }));
  return `${JSON.stringify({ files, passed_over: passedOver, totals: totals(rows), runs: rows })}\n`;
}

function totals(rows: readonly ReplayRow[]) {
  const count = (wanted: (row: ReplayRow) => boolean) => rows.filter(wanted).length;
  const results = rows.reduce((sum, { tool_results }) => sum + tool_results, 0);
  return {
    simulations: rows.length,
    same: count(({ verdict }) => verdict === "same"),
    rewards_differ: count(isRewardDifferent),
    only_checks_differ: count((row) => row.verdict === "differs" && !isRewardDifferent(row)),
    not_replayed: count(({ verdict }) => verdict === "not_replayed"),
    tool_results: results,
    tool_results_differ: rows.reduce((sum, { tool_results_differ }) => sum + tool_results_differ.length, 0),
  };
}

const isRewardDifferent = ({ differs }: ReplayRow): boolean => differs.includes("reward");

function report({ recordings, passedOver }: Found, rows: readonly ReplayRow[]): string {
  const read = recordings.map(
    ({ path, layout, domain, runs }) =>
      `${path}: ${runs.length} simulations of ${domain} (${layout === "file" ? "one file" : "a file each"})`,
  );
  const skipped = passedOver.map((path) => `${path}: passed over, no results of tau2-bench`);
  const domains = [...Map.groupBy(rows, ({ domain }) => domain)];
  return `${[...read, ...skipped, "", ...table(rows), "", ...domains.map(([name, own]) => totalLine(name, own))].join("\n")}\n`;
}

const HEAD = ["domain", "task", "trial", "recorded", "ours", "differs", "notes"];
/** Telecom's task names are sentences. */
const CELL_MAX = 60;

function table(rows: readonly ReplayRow[]): string[] {
  const cells = [HEAD, ...rows.map(cellsOf)].map((row) => row.map(shortened));
  const widths = HEAD.map((_, column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)));
  return cells.map((row) =>
    row
      .map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0)))
      .join("  ")
      .trimEnd(),
  );
}

const shortened = (text: string): string => (text.length <= CELL_MAX ? text : `${text.slice(0, CELL_MAX - 1)}…`);

function cellsOf(row: ReplayRow): string[] {
  const { domain, task_id, trial, recorded, ours, differs, notes, tool_results_differ, verdict } = row;
  const first = verdict === "not_replayed" ? "not replayed" : (differs[0] ?? "");
  const more = differs.length > 1 ? ` and ${differs.length - 1} more` : "";
  const results =
    tool_results_differ.length === 0
      ? []
      : [
          `tools answer otherwise: ${tool_results_differ[0]}${tool_results_differ.length > 1 ? ` and ${tool_results_differ.length - 1} more` : ""}`,
        ];
  return [
    domain,
    task_id,
    String(trial ?? ""),
    fixed(recorded),
    fixed(ours),
    first + more,
    [...results, ...notes].join("; "),
  ];
}

const fixed = (reward: number | null): string => (reward === null ? "none" : reward.toFixed(2));

function totalLine(domain: string, rows: readonly ReplayRow[]): string {
  const { simulations, same, rewards_differ, only_checks_differ, not_replayed, tool_results, tool_results_differ } =
    totals(rows);
  return `${domain}: ${simulations} simulations, ${same} the same, ${rewards_differ} with another reward, ${only_checks_differ} with another check, ${not_replayed} not replayed; ${tool_results_differ} of ${tool_results} tool results read otherwise`;
}
