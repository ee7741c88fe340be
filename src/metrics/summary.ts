/** What a run has come to, as data. */
import { lastScores } from "./comparable.ts";
import { COMPARED, type ComparedMetric, type GroupEstimate, measureRun } from "./compare.ts";
import { estimatedMatrix, trainedRows } from "./matrix.ts";
import { visibleDifference } from "./power.ts";
import type { RunRecord } from "./record.ts";
import { type BaselinesRow, type ScoresRow, scoresRowsOf } from "./rows.ts";
import type { DomainScore } from "./score.ts";
import { estimateOf, rewardOnEarlier } from "./transfer.ts";

export interface Power {
  readonly tasks: number;
  readonly trials: number;
  /** The smallest difference of two runs that such an evaluation shows (power.ts). */
  readonly visible_difference: number;
}

export interface RunSummary extends Readonly<Record<ComparedMetric, GroupEstimate | null>> {
  readonly run: string;
  readonly method: string;
  readonly model: string;
  readonly seed: number;
  readonly eval_seed: number;
  /** Experiences that have ended, and all of them. */
  readonly experiences: { readonly done: number; readonly all: number };
  /** The seed's word: mean reward on earlier domains, now. */
  readonly backward_transfer: number | null;
  readonly score_matrix: readonly Omit<ScoresRow, "kind" | "rewards">[];
  readonly baselines: BaselinesRow["baselines"];
  readonly power: Readonly<Record<string, Power>>;
}

/** `references`: runs on one domain, or joint ones, for intransigence. */
export function summarise(record: RunRecord, references: readonly RunRecord[] = []): RunSummary {
  const { config, method, rows, path } = record;
  const measured = measureRun(record, references);
  const metrics = Object.fromEntries(COMPARED.map((metric) => [metric, measured[metric]]));
  const scores = scoresRowsOf(rows);
  return {
    run: path,
    method,
    model: config.model_name_or_path,
    seed: config.seed,
    eval_seed: config.eval_seed,
    experiences: { done: scores.length - 1, all: config.task_order.length },
    ...(metrics as Pick<typeof measured, ComparedMetric>),
    backward_transfer: estimateOf(rewardOnEarlier(estimatedMatrix(trainedRows(rows, method)))),
    score_matrix: scores.map(({ task_idx, domain, scores: cells }) => ({ task_idx, domain, scores: cells })),
    baselines: rows.find((row) => row.kind === "baselines")?.baselines ?? {},
    power: Object.fromEntries(
      Object.entries(lastScores(record).scores).map(([domain, score]) => [domain, powerOf(score)]),
    ),
  };
}

function powerOf({ n_tasks, n_trials }: DomainScore): Power {
  const size = { tasks: n_tasks, trials: n_trials };
  return { ...size, visible_difference: visibleDifference(size) };
}
