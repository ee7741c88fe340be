/** A run's summary, and runs side by side, as text. */
import type { baselineGroups } from "./baselines.ts";
import { COMPARED, type ComparedMetric, type Comparison, type GroupEstimate, type MethodSummary } from "./compare.ts";
import { powerSentence } from "./power.ts";
import type { DomainScore } from "./score.ts";
import type { RunSummary } from "./summary.ts";
import { fixed, interval, signed, table } from "./text.ts";

const TITLES: Readonly<Record<ComparedMetric, string>> = {
  acc: "ACC",
  learning_accuracy: "learning accuracy",
  bwt: "BWT",
  fwt: "FWT",
  forgetting: "forgetting",
  minimum_accuracy: "minimum accuracy",
  intransigence: "intransigence",
};

export function summaryText(summary: RunSummary): string {
  const { run, method, model, seed, eval_seed, experiences } = summary;
  const unfinished =
    experiences.done < experiences.all ? ` (${experiences.done} of ${experiences.all} domains done)` : "";
  return [
    `${run}: ${method}, ${model}, seed ${seed}, eval_seed ${eval_seed}${unfinished}`,
    "",
    "Mean reward [95 % interval over tasks]",
    ...matrixTable(summary),
    "",
    "Last row",
    ...table(lastRow(summary)),
    "",
    "Transfer [95 % interval over tasks]",
    ...table(COMPARED.map((metric) => [TITLES[metric], estimateText(metric, summary[metric])])),
    "",
    ...Object.entries(summary.power).map(([domain, size]) => `Power: ${domain}, ${powerSentence(size)}`),
  ].join("\n");
}

function matrixTable({ score_matrix, baselines }: RunSummary): string[] {
  const columns = Object.keys(score_matrix.at(-1)?.scores ?? {});
  const body = score_matrix.map(({ task_idx, domain, scores }) => [
    domain === null ? "before training" : `after task ${task_idx} (${domain})`,
    ...columns.map((column) => cellText(scores[column])),
  ]);
  const idle = Object.values(baselines).some(({ agents }) => agents.empty !== null)
    ? [["baselines (empty, refuse, transfer)", ...columns.map((column) => baselineText(baselines[column]))]]
    : [];
  return table([["", ...columns], ...body, ...idle]);
}

const cellText = (score: DomainScore | undefined): string =>
  score === undefined ? "" : `${fixed(score.reward_mean)} ${interval(score)}`;

function baselineText(baselines: Parameters<typeof baselineGroups>[0]): string {
  const { empty = null, refuse = null, transfer = null } = baselines?.agents ?? {};
  return [empty, refuse, transfer].map((score) => (score === null ? "–" : score.reward_mean.toFixed(2))).join(", ");
}

/** What a cell says beside its mean, a line each. */
function lastRow({ score_matrix }: RunSummary): string[][] {
  const scores = Object.entries(score_matrix.at(-1)?.scores ?? {});
  const trials = Math.max(...scores.map(([, { pass_hat_k }]) => Object.keys(pass_hat_k).length));
  const line = (name: string, value: (score: DomainScore) => string) => [
    name,
    ...scores.map(([, score]) => value(score)),
  ];
  return [
    ["", ...scores.map(([domain]) => domain)],
    ...Array.from({ length: trials }, (_, i) =>
      line(`pass^${i + 1}`, ({ pass_hat_k }) => fixed(pass_hat_k[String(i + 1)] ?? null)),
    ),
    line("tasks × trials", ({ n_tasks, n_trials }) => `${n_tasks} × ${n_trials}`),
    line("nl_assertions", ({ nl_assertions, n_excluded }) => `${nl_assertions} (${n_excluded} left out)`),
    line("tasks with a write", (score) => `${fixed(score.reward_mean_write)} (${score.n_tasks_write})`),
    line("tasks without", (score) => `${fixed(score.reward_mean_noop)} (${score.n_tasks - score.n_tasks_write})`),
    line("tool accuracy", ({ tool_accuracy }) => fixed(tool_accuracy)),
    line("malformed calls", ({ malformed_calls }) => String(malformed_calls)),
    line("KL drift", ({ kl_drift }) => fixed(kl_drift)),
    line("contaminated", ({ contaminated }) => (contaminated ? "yes" : "no")),
    line("user", ({ user_identity }) => user_identity),
  ];
}

/** Differences carry their sign. */
const SIGNED: readonly ComparedMetric[] = ["bwt", "fwt", "forgetting", "intransigence"];

function estimateText(metric: ComparedMetric, estimate: GroupEstimate | null): string {
  if (estimate === null) return "n/a";
  const text = SIGNED.includes(metric) ? signed : fixed;
  const { mean, spread } = estimate;
  const seeds = spread === null ? "" : ` ± ${spread.deviation.toFixed(3)}`;
  return `${text(mean)} ${interval(estimate)}${seeds}`;
}

export function comparisonText({ methods, paired }: Comparison): string {
  const shown = COMPARED.filter((metric) => methods.some((method) => method[metric] !== null));
  const domains = [...new Set(methods.flatMap((method) => Object.keys(method.domains)))];
  const several = methods.some(({ seeds }) => seeds.length > 1);
  return [
    `Mean over seeds [95 % interval over tasks]${several ? " ± standard deviation over seeds" : ""}`,
    ...table([
      ["method", "seeds", ...shown.map((metric) => TITLES[metric])],
      ...methods.map((method) => [
        method.method,
        seedsText(method),
        ...shown.map((metric) => estimateText(metric, method[metric])),
      ]),
    ]),
    "",
    "Mean reward of each domain at the end",
    ...table([
      ["method", ...domains],
      ...methods.map((method) => [
        method.method,
        ...domains.map((domain) => estimateText("acc", method.domains[domain] ?? null)),
      ]),
    ]),
    ...(paired.length === 0 ? [] : ["", "Paired differences, the same tasks [95 % interval]; * excludes 0"]),
    ...table(
      paired.map(({ a, b, metric, mean, low, high }) => [
        `${a} - ${b}`,
        TITLES[metric],
        `${signed(mean)} [${signed(low)}, ${signed(high)}]${low > 0 || high < 0 ? " *" : ""}`,
      ]),
    ),
  ].join("\n");
}

const seedsText = ({ seeds }: MethodSummary): string => `${seeds.length} (${seeds.join(", ")})`;
