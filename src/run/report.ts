/** What a run says to a person: one function a text, and the door through which texts go. */
import type { Experience } from "../curriculum/experience.ts";
import type { ScoresRow, TrainRow, TransferRow } from "../metrics/rows.ts";
import type { DomainScore } from "../metrics/score.ts";

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
}

export function runHead(facts: HeadFacts): string {
  const users = Map.groupBy(Object.entries(facts.users), ([, identity]) => identity);
  const played = [...users].map(([identity, those]) => `${identity} (${those.map(([domain]) => domain).join(", ")})`);
  return [
    `Run directory: ${facts.log_dir}`,
    `Model: ${facts.model} (${count(facts.parameters)} parameters, ${facts.dtype} on ${facts.device})`,
    `Method: ${facts.method}`,
    `User simulator: ${played.join("; ")}`,
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

/** null where every group varies. */
export function tiedLine(row: TrainRow): string | null {
  const tied = (row["rollout/groups_tied"] ?? 0) + (row["rollout/replay_groups_tied"] ?? 0);
  const groups = (row["rollout/groups"] ?? 0) + (row["rollout/replay_groups"] ?? 0);
  return tied === 0 ? null : `  ${tied} of ${groups} groups tied: no gradient from these`;
}

export const warning = (text: string): string => `Warning: ${text}`;

const SCORE_COLUMNS = ["domain", "reward", "95 % interval", "pass rate", "pass^1", "pass^k", "tasks", "trials"];

export function evaluationTable(scores: Readonly<Record<string, DomainScore>>): string {
  const rows = Object.entries(scores).map(([domain, score]) => {
    const last = Object.entries(score.pass_hat_k).at(-1);
    return [
      score.contaminated ? `${domain} *` : domain,
      fixed(score.reward_mean),
      interval(score),
      fixed(score.pass_rate),
      fixed(score.pass_hat_k["1"] ?? null),
      last === undefined ? "" : `${fixed(last[1])} (k=${last[0]})`,
      String(score.n_tasks),
      String(score.n_trials),
    ];
  });
  return [...table([SCORE_COLUMNS, ...rows]), ...contaminationNote(scores)].join("\n");
}

export interface SummaryFacts {
  readonly scores: readonly ScoresRow[];
  readonly transfer: TransferRow | null;
  /** Phase → milliseconds of this session. */
  readonly phases: ReadonlyMap<string, number>;
  readonly files: readonly string[];
}

export function closingSummary({ scores, transfer, phases, files }: SummaryFacts): string {
  return [
    RULE,
    "Score matrix: mean reward of each domain's evaluation tasks [95 % interval]",
    ...scoreMatrixTable(scores),
    ...contaminationNote(scores.at(-1)?.scores ?? {}),
    "",
    ...transferLines(transfer),
    `Time: ${[...phases].map(([phase, ms]) => `${phase} ${(ms / 1000).toFixed(1)} s`).join(", ")}`,
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
  const bwt =
    row["cl/bwt"] === null
      ? "BWT: none (one domain)"
      : `BWT: ${signed(row["cl/bwt"])} [${signed(row["cl/bwt_low"])}, ${signed(row["cl/bwt_high"])}]`;
  return [
    `${bwt}, FWT: ${signed(row["cl/fwt"])}, forgetting: ${signed(row["cl/forgetting"])}, ACC: ${fixed(row["cl/acc"])}`,
  ];
}

const contaminationNote = (scores: Readonly<Record<string, DomainScore>>): string[] =>
  Object.values(scores).some(({ contaminated }) => contaminated)
    ? [`  * contaminated: evaluated on tasks that are trained on (${contaminatedDomains(scores).join(", ")})`]
    : [];

const contaminatedDomains = (scores: Readonly<Record<string, DomainScore>>): string[] =>
  Object.entries(scores).flatMap(([domain, score]) => (score.contaminated ? [domain] : []));

/** Columns as wide as their widest cell, two spaces apart. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? "").length)));
  return rows.map((row) => `  ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  ")}`.trimEnd());
}

const fixed = (value: number | null): string => (value === null ? "n/a" : value.toFixed(4));
const signed = (value: number | null): string =>
  value === null ? "n/a" : `${value < 0 ? "" : "+"}${value.toFixed(4)}`;
const interval = ({ low, high }: DomainScore): string => `[${low.toFixed(2)}, ${high.toFixed(2)}]`;
const count = (value: number): string => value.toLocaleString("en-US");
