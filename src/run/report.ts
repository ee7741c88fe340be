/** What a run says to a person: one function a text, and the door through which texts go. */
import type { Experience } from "../curriculum/experience.ts";
import type { DomainSplit } from "../curriculum/split.ts";
import { baselineGroups, type DomainBaselines } from "../metrics/baselines.ts";
import type { EstimateMetric } from "../metrics/names.ts";
import { powerSentence } from "../metrics/power.ts";
import type { ScoresRow, TrainRow, TransferRow } from "../metrics/rows.ts";
import type { DomainScore } from "../metrics/score.ts";
import { fixed, interval, signed, table } from "../metrics/text.ts";
import { timeLines } from "./time-report.ts";

export interface Reporter {
  /** A line, or several. */
  line(text: string): void;
  /** `done` of `total`; the last call of a label has done = total. */
  progress(progress: { readonly label: string; readonly done: number; readonly total: number }): void;
}

/** Lines through `print`, no progress. */
export const plainReporter = (print: (text: string) => void): Reporter => ({
  line: (text) => print(`${text}\n`),
  progress: () => {},
});

/** Every line also goes to `log`. */
export const teeReporter = (reporter: Reporter, log: (text: string) => void): Reporter => ({
  line: (text) => {
    log(`${text}\n`);
    reporter.line(text);
  },
  progress: (progress) => reporter.progress(progress),
});

const RULE = "=".repeat(80);

export interface HeadFacts {
  readonly log_dir: string;
  readonly model: string;
  readonly parameters: number;
  readonly device: string;
  readonly dtype: string;
  readonly method: string;
  /** Domain → who plays its user. */
  readonly users: Readonly<Record<string, string>>;
  /** Who grades natural-language assertions; null: nobody. */
  readonly judge: string | null;
}

export function runHead(facts: HeadFacts): string {
  const users = Map.groupBy(Object.entries(facts.users), ([, identity]) => identity);
  const played = [...users].map(([identity, those]) => `${identity} (${those.map(([domain]) => domain).join(", ")})`);
  return [
    `Run directory: ${facts.log_dir}`,
    `Model: ${facts.model} (${count(facts.parameters)} parameters, ${facts.dtype} on ${facts.device})`,
    `Method: ${facts.method}`,
    `User simulator: ${played.join("; ")}`,
    ...(facts.judge === null ? [] : [`Judge: ${facts.judge}`]),
  ].join("\n");
}

export const experienceHead = ({ index, domain }: Experience): string =>
  `${RULE}\nTask ${index}: ${domain.toUpperCase()}\n${RULE}\n`;

export const trainingOn = (tasks: number, domain: string): string => `Training on ${tasks} tasks from ${domain} domain`;

export function stepLine(row: TrainRow): string {
  const names = { loss: "train/loss", reward_mean: "rollout/reward_mean", reward_max: "rollout/reward_max" } as const;
  const shown = Object.entries(names).map(([label, name]) => `${label}=${fixed(row[name])}`);
  return `Task ${row.task_idx}, Step ${row.step}: ${shown.join(", ")}`;
}

/** Earlier domains between steps. */
export const probeLine = (step: number, rewards: readonly (readonly [string, number])[]): string =>
  `Probe of earlier domains after step ${step}: ${rewards.map(([domain, reward]) => `${domain} ${reward.toFixed(4)}`).join(", ")}`;

/** null where every group varies. */
export function tiedLine(row: TrainRow): string | null {
  const tied = (row["rollout/groups_tied"] ?? 0) + (row["rollout/replay_groups_tied"] ?? 0);
  const groups = (row["rollout/groups"] ?? 0) + (row["rollout/replay_groups"] ?? 0);
  return tied === 0 ? null : `  ${tied} of ${groups} groups tied: no gradient from these`;
}

/** Rollouts that older weights made, other than remembered ones. */
export function staleLine({ "rollout/staleness_mean": updates }: TrainRow): string | null {
  return updates ? `  rollouts are ${updates.toFixed(1)} updates old: importance ratios correct for it` : null;
}

export const warning = (text: string): string => `Warning: ${text}`;

/** What the evaluation can show, before it costs anything. */
export const powerLines = (splits: readonly DomainSplit[], trials: number): string[] =>
  splits.map(({ domain, test }) => `Power: ${domain.name}, ${powerSentence({ tasks: test.length, trials })}`);

/** How many names of a long list are shown. */
const NAMES_MAX = 5;

/** A line for each domain that leaves tasks out; all names are in metrics.jsonl. */
export const excludedTasks = (splits: readonly DomainSplit[]): string[] =>
  splits.flatMap(({ domain, excluded: { train, test }, nl_assertions }) => {
    if (train.length + test.length === 0) return [];
    const why = nl_assertions === "drop" ? "nothing but a judge model's word is in their reward" : NEED_JUDGE;
    return `${domain.name}: ${leftOut(train, "training")} and ${leftOut(test, "evaluation")} are left out, since ${why}`;
  });

const NEED_JUDGE = "their reward needs a judge model (nl_assertions judge or drop keeps them)";

const leftOut = (ids: readonly string[], what: string): string =>
  `${ids.length} ${what} tasks${ids.length === 0 ? "" : ` (${shortList(ids)})`}`;

const shortList = (names: readonly string[]): string =>
  `${names.slice(0, NAMES_MAX).join(", ")}${names.length > NAMES_MAX ? ", …" : ""}`;

const SCORE_COLUMNS = [
  ...["domain", "reward", "95 % interval", "with a write", "without", "pass rate", "pass^1", "pass^k"],
  ...["tasks", "trials"],
];

export interface EvaluatedDomains {
  readonly scores: Readonly<Record<string, DomainScore>>;
  readonly baselines: Readonly<Record<string, DomainBaselines>>;
}

/** A row for each domain, and below it what agents that help nobody earn on the same tasks. */
export function evaluationTable({ scores, baselines }: EvaluatedDomains): string {
  const rows = Object.entries(scores).flatMap(([domain, score]) => [
    scoreCells(domain, score),
    ...baselineCells(baselines[domain]),
  ]);
  return [...table([SCORE_COLUMNS, ...rows]), ...contaminationNote(scores), ...variantNote(scores)].join("\n");
}

function scoreCells(domain: string, score: DomainScore): string[] {
  const last = Object.entries(score.pass_hat_k).at(-1);
  const { n_tasks, n_tasks_write } = score;
  return [
    score.contaminated ? `${domain} *` : domain,
    fixed(score.reward_mean),
    interval(score),
    among(score.reward_mean_write, n_tasks_write),
    among(score.reward_mean_noop, n_tasks - n_tasks_write),
    fixed(score.pass_rate),
    fixed(score.pass_hat_k["1"] ?? null),
    last === undefined ? "" : `${fixed(last[1])} (k=${last[0]})`,
    String(n_tasks),
    String(score.n_trials),
  ];
}

/** Baselines that earn the same share a row. */
function baselineCells(baselines: DomainBaselines | undefined): string[][] {
  return baselineGroups(baselines).map(({ agents, score }) => [
    `  ${agents.join(", ")}`,
    fixed(score.reward_mean),
    "",
    score.reward_mean_write === null ? "none" : fixed(score.reward_mean_write),
    score.reward_mean_noop === null ? "none" : fixed(score.reward_mean_noop),
  ]);
}

/** Said where it matters: a variant other than the usual one, or tasks that are left out. */
const variantNote = (scores: Readonly<Record<string, DomainScore>>): string[] =>
  Object.entries(scores)
    .filter(([, { nl_assertions, n_excluded }]) => nl_assertions !== "exclude" || n_excluded > 0)
    .map(
      ([domain, { nl_assertions, n_excluded }]) =>
        `  ${domain}: nl_assertions ${nl_assertions}, ${n_excluded} tasks left out`,
    );

export interface SummaryFacts {
  readonly scores: readonly ScoresRow[];
  readonly transfer: TransferRow | null;
  /** Phase → milliseconds of this session; `rollout/decode` is a part of `rollout`. */
  readonly phases: ReadonlyMap<string, number>;
  /** What paid models were asked and have cost. */
  readonly spending: readonly string[];
  readonly files: readonly string[];
}

export function closingSummary({ scores, transfer, phases, spending, files }: SummaryFacts): string {
  return [
    RULE,
    "Score matrix: mean reward of each domain's evaluation tasks [95 % interval]",
    ...scoreMatrixTable(scores),
    ...contaminationNote(scores.at(-1)?.scores ?? {}),
    "",
    ...transferLines(transfer),
    ...timeLines(phases),
    ...spending,
    "Files:",
    ...files.map((file) => `  ${file}`),
  ].join("\n");
}

function scoreMatrixTable(rows: readonly ScoresRow[]): string[] {
  const domains = Object.keys(rows.at(-1)?.scores ?? {});
  const body = rows.map(({ task_idx, domain, scores }) => [
    domain === null ? "before training" : `after task ${task_idx} (${domain})`,
    ...domains.map((column) => {
      const score = scores[column];
      return score === undefined ? "" : `${fixed(score.reward_mean)} ${interval(score)}`;
    }),
  ]);
  const marked = domains.map((column) => (rows.at(-1)?.scores[column]?.contaminated ? `${column} *` : column));
  return table([["", ...marked], ...body]);
}

function transferLines(row: TransferRow | null): string[] {
  if (row === null) return [];
  const shown = (label: string, name: EstimateMetric, text = signed) => {
    const [value, low, high] = [row[name], row[`${name}_low`], row[`${name}_high`]];
    return `${label}: ${text(value)}${value === null ? "" : ` [${text(low)}, ${text(high)}]`}`;
  };
  const bwt = row["cl/bwt"] === null ? "BWT: none (one domain)" : shown("BWT", "cl/bwt");
  return [
    `${bwt}, ${shown("FWT", "cl/fwt")}, ${shown("forgetting", "cl/forgetting")}`,
    `${shown("ACC", "cl/acc", fixed)}, ${shown("learning accuracy", "cl/learning_accuracy", fixed)}`,
  ];
}

const contaminationNote = (scores: Readonly<Record<string, DomainScore>>): string[] =>
  Object.values(scores).some(({ contaminated }) => contaminated)
    ? [`  * contaminated: evaluated on tasks that are trained on (${contaminatedDomains(scores).join(", ")})`]
    : [];

const contaminatedDomains = (scores: Readonly<Record<string, DomainScore>>): string[] =>
  Object.entries(scores).flatMap(([domain, score]) => (score.contaminated ? [domain] : []));

/** `0.4000 (13)`: a mean and over how many tasks. */
const among = (mean: number | null, tasks: number): string => (mean === null ? "none" : `${fixed(mean)} (${tasks})`);
const count = (value: number): string => value.toLocaleString("en-US");
