/** The score matrix again, from the conversations that a run has stored: no model is needed, and metrics.jsonl is not believed. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import { parseTrajectory, type Trajectory } from "../cl/trajectory.ts";
import type { Group } from "../rollout/types.ts";
import { resampleStream } from "./bootstrap.ts";
import { trainedRows } from "./matrix.ts";
import type { RunRecord } from "./record.ts";
import { type EvalRow, type MetricsRow, type ScoresRow, scoresRowsOf } from "./rows.ts";
import { type DomainScore, type ScoreOptions, scoreOf, taskRewards } from "./score.ts";
import { transferMetrics } from "./transfer.ts";

/** The record with every evaluation made anew. */
export async function recomputed(record: RunRecord): Promise<RunRecord> {
  const files = evaluationFiles(record.path);
  if (!files.some(({ row }) => row === -1)) throw new UserError(record.path, "rollouts/ holds no evaluation");
  const cells: Cell[] = [];
  for (const file of files) cells.push(await cellOf(record, file));
  const scores = scoresRows(record, cells);
  const { eval_seed } = record.config;
  const rows = record.rows.map((row): MetricsRow => {
    switch (row.kind) {
      case "scores":
        return scores.find(({ task_idx }) => task_idx === row.task_idx) ?? missing(record, `row ${row.task_idx}`);
      case "eval":
        return { ...row, score: cellOfEval(record, cells, row).score };
      case "transfer": {
        const until = scores.filter(({ task_idx }) => task_idx <= row.task_idx);
        return { ...row, ...transferMetrics(trainedRows(until, record.method), eval_seed) };
      }
      default:
        return row;
    }
  });
  return { ...record, rows };
}

interface EvaluationFile {
  readonly path: string;
  readonly domain: string;
  /** Of the score matrix; null between steps. */
  readonly row: number | null;
  /** Counted over the whole run; null in a row of the matrix. */
  readonly step: number | null;
}

interface Cell extends EvaluationFile {
  readonly score: DomainScore;
  readonly rewards: ScoresRow["rewards"][string];
}

const NAME = /^eval_(base|task_(\d+)|(\d+))_(.+)\.jsonl\.zst$/;

function evaluationFiles(path: string): EvaluationFile[] {
  const directory = join(path, "rollouts");
  if (!existsSync(directory)) return [];
  return readdirSync(directory).flatMap((name) => {
    const [, label, row, step, domain] = NAME.exec(name) ?? [];
    if (domain === undefined) return [];
    return [
      {
        path: join(directory, name),
        domain,
        row: label === "base" ? -1 : row === undefined ? null : Number(row),
        step: step === undefined ? null : Number(step),
      },
    ];
  });
}

async function cellOf(record: RunRecord, file: EvaluationFile): Promise<Cell> {
  const groups = groupsOf(await readTrajectories(file.path));
  const { domain } = file;
  const facts = factsOf(record, file);
  const rng = resampleStream(record.config.eval_seed, domain);
  return { ...file, score: scoreOf(groups, { ...facts, rng }), rewards: taskRewards(groups) };
}

export async function readTrajectories(path: string): Promise<Trajectory[]> {
  const text = new TextDecoder().decode(await Bun.zstdDecompress(await Bun.file(path).bytes()));
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map(parseTrajectory);
}

/** Trials of a task, in the order in which they are stored. */
function groupsOf(trajectories: readonly Trajectory[]): Group[] {
  return [...Map.groupBy(trajectories, ({ task_id }) => task_id)].map(([task_id, rollouts]) => ({
    domain: (rollouts[0] as Trajectory).domain,
    task_id,
    replayed: false,
    rollouts,
  }));
}

/** What conversations do not tell: it is in the run's rows. */
function factsOf({ rows, config }: RunRecord, { domain, row }: EvaluationFile): Omit<ScoreOptions, "rng"> {
  const scores = scoresRowsOf(rows);
  const known = (scores.find(({ task_idx }) => task_idx === row) ?? scores.at(-1))?.scores[domain];
  return {
    contaminated: known?.contaminated ?? false,
    nl_assertions: known?.nl_assertions ?? config.nl_assertions,
    n_excluded: known?.n_excluded ?? 0,
    kl_drift: row === null ? null : (known?.kl_drift ?? null),
  };
}

/** Domains in the order of the run's own rows. */
function scoresRows(record: RunRecord, cells: readonly Cell[]): ScoresRow[] {
  return scoresRowsOf(record.rows).map((written) => {
    const pick = <T>(value: (cell: Cell) => T) =>
      Object.fromEntries(
        Object.keys(written.scores).map((domain) => {
          const cell = cells.find((candidate) => candidate.row === written.task_idx && candidate.domain === domain);
          return [domain, value(cell ?? missing(record, `row ${written.task_idx}, ${domain}`))];
        }),
      );
    return { ...written, scores: pick(({ score }) => score), rewards: pick(({ rewards }) => rewards) };
  });
}

/** The evaluation at an experience's end is a row of the matrix. */
function cellOfEval(record: RunRecord, cells: readonly Cell[], { task_idx, step, domain }: EvalRow): Cell {
  const steps = record.config.num_steps_per_task;
  const isThis = (cell: Cell) => (step === steps - 1 ? cell.row === task_idx : cell.step === task_idx * steps + step);
  return cells.find((cell) => cell.domain === domain && isThis(cell)) ?? missing(record, `step ${step} of ${domain}`);
}

function missing({ path }: RunRecord, what: string): never {
  throw new UserError(path, `rollouts/ has no conversations of the evaluation ${what}`);
}
