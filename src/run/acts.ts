/** What the loop does beside learning: says, measures, writes, saves. */
import { UserError } from "../base/errors.ts";
import { saveCheckpoint } from "../checkpoint/save.ts";
import { trajectoriesOf } from "../cl/memory.ts";
import { trajectoryText } from "../cl/trajectory.ts";
import type { TrainingBatch } from "../core/policy.ts";
import type { Experience } from "../curriculum/experience.ts";
import { trainedRows } from "../metrics/matrix.ts";
import type { MetricsRow, TrainRow, TransferRow } from "../metrics/rows.ts";
import { scoresRowsOf } from "../metrics/rows.ts";
import { transferMetrics } from "../metrics/transfer.ts";
import type { Group } from "../rollout/types.ts";
import { orAborted } from "./abort.ts";
import { carryOut } from "./carry-out.ts";
import { CURVES, writeLearningCurves } from "./curves.ts";
import { spendingLines } from "./endpoints.ts";
import { type Evaluation, evaluateDomains } from "./evaluate.ts";
import { BASE_MODEL, PREVIOUS_TASK_MODEL } from "./models.ts";
import {
  closingSummary,
  evaluationTable,
  experienceHead,
  probeLine,
  staleLine,
  stepLine,
  tiedLine,
  trainingOn,
  warning,
} from "./report.ts";
import { type Run, type Standing, standingOf, timed } from "./run.ts";
import { type StepFacts, trainRow } from "./train-row.ts";

/** Steps in a row with a gradient that is not finite, after which the run stops. */
const NONFINITE_STEPS_MAX = 3;

/** The share of groups with unequal rewards below which a domain hardly teaches anything, and when to look first. */
const VARYING_GROUPS_MIN = 0.05;
const VARYING_GROUPS_STEPS = 5;

export async function beginExperience(run: Run, experience: Experience): Promise<void> {
  const { curriculum, reporter, config, policy, method, memory } = run;
  const { train } = curriculum.split(experience.domain);
  reporter.line(experienceHead(experience));
  reporter.line(trainingOn(train.length, experience.domain));
  if (run.position.step > 0) reporter.line(`Going on at step ${run.position.step}`);
  if (run.position.step > 0) return;
  if (config.reset_optimizer && experience.index > 0) await policy.weightOp({ op: "reset_optimizer" });
  const rng = run.rng.fork("method", experience.index, "begin");
  const plan = method.beforeExperience({ experience, memory, rng });
  await carryOut(run, plan, { task_idx: experience.index, step: null, groups: null });
}

/** Before evaluation and save, so that both see what the method makes of the weights. */
export async function endExperience(run: Run, experience: Experience): Promise<void> {
  const { method, memory, policy } = run;
  const rng = run.rng.fork("method", experience.index, "end");
  const plan = method.afterExperience({ experience, memory, rng });
  await carryOut(run, plan, { task_idx: experience.index, step: null, groups: null });
  if (run.anchor === PREVIOUS_TASK_MODEL) await policy.weightOp({ op: "snapshot", name: PREVIOUS_TASK_MODEL });
}

export interface StepRecord extends StepFacts {
  readonly batches: readonly TrainingBatch[];
}

/** Rollouts and metrics to disk, the line to the console; stops the run when gradients stay broken. */
export async function recordStep(run: Run, { batches, ...facts }: StepRecord): Promise<void> {
  const { experience, step, groups, update } = facts;
  const row = trainRow(facts);
  const fresh = groups.filter(({ use }) => use !== "stored");
  await writeRollouts(run, `step_${stepName(run, experience, step)}`, fresh, { task_idx: experience.index, step });
  run.metrics.write(row);
  run.reporter.line(stepLine(row));
  for (const text of [tiedLine(row), staleLine(row)]) if (text !== null) run.reporter.line(text);
  if (step + 1 === Math.min(VARYING_GROUPS_STEPS, experience.steps)) warnWhenNothingVaries(run, row);
  run.policy_version += update.updates;
  run.nonfinite_steps = update.outcome === "nonfinite_gradient" ? run.nonfinite_steps + 1 : 0;
  if (update.outcome === "nonfinite_gradient") await reportNonfinite(run, row, batches);
}

/** Row of the score matrix; `experience` null: before training. */
export async function evaluateAll(run: Run, experience: Experience | null): Promise<void> {
  const { curriculum, reporter, metrics } = run;
  const task_idx = experience?.index ?? -1;
  const domain = experience?.domain ?? null;
  const evaluation = await evaluateSplits(
    run,
    curriculum.splits.map((split) => split.domain.name),
    { task_idx, step: null },
  );
  const { scores, rewards, baselines } = evaluation;
  if (experience === null) metrics.write({ kind: "baselines", baselines });
  reporter.line(domain === null ? "Evaluation before training" : `Evaluation after task ${task_idx} (${domain})`);
  reporter.line(evaluationTable(evaluation));
  await writeEvaluation(run, task_idx === -1 ? "base" : `task_${task_idx}`, evaluation, task_idx);
  if (experience !== null) writeEvalRow(run, experience, experience.steps - 1, evaluation);
  metrics.write({ kind: "scores", task_idx, domain, scores, rewards });
  if (experience !== null) metrics.write(transferRow(run, experience));
}

/** Of the current domain, between steps; a few tasks of earlier ones show what is being forgotten meanwhile. */
export async function evaluateCurrent(run: Run, experience: Experience, step: number): Promise<void> {
  await probeEarlier(run, experience, step);
  const evaluation = await evaluateSplits(run, [experience.domain], { task_idx: experience.index, step });
  run.reporter.line(`Evaluation after step ${step}`);
  run.reporter.line(evaluationTable(evaluation));
  await writeEvaluation(run, stepName(run, experience, step), evaluation, experience.index);
  writeEvalRow(run, experience, step, evaluation);
}

/** The stability gap (De Lange et al. 2023). */
async function probeEarlier(run: Run, { earlier, index }: Experience, step: number): Promise<void> {
  const { eval_probe_tasks } = run.config;
  const isThere = run.metrics.rows.some((row) => row.kind === "probe" && row.task_idx === index && row.step === step);
  if (eval_probe_tasks === 0 || earlier.length === 0 || isThere) return;
  const { scores } = await evaluateSplits(run, earlier, { task_idx: index, step }, eval_probe_tasks);
  const means = Object.entries(scores).map(([domain, { reward_mean }]) => [domain, reward_mean] as const);
  run.metrics.write({
    kind: "probe",
    task_idx: index,
    step,
    n_tasks: eval_probe_tasks,
    rewards: Object.fromEntries(means),
  });
  run.reporter.line(probeLine(step, means));
}

/** `standing`: the one that the weights are in. */
export async function save(run: Run, name: number | "latest", standing: Standing = standingOf(run)): Promise<void> {
  const { policy, memory, metrics, directory, signal } = run;
  metrics.flush();
  const path = directory.checkpoint(name);
  const { state } = standing;
  const { experience, step } = state.position;
  const place = name === "latest" ? { task_idx: experience, step: step - 1 } : { task_idx: name, step: null };
  const ahead = await standing.ahead;
  const content = { policy, memory, config: directory.config, state, ahead, metrics: metrics.path, signal };
  await timed(run, { ...place, phase: "checkpoint" }, () => orAborted(signal, saveCheckpoint(path, content)));
  run.last_checkpoint = path;
  run.reporter.line(`Saved ${path}`);
}

/** The picture and the closing words. */
export async function close(run: Run): Promise<readonly MetricsRow[]> {
  const { metrics, reporter, directory, phases, endpoints } = run;
  await writeLearningCurves(run);
  const spending = spendingLines(endpoints);
  const transfer = metrics.rows.findLast((row) => row.kind === "transfer") ?? null;
  const names = ["config.json", "metrics.json", "metrics.jsonl", "timings.jsonl", ...CURVES, "rollouts/", "run.log"];
  const files = [
    ...names.map((name) => directory.file(name)),
    ...(run.last_checkpoint === null ? [] : [run.last_checkpoint]),
  ];
  reporter.line(closingSummary({ scores: scoresRowsOf(metrics.rows), transfer, phases, spending, files }));
  return metrics.rows;
}

interface Place {
  readonly task_idx: number;
  readonly step: number | null;
}

/** `probe_tasks`: only the first tasks of each domain, once each. */
async function evaluateSplits(
  run: Run,
  domains: readonly string[],
  place: Place,
  probe_tasks: number | null = null,
): Promise<Evaluation> {
  const { curriculum, rollouts, config, policy, policy_version, anchor, method } = run;
  const splits = domains.map((domain) => curriculum.split(domain));
  const small = splits.map((split) => ({ ...split, test: split.test.slice(0, probe_tasks ?? undefined) }));
  const drift = place.step === null && anchor === BASE_MODEL ? { policy, base: BASE_MODEL } : null; // a whole row only
  const enter = async (domain: string) => {
    await carryOut(run, method.beforeDomain(domain), { ...place, groups: null });
  };
  const trials = probe_tasks === null ? config.eval_trials : 1;
  const evaluation = await timed(run, { ...place, phase: "evaluation" }, () =>
    evaluateDomains(small, { rollouts, config, policy_version, drift, enter, trials }),
  );
  const current = curriculum.experiences[place.task_idx];
  if (current !== undefined) await enter(current.domain);
  return evaluation;
}

function writeEvalRow(run: Run, { index, domain }: Experience, step: number, { scores }: Evaluation): void {
  const score = scores[domain];
  if (score === undefined) throw new Error(`evaluation: no score of ${domain}`);
  run.metrics.write({ kind: "eval", task_idx: index, domain, step, score });
}

const transferRow = ({ metrics, config, method }: Run, { index, domain }: Experience): TransferRow => ({
  kind: "transfer",
  task_idx: index,
  domain,
  ...transferMetrics(trainedRows(metrics.rows, method.name), config.eval_seed),
});

/** Once an experience, from its rows so far, so that a resumed run says the same. */
function warnWhenNothingVaries({ metrics, reporter }: Run, { task_idx, domain }: TrainRow): void {
  const rows = metrics.rows.filter((row) => row.kind === "train" && row.task_idx === task_idx) as TrainRow[];
  const groups = sum(rows, "rollout/groups");
  const varying = 1 - sum(rows, "rollout/groups_tied") / groups;
  if (groups === 0 || varying >= VARYING_GROUPS_MIN) return;
  const percent = (varying * 100).toFixed(1);
  reporter.line(
    warning(
      `only ${percent} % of ${domain}'s groups vary in reward, so there is next to nothing to learn from. ` +
        "A warm start on recorded conversations (grpo-cl sft), larger groups (num_samples_per_prompt), a higher " +
        "temperature or a stronger model help",
    ),
  );
}

const sum = (rows: readonly TrainRow[], name: "rollout/groups" | "rollout/groups_tied"): number =>
  rows.reduce((total, row) => total + (row[name] ?? 0), 0);

async function reportNonfinite(
  run: Run,
  { task_idx, step }: TrainRow,
  batches: readonly TrainingBatch[],
): Promise<void> {
  const name = `nonfinite_task_${task_idx}_step_${step}.json.zst`;
  await run.directory.writeCompressed(name, JSON.stringify(batches.map(plainBatch)));
  const what = `the gradient of task ${task_idx}, step ${step} is not finite: the step was skipped, its batch is in ${run.directory.file(name)}`;
  run.reporter.line(warning(what));
  if (run.nonfinite_steps >= NONFINITE_STEPS_MAX)
    throw new UserError(
      "training",
      `${NONFINITE_STEPS_MAX} steps in a row had a gradient that is not finite. Lower learning_rate, or resume from an earlier checkpoint`,
    );
}

const plainBatch = (batch: TrainingBatch) =>
  Object.fromEntries(Object.entries(batch).map(([name, values]) => [name, Array.from(values as Float32Array)]));

async function writeEvaluation(run: Run, name: string, { groups }: Evaluation, task_idx: number): Promise<void> {
  for (const [domain, those] of Object.entries(groups))
    await writeRollouts(run, `eval_${name}_${domain}`, those, { task_idx, step: -1 });
}

async function writeRollouts(
  run: Run,
  name: string,
  groups: readonly Group[],
  place: { task_idx: number; step: number },
) {
  const lines = trajectoriesOf(groups, place).map((rollout) => `${trajectoryText(rollout, { with_logprobs: true })}\n`);
  await run.directory.writeCompressed(`rollouts/${name}.jsonl.zst`, lines.join(""));
}

/** Counted over the whole run. */
const stepName = ({ config }: Run, { index }: Experience, step: number): string =>
  String(index * config.num_steps_per_task + step).padStart(6, "0");
