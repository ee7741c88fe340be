/** The numbers behind the pictures. x counts optimizer updates over the whole run. */
import type { TrainMetric } from "../names.ts";
import type { RunRecord } from "../record.ts";
import { type EvalRow, scoresRowsOf, type TrainRow } from "../rows.ts";
import type { DomainScore } from "../score.ts";
import type { BandPoint, Point } from "./panel.ts";

export interface Border {
  readonly x: number;
  readonly label: string;
}

/** Where each experience begins. */
export const borders = ({ config }: RunRecord): Border[] =>
  config.task_order.map((label, index) => ({ x: index * config.num_steps_per_task, label }));

export const updatesMax = ({ config }: RunRecord): number => config.task_order.length * config.num_steps_per_task;

const trainRows = ({ rows }: RunRecord): TrainRow[] => rows.filter((row) => row.kind === "train");

/** One line an experience: nothing is joined or smoothed across borders. Steps without a value are passed over. */
export function trainSeries(record: RunRecord, name: TrainMetric): Point[][] {
  const { num_steps_per_task } = record.config;
  const byExperience = Map.groupBy(trainRows(record), ({ task_idx }) => task_idx);
  return [...byExperience.values()].map((rows) =>
    rows.flatMap((row) => {
      const y = row[name];
      return y === null || y === undefined ? [] : [{ x: row.task_idx * num_steps_per_task + row.step + 1, y }];
    }),
  );
}

/** Centred moving average over about a tenth of the line; as it is where that is less than three steps. */
export function smoothed(line: readonly Point[]): Point[] {
  const half = Math.floor(line.length / 20);
  if (half === 0) return [...line];
  return line.map(({ x }, i) => {
    const near = line.slice(Math.max(0, i - half), i + half + 1);
    return { x, y: near.reduce((sum, { y }) => sum + y, 0) / near.length };
  });
}

export interface EvaluationPoint extends Point, BandPoint {}

export interface EvaluationSeries {
  readonly domain: string;
  /** Of the whole evaluation, in order. */
  readonly points: readonly EvaluationPoint[];
  /** Of a part of its tasks. */
  readonly probes: readonly EvaluationPoint[];
}

export function evaluationSeries(record: RunRecord): EvaluationSeries[] {
  const { config, rows } = record;
  const scores = scoresRowsOf(rows);
  const evaluations = rows.filter((row): row is EvalRow => row.kind === "eval");
  return Object.keys(scores.at(-1)?.scores ?? {}).map((domain) => {
    const cells = scores.flatMap(({ task_idx, scores: { [domain]: score } }) =>
      score === undefined ? [] : [{ x: (task_idx + 1) * config.num_steps_per_task, score }],
    );
    const between = evaluations
      .filter((row) => row.domain === domain && row.step + 1 < config.num_steps_per_task)
      .map(({ task_idx, step, score }) => ({ x: task_idx * config.num_steps_per_task + step + 1, score }));
    const whole = cells[0]?.score.n_tasks;
    const { full = [], part = [] } = Object.groupBy([...cells, ...between], ({ score }) =>
      score.n_tasks === whole ? "full" : "part",
    );
    return { domain, points: full.map(pointOf).toSorted(byX), probes: part.map(pointOf).toSorted(byX) };
  });
}

const pointOf = ({ x, score }: { readonly x: number; readonly score: DomainScore }): EvaluationPoint => ({
  x,
  y: score.reward_mean,
  low: score.low,
  high: score.high,
});

const byX = (a: Point, b: Point): number => a.x - b.x;
