/**
 * Runs side by side. Runs of one method that differ in their seed are one group: a metric of the group is the mean over
 * its seeds, its interval comes from resampling tasks (the same resample for all rows, runs and groups), and the spread
 * over seeds stands beside it and is never mixed in: the one says how much the tasks matter, the other how much the luck
 * of training does.
 */
import { UserError } from "../base/errors.ts";
import { type Draws, interval95, meanDraws, minus } from "./bootstrap.ts";
import { lastScores, requireComparable, requireSameProgress } from "./comparable.ts";
import { estimatedMatrix, Resamples, resampledMatrix, type ScoreMatrix, trainedRows } from "./matrix.ts";
import { seedName } from "./names.ts";
import type { RunRecord } from "./record.ts";
import { scoresRowsOf } from "./rows.ts";
import { FORMULAS, intransigence } from "./transfer.ts";

export interface Spread {
  /** Standard deviation of the sample (n - 1). */
  readonly deviation: number;
  readonly lowest: number;
  readonly highest: number;
}

export interface GroupEstimate {
  /** Mean over seeds. */
  readonly mean: number;
  /** 95 % interval over tasks. */
  readonly low: number;
  readonly high: number;
  /** Over seeds; null with one. */
  readonly spread: Spread | null;
}

export const COMPARED = [
  "acc",
  "learning_accuracy",
  "bwt",
  "fwt",
  "forgetting",
  "minimum_accuracy",
  "intransigence",
] as const satisfies readonly ComparedMetric[];

type Unstaged<T> = T extends `cl/${infer Name}` ? Name : never;
export type ComparedMetric = Unstaged<keyof typeof FORMULAS> | "intransigence";

export interface MethodSummary extends Readonly<Record<ComparedMetric, GroupEstimate | null>> {
  /** With the options that tell it from another group of the same method. */
  readonly method: string;
  readonly seeds: readonly number[];
  readonly runs: readonly string[];
  /** Domain → its mean reward in the last row. */
  readonly domains: Readonly<Record<string, GroupEstimate>>;
}

export interface PairedDifference {
  /** mean = a - b, with the interval of the paired difference. */
  readonly a: string;
  readonly b: string;
  readonly metric: ComparedMetric;
  readonly mean: number;
  readonly low: number;
  readonly high: number;
}

export interface Comparison {
  readonly methods: readonly MethodSummary[];
  readonly paired: readonly PairedDifference[];
}

/** Throws UserError where runs were not evaluated alike. A run on one domain, among runs on several, only serves intransigence. */
export function compareRuns(records: readonly RunRecord[]): Comparison {
  requireComparable(records);
  const compared = records.filter((record) => !isAlone(record, records));
  requireSameProgress(compared);
  const groups = groupRuns(compared);
  const measured = measureGroups(groups, records.filter(isReference));
  return {
    methods: measured.map(summaryOf),
    paired: measured.flatMap((a, i) => measured.slice(0, i).flatMap((b) => pairedOf(a, b))),
  };
}

/** One run by itself; `references` are runs on one domain, or joint ones. */
export function measureRun(record: RunRecord, references: readonly RunRecord[]): MethodSummary {
  requireComparable([record, ...references]);
  const [measured] = measureGroups([{ name: record.method, runs: [record] }], references);
  return summaryOf(measured as MeasuredGroup);
}

const summaryOf = ({ name, runs, quantities, domains }: MeasuredGroup): MethodSummary => ({
  method: name,
  seeds: runs.map(({ config }) => config.seed),
  runs: runs.map(({ path }) => path),
  ...mapValues(quantities, (quantity) => (quantity === null ? null : estimateOf(quantity))),
  domains: mapValues(domains, estimateOf),
});

interface Quantity {
  /** One a seed. */
  readonly estimates: readonly number[];
  /** Mean over seeds, in each resample. */
  readonly draws: Draws;
}

interface MeasuredGroup extends RunGroup {
  /** null where the metric is not defined for every seed. */
  readonly quantities: Readonly<Record<ComparedMetric, Quantity | null>>;
  readonly domains: Readonly<Record<string, Quantity>>;
}

function measureGroups(groups: readonly RunGroup[], references: readonly RunRecord[]): MeasuredGroup[] {
  const records = [...new Set([...groups.flatMap(({ runs }) => runs), ...references])];
  const rows = records.flatMap((record) => scoresRowsOf(record.rows));
  const resamples = new Resamples(rows, records[0]?.config.eval_seed ?? 0);
  const matrices = new Map(records.map((record) => [record, matricesOf(record, resamples)]));
  const of = (record: RunRecord): Matrices => matrices.get(record) as Matrices;
  return groups.map((group) => {
    const those = group.runs.map(of);
    const columns = Object.keys(lastScores(group.runs[0] as RunRecord).scores);
    const best = isReference(group.runs[0] as RunRecord) ? [] : references.map(of);
    return {
      ...group,
      quantities: {
        ...mapFormulas((formula) => quantityOf(those, formula)),
        intransigence: best.length === 0 ? null : intransigenceOf(those, best),
      },
      domains: Object.fromEntries(
        columns.map((domain) => [domain, quantityOf(those, (R) => R.at(R.lastRow, domain)) as Quantity]),
      ),
    };
  });
}

interface Matrices {
  readonly estimated: ScoreMatrix;
  readonly resampled: ScoreMatrix;
}

function matricesOf(record: RunRecord, resamples: Resamples): Matrices {
  const scores = trainedRows(record.rows, record.method);
  return { estimated: estimatedMatrix(scores), resampled: resampledMatrix(scores, resamples) };
}

function quantityOf(all: readonly Matrices[], formula: (R: ScoreMatrix) => Draws | null): Quantity | null {
  return joined(all.map(({ estimated, resampled }) => [formula(estimated), formula(resampled)]));
}

function intransigenceOf(all: readonly Matrices[], references: readonly Matrices[]): Quantity | null {
  const best = (kind: keyof Matrices) => (domain: string) =>
    meanDraws(
      references
        .filter(({ estimated }) => estimated.trained().includes(domain))
        .map(({ [kind]: R }) => R.at(R.lastRow, domain)),
    );
  return joined(
    all.map(({ estimated, resampled }) => [
      intransigence(estimated, best("estimated")),
      intransigence(resampled, best("resampled")),
    ]),
  );
}

/** Of all seeds; null where one has none. */
function joined(seeds: readonly (readonly [estimate: Draws | null, draws: Draws | null])[]): Quantity | null {
  const estimates = seeds.flatMap(([estimate]) => estimate?.[0] ?? []);
  const draws = seeds.flatMap(([, of]) => (of === null ? [] : [of]));
  if (estimates.length < seeds.length || draws.length < seeds.length) return null;
  return { estimates, draws: meanDraws(draws) as Draws };
}

const isJoint = ({ method }: RunRecord): boolean => method === "joint";

const domainsOf = ({ config }: RunRecord): number => new Set(config.task_order).size;

/** It trained on one domain alone, or on all at once: what a domain can reach. */
export const isReference = (record: RunRecord): boolean => isJoint(record) || domainsOf(record) === 1;

/** A run on one domain, among runs on several. */
const isAlone = (record: RunRecord, records: readonly RunRecord[]): boolean =>
  !isJoint(record) && domainsOf(record) === 1 && records.some((other) => domainsOf(other) > 1);

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

const estimateOf = ({ estimates, draws }: Quantity): GroupEstimate => ({
  mean: mean(estimates),
  ...interval95(draws),
  spread: spreadOf(estimates),
});

function spreadOf(values: readonly number[]): Spread | null {
  if (values.length < 2) return null;
  const center = mean(values);
  const squares = values.reduce((sum, value) => sum + (value - center) ** 2, 0);
  const deviation = Math.sqrt(squares / (values.length - 1));
  return { deviation, lowest: Math.min(...values), highest: Math.max(...values) };
}

function pairedOf(a: MeasuredGroup, b: MeasuredGroup): PairedDifference[] {
  return COMPARED.flatMap((metric) => {
    const [ours, theirs] = [a.quantities[metric], b.quantities[metric]];
    if (ours === null || theirs === null) return [];
    const difference = mean(ours.estimates) - mean(theirs.estimates);
    return [{ a: a.name, b: b.name, metric, mean: difference, ...interval95(minus(ours.draws, theirs.draws)) }];
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// Groups

export interface RunGroup {
  readonly name: string;
  /** Of one method and config, but for the seed. */
  readonly runs: readonly RunRecord[];
}

/** Of no influence on the numbers, what seeds are for, or compared by what it comes to (the user's identity). */
const FREE: readonly string[] = [
  ...["seed", "log_dir", "resume_from", "save_interval", "wandb_project"],
  ...["tau2_data_dir", "num_threads", "user", "judge"],
];

/** In the order in which they are given. A group is named after its method, and by what tells it from another of that name. */
export function groupRuns(records: readonly RunRecord[]): RunGroup[] {
  const groups = [...Map.groupBy(records, (record) => JSON.stringify([record.method, settings(record)])).values()];
  return groups.map((runs) => {
    const [first] = runs as [RunRecord];
    requireDistinctSeeds(runs);
    const namesakes = groups.map(([other]) => other as RunRecord).filter(({ method }) => method === first.method);
    const told = Object.entries(settings(first))
      .filter(([key, value]) => namesakes.some((other) => !same(settings(other)[key], value)))
      .map(([key, value]) => `${key} ${typeof value === "object" ? JSON.stringify(value) : value}`);
    return { name: told.length === 0 ? first.method : `${first.method} (${told.join(", ")})`, runs };
  });
}

function requireDistinctSeeds(runs: readonly RunRecord[]): void {
  for (const [i, { path, config }] of runs.entries()) {
    const twin = runs.slice(0, i).find((other) => other.config.seed === config.seed);
    if (twin !== undefined) throw new UserError(path, `is ${twin.path} again: the same method, config and seed`);
  }
}

const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);

const settings = ({ config }: RunRecord): Record<string, unknown> =>
  Object.fromEntries(Object.entries(config).filter(([key]) => !FREE.includes(key)));

function mapValues<K extends string, T, U>(values: Readonly<Record<K, T>>, change: (value: T) => U): Record<K, U> {
  return Object.fromEntries(Object.entries<T>(values).map(([key, value]) => [key, change(value)])) as Record<K, U>;
}

/** By their names without the stage: `cl/bwt` → `bwt`. */
function mapFormulas<U>(change: (formula: (R: ScoreMatrix) => Draws | null) => U) {
  return Object.fromEntries(
    Object.entries(FORMULAS).map(([name, formula]) => [seedName(name), change(formula)]),
  ) as Record<Unstaged<keyof typeof FORMULAS>, U>;
}
