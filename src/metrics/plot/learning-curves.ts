/** A run in one picture: loss, training reward, evaluation of each domain, score matrix. */
import type { RunRecord } from "../record.ts";
import { type ScoresRow, scoresRowsOf } from "../rows.ts";
import type { DomainScore } from "../score.ts";
import { borders, type EvaluationSeries, evaluationSeries, smoothed, trainSeries, updatesMax } from "./curves.ts";
import {
  type Box,
  colour,
  fitting,
  type LegendEntry,
  Panel,
  type Point,
  type Range,
  rangeOf,
  SOFT,
  title,
} from "./panel.ts";
import { element, picture, text } from "./svg.ts";

const SIZE = { width: 1240, height: 900 };
const HEAD = 60;
const PANEL = { width: SIZE.width / 2, height: (SIZE.height - HEAD) / 2 };
const UPDATES = "optimizer updates";
/** With room for the names of the domains. */
const REWARD: Range = [-0.02, 1.1];

const boxAt = (column: number, row: number): Box => ({
  x: column * PANEL.width,
  y: HEAD + row * PANEL.height,
  ...PANEL,
});

export function learningCurvesSvg(record: RunRecord): string {
  return picture(
    SIZE,
    head(record),
    lossPanel(record, boxAt(0, 0)),
    rewardPanel(record, boxAt(1, 0)),
    evaluationPanel(record, boxAt(0, 1)),
    matrixPanel(scoresRowsOf(record.rows), boxAt(1, 1)),
  );
}

function head({ path, method, config, rows }: RunRecord): string {
  const [cell] = Object.values(scoresRowsOf(rows).at(-1)?.scores ?? {});
  const variant = cell === undefined ? "" : ` · ${cell.n_trials} trials a task · nl_assertions ${cell.nl_assertions}`;
  const where = `${ending(path)} · ${ending(config.model_name_or_path)}${variant} · bands: 95 % interval over tasks`;
  return (
    text(`${method} · seed ${config.seed}`, { x: 24, y: 30, "font-size": 18, "font-weight": "bold" }) +
    text(where, { x: 24, y: 50, fill: SOFT })
  );
}

/** Of a long path. */
const ending = (path: string): string => (path.length > ENDING ? `…${path.slice(1 - ENDING)}` : path);
const ENDING = 48;

function framed(record: RunRecord, panel: Panel): Panel {
  for (const { x, label, until } of borders(record)) panel.border(x, label, until);
  return panel;
}

/** Steps as a pale line, their moving average on top. */
function drawSteps(panel: Panel, lines: readonly (readonly Point[])[], stroke: string): void {
  for (const line of lines) {
    panel.line(line, { stroke, "stroke-width": 1, "stroke-opacity": 0.35 });
    panel.line(smoothed(line), { stroke });
    if (line.length === 1) panel.dots(line, { fill: stroke });
  }
}

function lossPanel(record: RunRecord, box: Box): string {
  const lines = trainSeries(record, "train/loss");
  const panel = new Panel({
    title: "Training loss",
    box,
    x: [0, updatesMax(record)],
    y: rangeOf(
      lines.flat().map(({ y }) => y),
      0.15,
    ),
    xLabel: UPDATES,
    yLabel: "loss",
  });
  drawSteps(framed(record, panel), lines, colour(0));
  if (lines.flat().length === 0) panel.note("no steps");
  return panel.svg();
}

function rewardPanel(record: RunRecord, box: Box): string {
  const lines = trainSeries(record, "rollout/reward_mean");
  const replayed = trainSeries(record, "rollout/replay_reward_mean");
  const legend: LegendEntry[] = [{ label: "current domain", colour: colour(0) }];
  if (replayed.flat().length > 0) legend.push({ label: "replayed tasks", colour: colour(4) });
  const panel = new Panel({
    title: "Training reward",
    legend,
    box,
    x: [0, updatesMax(record)],
    y: REWARD,
    xLabel: UPDATES,
    yLabel: "mean reward of a step",
  });
  framed(record, panel);
  drawSteps(panel, replayed, colour(4));
  drawSteps(panel, lines, colour(0));
  if (lines.flat().length === 0) panel.note("no steps");
  return panel.svg();
}

function evaluationPanel(record: RunRecord, box: Box): string {
  const series = evaluationSeries(record);
  const idle = idleRewards(record);
  const panel = new Panel({
    title: "Evaluation of each domain",
    legend: evaluationLegend(series, idle),
    box,
    x: [0, updatesMax(record)],
    y: REWARD,
    xLabel: UPDATES,
    yLabel: "mean reward",
  });
  framed(record, panel);
  for (const [i, those] of series.entries()) {
    drawEvaluation(panel, those, colour(i));
    const nothing = idle[those.domain] ?? 0;
    if (nothing > 0) panel.rule(nothing, { stroke: colour(i), "stroke-dasharray": "2 4", "stroke-width": 1.5 });
  }
  return panel.svg();
}

function evaluationLegend(
  series: readonly EvaluationSeries[],
  idle: Readonly<Record<string, number>>,
): readonly LegendEntry[] {
  const hasProbes = series.some(({ probes }) => probes.length > 0);
  const paysIdleness = Object.values(idle).some((reward) => reward > 0);
  return [
    ...series.map(({ domain }, i) => ({ label: domain, colour: colour(i) })),
    ...(hasProbes ? [{ label: "probe", colour: SOFT, dot: true }] : []),
    ...(paysIdleness ? [{ label: "doing nothing", colour: SOFT, dashed: true }] : []),
  ];
}

function drawEvaluation(panel: Panel, { points, probes }: EvaluationSeries, stroke: string): void {
  panel.band(points, stroke).line(points, { stroke }).dots(points, { fill: stroke });
  panel.dots(probes, { fill: "#ffffff", stroke, "stroke-width": 1.5 });
}

/** Domain → what the agent earns that says nothing. */
function idleRewards({ rows }: RunRecord): Record<string, number> {
  const baselines = rows.find((row) => row.kind === "baselines")?.baselines ?? {};
  return Object.fromEntries(
    Object.entries(baselines).map(([domain, { agents }]) => [domain, agents.empty?.reward_mean ?? 0]),
  );
}

// ---------------------------------------------------------------------------------------------------------------------
// Score matrix

const LABELS = { top: 66, right: 16, bottom: 20 };
/** Of DejaVu Sans at 12 px, about. */
const LETTER = 7.4;

/** Rows from the base model on, columns by domain; the cell of the domain just trained is framed. */
function matrixPanel(rows: readonly ScoresRow[], box: Box): string {
  const columns = Object.keys(rows.at(-1)?.scores ?? {});
  const left = Math.min(box.width / 3, 34 + LETTER * Math.max(...rows.map((row) => rowName(row).length)));
  const width = (box.width - left - LABELS.right) / Math.max(1, columns.length);
  const height = Math.min(84, (box.height - LABELS.top - LABELS.bottom) / Math.max(1, rows.length));
  const [x, y] = [box.x + left, box.y + LABELS.top];
  const heads = columns.map((domain, c) =>
    text(fitting(domain, width, LETTER), { x: x + (c + 0.5) * width, y: y - 8, "text-anchor": "middle" }),
  );
  const body = rows.flatMap((row, r) => [
    text(fitting(rowName(row), left - 20, LETTER), { x: x - 10, y: y + (r + 0.5) * height + 4, "text-anchor": "end" }),
    ...columns.flatMap((domain, c) => {
      const cell = { x: x + c * width, y: y + r * height, width, height };
      const score = row.scores[domain];
      return score === undefined ? [] : [matrixCell(score, cell)];
    }),
  ]);
  const frames = rows.flatMap((row, r) => {
    const c = columns.indexOf(row.domain ?? "");
    if (c === -1) return [];
    const frame = { x: x + c * width + 1, y: y + r * height + 1, width: width - 2, height: height - 2 };
    return [element("rect", { ...frame, fill: "none", stroke: colour(1), "stroke-width": 2.5 })];
  });
  return title({ title: "Score matrix (framed: just trained)", box }) + [...heads, ...body, ...frames].join("");
}

const rowName = ({ task_idx, domain }: ScoresRow): string =>
  domain === null ? "before training" : `after ${task_idx} · ${domain}`;

function matrixCell({ reward_mean, low, high }: DomainScore, cell: Box): string {
  const fill = reward_mean > 0.55 ? "#ffffff" : "#222222";
  const [middle, center] = [cell.x + cell.width / 2, cell.y + cell.height / 2];
  const isRoomy = cell.height >= 40;
  return (
    element("rect", { ...cell, fill: shade(reward_mean), stroke: "#ffffff", "stroke-width": 2 }) +
    text(reward_mean.toFixed(2), {
      x: middle,
      y: center + (isRoomy ? -1 : 4),
      "text-anchor": "middle",
      "font-size": isRoomy ? 16 : 12,
      fill,
    }) +
    (isRoomy
      ? text(`[${low.toFixed(2)}, ${high.toFixed(2)}]`, {
          x: middle,
          y: center + 17,
          "text-anchor": "middle",
          "font-size": 11,
          fill,
        })
      : "")
  );
}

/** White at 0 to the palette's blue at 1. */
function shade(reward: number): string {
  const share = Math.min(1, Math.max(0, reward));
  const channel = (dark: number) => Math.round(245 + (dark - 245) * share);
  return `rgb(${channel(0)},${channel(95)},${channel(160)})`;
}
