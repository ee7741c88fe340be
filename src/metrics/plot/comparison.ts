/** Methods in one picture: training curves over each other, the evaluation of each domain, and the metrics with their intervals. */
import { type Draws, interval95, meanDraws } from "../bootstrap.ts";
import { type ComparedMetric, type Comparison, groupRuns, type RunGroup } from "../compare.ts";
import { estimatedMatrix, Resamples, resampledMatrix, trainedRows } from "../matrix.ts";
import type { TrainMetric } from "../names.ts";
import type { RunRecord } from "../record.ts";
import { scoresRowsOf } from "../rows.ts";
import { borders, type EvaluationPoint, smoothed, trainSeries, updatesMax } from "./curves.ts";
import { type BandPoint, type Box, colour, Panel, type Point, type Range, rangeOf, SOFT } from "./panel.ts";
import { element, picture, round, text } from "./svg.ts";

const WIDTH = 1240;
const PANEL = { width: WIDTH / 2, height: 400 };
const HEAD = 56;
/** Of a row. */
const LEGEND = 22;
/** With room for the names of the domains. */
const REWARD: Range = [-0.02, 1.1];
const UPDATES = "optimizer updates";

export function comparisonSvg(records: readonly RunRecord[], { methods }: Comparison): string {
  const groups = groupRuns(records).filter(({ name }) => methods.some(({ method }) => method === name));
  const domains = [...new Set(methods.flatMap((method) => Object.keys(method.domains)))];
  const panels: ((box: Box) => string)[] = [
    (box) => stepsPanel(groups, { box, title: "Training loss", name: "train/loss", y: null }),
    (box) => stepsPanel(groups, { box, title: "Training reward", name: "rollout/reward_mean", y: REWARD }),
    ...domains.map((domain) => (box: Box) => evaluationPanel(groups, { box, domain, records })),
    (box) => metricsPanel(methods, box),
  ];
  const rows = Math.ceil(panels.length / 2);
  const places = legendPlaces(groups);
  const top = HEAD + ((places.at(-1)?.row ?? 0) + 1) * LEGEND;
  return picture(
    { width: WIDTH, height: top + rows * PANEL.height },
    text(`${methods.length} methods, ${records.length} runs`, { x: 24, y: 30, "font-size": 18, "font-weight": "bold" }),
    text("Lines: mean over seeds. Training bands: lowest to highest seed. Evaluation: 95 % interval over tasks.", {
      x: 24,
      y: 50,
      fill: SOFT,
    }),
    legend(groups, places),
    ...panels.map((draw, i) => draw({ x: (i % 2) * PANEL.width, y: top + Math.floor(i / 2) * PANEL.height, ...PANEL })),
  );
}

interface LegendPlace {
  readonly x: number;
  readonly row: number;
}

const labelOf = ({ name, runs }: RunGroup): string => `${name}${runs.length > 1 ? ` (${runs.length} seeds)` : ""}`;

/** As many in a row as fit. */
function legendPlaces(groups: readonly RunGroup[]): LegendPlace[] {
  let [x, row] = [24, 0];
  return groups.map((group) => {
    const width = 32 + labelOf(group).length * 7.3 + 24;
    if (x > 24 && x + width > WIDTH) [x, row] = [24, row + 1];
    const place = { x, row };
    x += width;
    return place;
  });
}

function legend(groups: readonly RunGroup[], places: readonly LegendPlace[]): string {
  const entries = groups.map((group, i) => {
    const { x, row } = places[i] as LegendPlace;
    const y = HEAD + 14 + row * LEGEND;
    const line = element("path", { d: `M${round(x)} ${y}h26`, stroke: colour(i), "stroke-width": 3 });
    return line + text(labelOf(group), { x: x + 32, y: y + 4 });
  });
  return entries.join("");
}

function framed(groups: readonly RunGroup[], panel: Panel): Panel {
  const marks = groups.flatMap(({ runs }) => runs.map((run) => JSON.stringify(borders(run))));
  const [first] = groups;
  if (first !== undefined && new Set(marks).size === 1)
    for (const { x, label, until } of borders(first.runs[0] as RunRecord)) panel.border(x, label, until);
  return panel;
}

const xRange = (groups: readonly RunGroup[]): Range => [
  0,
  Math.max(...groups.flatMap(({ runs }) => runs.map(updatesMax))),
];

interface StepsOptions {
  readonly box: Box;
  readonly title: string;
  readonly name: TrainMetric;
  /** null: as the values need. */
  readonly y: Range | null;
}

function stepsPanel(groups: readonly RunGroup[], { box, title, name, y }: StepsOptions): string {
  const curves = groups.map(({ runs }) => overSeeds(runs.map((run) => trainSeries(run, name).map(smoothed))));
  const values = curves.flat(2).flatMap(({ low, high }) => [low, high]);
  const panel = new Panel({
    title,
    box,
    x: xRange(groups),
    y: y ?? rangeOf(values, 0.15),
    xLabel: UPDATES,
    yLabel: title.toLowerCase(),
  });
  framed(groups, panel);
  for (const [i, lines] of curves.entries())
    for (const line of lines) panel.band(line, colour(i)).line(line, { stroke: colour(i) });
  return panel.svg();
}

/** Experience by experience: mean, lowest and highest over the seeds at each x. */
function overSeeds(seeds: readonly (readonly (readonly Point[])[])[]): (Point & BandPoint)[][] {
  const experiences = Math.max(0, ...seeds.map((lines) => lines.length));
  return Array.from({ length: experiences }, (_, e) => {
    const byX = Map.groupBy(
      seeds.flatMap((lines) => lines[e] ?? []),
      ({ x }) => x,
    );
    return [...byX]
      .toSorted(([a], [b]) => a - b)
      .map(([x, points]) => {
        const values = points.map(({ y }) => y);
        return {
          x,
          y: values.reduce((sum, value) => sum + value, 0) / values.length,
          low: Math.min(...values),
          high: Math.max(...values),
        };
      });
  });
}

interface EvaluationOptions {
  readonly box: Box;
  readonly domain: string;
  readonly records: readonly RunRecord[];
}

function evaluationPanel(groups: readonly RunGroup[], { box, domain, records }: EvaluationOptions): string {
  const rows = records.flatMap((record) => scoresRowsOf(record.rows));
  const resamples = new Resamples(rows, records[0]?.config.eval_seed ?? 0);
  const panel = new Panel({
    title: `Evaluation: ${domain}`,
    box,
    x: xRange(groups),
    y: REWARD,
    xLabel: UPDATES,
    yLabel: "mean reward",
  });
  framed(groups, panel);
  for (const [i, { runs }] of groups.entries()) {
    const points = evaluationOf(runs, domain, resamples);
    panel
      .band(points, colour(i))
      .line(points, { stroke: colour(i) })
      .dots(points, { fill: colour(i) });
  }
  return panel.svg();
}

/** Rows that every seed has. */
function evaluationOf(runs: readonly RunRecord[], domain: string, resamples: Resamples): EvaluationPoint[] {
  const matrices = runs.map((run) => {
    const rows = trainedRows(run.rows, run.method);
    return { estimated: estimatedMatrix(rows), resampled: resampledMatrix(rows, resamples) };
  });
  const steps = runs[0]?.config.num_steps_per_task ?? 0;
  const last = Math.min(...matrices.map(({ estimated }) => estimated.lastRow));
  return Array.from({ length: last + 2 }, (_, i) => i - 1).flatMap((row) => {
    if (!matrices.every(({ estimated }) => estimated.has(row, domain))) return [];
    const [y] = meanDraws(matrices.map(({ estimated }) => estimated.at(row, domain))) as Draws;
    const draws = meanDraws(matrices.map(({ resampled }) => resampled.at(row, domain))) as Draws;
    return [{ x: (row + 1) * steps, y: y as number, ...interval95(draws) }];
  });
}

const SHOWN: readonly (readonly [ComparedMetric, string])[] = [
  ["acc", "ACC"],
  ["learning_accuracy", "learning acc."],
  ["bwt", "BWT"],
  ["fwt", "FWT"],
  ["forgetting", "forgetting"],
  ["minimum_accuracy", "minimum acc."],
];

/** A dot and its interval for each method and metric. */
function metricsPanel(methods: Comparison["methods"], box: Box): string {
  const estimates = methods.flatMap((method) => SHOWN.flatMap(([metric]) => method[metric] ?? []));
  const ends = estimates.flatMap(({ low, high, spread }) => [
    low,
    high,
    spread?.lowest ?? low,
    spread?.highest ?? high,
  ]);
  const y = rangeOf([0, ...ends]);
  const panel = new Panel({
    title: "Metrics (thick: 95 % over tasks, thin: lowest to highest seed)",
    box,
    x: [0, SHOWN.length],
    y,
    xLabel: "",
    yLabel: "",
    xTicks: [],
  });
  panel.rule(0, { stroke: "#888888" });
  for (const [m, [metric, label]] of SHOWN.entries()) {
    panel.below(m + 0.5, label);
    for (const [i, method] of methods.entries()) {
      const estimate = method[metric];
      if (estimate === null) continue;
      const x = m + 0.5 + ((i + 0.5) / methods.length - 0.5) * 0.7;
      const { low, high, spread } = estimate;
      if (spread !== null)
        panel.line(upright(x, spread.lowest, spread.highest), { stroke: colour(i), "stroke-width": 1.2 });
      panel
        .line(upright(x, low, high), { stroke: colour(i), "stroke-width": 4, "stroke-opacity": 0.6 })
        .dots([{ x, y: estimate.mean }], { fill: colour(i), r: 3.5 });
    }
  }
  return panel.svg();
}

const upright = (x: number, from: number, to: number): Point[] => [
  { x, y: from },
  { x, y: to },
];
