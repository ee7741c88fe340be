/** Carries a method's plan out, operation by operation, and tells the plan what each came to. */
import { assertNever, UserError } from "../base/errors.ts";
import type { Rng } from "../base/rng.ts";
import type { ModelName, WeightOp } from "../base/weight-op.ts";
import type { ExtraLoss, MethodOp, OpReport, Plan } from "../cl/method.ts";
import type { LossOptions, Policy, TrainingBatch } from "../core/policy.ts";
import { packBatches } from "../grpo/batch.ts";
import { scored } from "../metrics/score.ts";
import type { Group, Rollout } from "../rollout/types.ts";
import { orAborted } from "./abort.ts";
import { BASE_MODEL, PREVIOUS_TASK_MODEL, USER_MODEL } from "./models.ts";
import { type Run, timed } from "./run.ts";
import { distributionsOf, sequenceBatch, type WeighedSequence, type Weighing } from "./sequences.ts";
import { lossOptions } from "./update.ts";

export interface Occasion {
  readonly task_idx: number;
  /** null: before or after an experience. */
  readonly step: number | null;
  /** What was rolled out, while a gradient is being made; null at other times. */
  readonly groups: readonly Group[] | null;
}

/** What the plan returned, if that is a number. */
export async function carryOut(run: Run, plan: Plan, occasion: Occasion): Promise<number | null> {
  const steps = plan[Symbol.iterator]();
  let next = steps.next(NOTHING);
  const work = async () => {
    for (let count = 0; next.done !== true; count++)
      next = steps.next(await orAborted(run.signal, carriedOut(run, next.value, { ...occasion, count })));
    return typeof next.value === "number" ? next.value : null;
  };
  const { task_idx, step, groups } = occasion;
  // A gradient's plan is a part of the update's time.
  return next.done === true || groups !== null ? work() : timed(run, { task_idx, step, phase: "method" }, work);
}

/** As `carryOut`, where there is no run around the policy: operations on its weights alone. */
export async function carryOutAlone(policy: Policy, plan: Plan): Promise<void> {
  const steps = plan[Symbol.iterator]();
  const models = new Set<ModelName>();
  for (let next = steps.next(NOTHING); next.done !== true; ) {
    const op = next.value;
    if (OF_A_RUN.has(op.op)) throw new UserError("method", `${op.op} can only be carried out while a run is trained`);
    next = steps.next({ ...NOTHING, value: await weightOp({ policy, models }, op as WeightOp) });
  }
}

const OF_A_RUN: ReadonlySet<string> = new Set<Exclude<MethodOp["op"], WeightOp["op"]>>([
  "probe",
  "importance",
  "backward",
  "record_distributions",
]);

const NOTHING: OpReport = { value: 0, rewards: {}, distributions: [] };

/** `count`: operations of this plan before this one. */
type Place = Occasion & { readonly count: number };

async function carriedOut(run: Run, op: MethodOp, place: Place): Promise<OpReport> {
  switch (op.op) {
    case "probe":
      return { ...NOTHING, rewards: await probed(run, op) };
    case "importance":
      return { ...NOTHING, value: await measuredImportance(run, op, place) };
    case "backward":
      return { ...NOTHING, value: await addedGradient(run, op, place) };
    case "record_distributions":
      return { ...NOTHING, distributions: await recorded(run, op) };
    default:
      return { ...NOTHING, value: await weightOp(run, op) };
  }
}

/** Held complete by the type; a user's method is not held by it. */
const WEIGHT_OPS: Readonly<Record<WeightOp["op"], true>> = {
  reset_optimizer: true,
  snapshot: true,
  drop: true,
  combine: true,
  add_product: true,
  dot: true,
  consolidate: true,
  add_quadratic_penalty: true,
  project_gradient: true,
  add_path_importance: true,
  merge_ties: true,
  merge_dare: true,
  merge_fisher: true,
  add_adapter: true,
  load_adapter: true,
  activate_adapter: true,
  add_orthogonal_penalty: true,
  merge_adapters: true,
};

const OF_THE_RUN: readonly ModelName[] = ["policy", BASE_MODEL, USER_MODEL, PREVIOUS_TASK_MODEL];

async function weightOp({ policy, models }: Pick<Run, "policy" | "models">, op: WeightOp): Promise<number> {
  if (!Object.hasOwn(WEIGHT_OPS, op.op)) {
    const known = [...OF_A_RUN, ...Object.keys(WEIGHT_OPS)];
    throw new UserError(
      "method",
      `it asks for the operation ${op.op}, which nothing carries out. Known: ${known.join(", ")}`,
    );
  }
  if ((op.op === "snapshot" || op.op === "drop") && OF_THE_RUN.includes(op.name))
    throw new UserError("method", `${op.op}: the name ${op.name} is the run's own`);
  const { value } = await policy.weightOp(op);
  if (op.op === "snapshot") models.add(op.name);
  if (op.op === "drop") models.delete(op.name);
  return value;
}

/** The same tasks and random streams in every probe of a run. */
async function probed(run: Run, op: Extract<MethodOp, { readonly op: "probe" }>): Promise<Record<string, number>> {
  const rng = run.rng.fork("probe");
  const rewards: Record<string, number> = {};
  for (const domain of op.domains) {
    const groups = await measured(run, domain, {
      rng: rng.fork(domain),
      tasks_max: op.tasks_max,
      samples: op.trials,
      temperature: run.config.eval_temperature,
      label: `probing ${domain}`,
    });
    rewards[domain] = mean(groups.flatMap(scored).map(({ reward }) => reward));
  }
  return rewards;
}

/** Gives the constant that a quadratic has gained. */
async function measuredImportance(
  run: Run,
  op: Extract<MethodOp, { readonly op: "importance" }>,
  place: Place,
): Promise<number> {
  const { policy } = run;
  const rng = run.rng.fork("importance", place.task_idx, place.step ?? -1, place.count);
  const rollouts: Rollout[] = [];
  for (const domain of op.domains) {
    const label = `measuring importance on ${domain}`;
    const how = { rng: rng.fork(domain), tasks_max: op.tasks_max, samples: 1, temperature: 1, label };
    rollouts.push(...(await measured(run, domain, how)).flatMap(scored));
  }
  const [loss, weighing, of] = IMPORTANCES[op.of];
  const batch = sequenceBatch(rollouts, weighing);
  if (batch === null)
    throw new UserError("method", `importance: no rollout of ${op.domains.join(", ")} has a token that was sampled`);
  const share = 1 / (batch.offsets.length - 1);
  const mean = scaled(batch, of === "square" ? Math.sqrt(share) : share);
  const { into, anchor } = op;
  if (anchor === undefined) await policy.weightOp({ op: "combine", into, terms: [] });
  return (await policy.addImportance(mean, loss, { into, of, ...(anchor === undefined ? {} : { anchor }) })).value;
}

const IMPORTANCES: Readonly<
  Record<Extract<MethodOp, { op: "importance" }>["of"], readonly [LossOptions, Weighing, "square" | "absolute"]>
> = {
  log_probability: [{ kind: "nll", temperature: 1 }, "sum", "square"],
  output_norm: [{ kind: "output_norm" }, "mean_each", "absolute"],
};

interface Measurement {
  readonly rng: Rng;
  readonly tasks_max: number;
  readonly samples: number;
  readonly temperature: number;
  readonly label: string;
}

/** Rollouts of training tasks that nothing is trained on. */
function measured(run: Run, name: string, { rng, tasks_max, ...how }: Measurement): Promise<Group[]> {
  const { domain, train } = run.curriculum.split(name);
  const tasks = rng.fork("tasks").shuffle(train).slice(0, tasks_max);
  const planned = tasks.map((task) => ({ domain, task, replayed: false }));
  const seed = Number(rng.fork("rollouts").uint64() >> 11n);
  return run.rollouts.measure(planned, { ...how, seed, policy_version: run.policy_version });
}

/** Adds to the accumulated gradient; gives strength · loss. */
async function addedGradient(
  run: Run,
  { loss, strength }: Extract<MethodOp, { readonly op: "backward" }>,
  { groups }: Place,
): Promise<number> {
  if (groups === null)
    throw new UserError("method", "backward: only beforeUpdate (preStepHook) can add to the gradient of a step");
  let sum = 0;
  for (const { batch, options } of passesOf(run, loss, { groups, strength }))
    sum += (await run.policy.forwardBackward(batch, options)).loss;
  return sum;
}

interface Pass {
  readonly batch: TrainingBatch;
  readonly options: LossOptions;
}

function passesOf(
  { config, anchor }: Run,
  loss: ExtraLoss,
  { groups, strength }: { readonly groups: readonly Group[]; readonly strength: number },
): Pass[] {
  const { temperature } = config;
  const one = (sequences: readonly WeighedSequence[], options: LossOptions): Pass[] => {
    const batch = sequenceBatch(sequences, { mean: strength });
    return batch === null ? [] : [{ batch, options }];
  };
  switch (loss.kind) {
    case "reference": {
      const reference = groups.filter(({ use }) => use === "reference");
      const whole = { ...config, num_mini_batches: 1, completion_tokens_max: config.max_new_tokens };
      return packBatches(reference, whole).mini_batches.map((batch) => ({
        batch: scaled(batch, strength),
        options: lossOptions(config, anchor),
      }));
    }
    case "distill": {
      const current = groups.filter(({ replayed }) => !replayed).flatMap(scored);
      return one(current, { kind: "distill", anchor: loss.model, temperature });
    }
    case "distill_stored":
      return one(loss.sequences, { kind: "distill_stored", temperature });
    case "nll":
      return one(
        loss.sequences.map(({ tokens, sampled_mask }) => ({ tokens, sampled_mask })),
        { kind: "nll", temperature },
      );
    default:
      return assertNever(loss);
  }
}

const scaled = (batch: TrainingBatch, factor: number): TrainingBatch =>
  factor === 1 ? batch : { ...batch, weights_N: batch.weights_N.map((weight) => weight * factor) };

async function recorded({ policy, config }: Run, op: Extract<MethodOp, { readonly op: "record_distributions" }>) {
  const { sequences, k } = op;
  const batch = sequenceBatch(sequences, "sum");
  if (batch === null) return [];
  const { temperature } = config;
  return distributionsOf(sequences, await policy.topLogprobs("policy", batch, { temperature, k }));
}

const mean = (values: readonly number[]): number =>
  values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length;
