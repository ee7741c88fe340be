/** The numbers behind the pictures. x counts optimizer updates over the whole run. */
import type { TrainMetric } from "../names.ts";
import type { RunRecord } from "../record.ts";
import { scoresRowsOf, type TrainRow } from "../rows.ts";
import type { DomainScore } from "../score.ts";
import type { BandPoint, Point } from "./panel.ts";

export interface Border {
  readonly x: number;
  readonly until: number;
  readonly label: string;
}

/** Where each experience begins. */
export const borders = ({ config }: RunRecord): Border[] =>
  config.task_order.map((label, index) => ({
    x: index * config.num_steps_per_task,
    until: (index + 1) * config.num_steps_per_task,
    label,
  }));

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
  readonly points: readonly EvaluationPoint[];
  /** Of a few tasks, between steps. */
  readonly probes: readonly Point[];
}

export function evaluationSeries(record: RunRecord): EvaluationSeries[] {
  const { config, rows } = record;
  const after = (task_idx: number, step: number) => task_idx * config.num_steps_per_task + step + 1;
  const scores = scoresRowsOf(rows);
  return Object.keys(scores.at(-1)?.scores ?? {}).map((domain) => {
    const cells = scores.flatMap(({ task_idx, scores: { [domain]: score } }) =>
      score === undefined ? [] : [pointOf(after(task_idx + 1, -1), score)],
    );
    const between = rows.flatMap((row) =>
      row.kind === "eval" && row.domain === domain && row.step + 1 < config.num_steps_per_task
        ? [pointOf(after(row.task_idx, row.step), row.score)]
        : [],
    );
    const probes = rows.flatMap((row) => {
      const y = row.kind === "probe" ? row.rewards[domain] : undefined;
      return row.kind === "probe" && y !== undefined ? [{ x: after(row.task_idx, row.step), y }] : [];
    });
    return { domain, points: [...cells, ...between].toSorted((a, b) => a.x - b.x), probes };
  });
}

const pointOf = (x: number, { reward_mean, low, high }: DomainScore): EvaluationPoint => ({
  x,
  y: reward_mean,
  low,
  high,
});
