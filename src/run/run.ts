/** A run under way: everything the loop reads, and the few values that move with it. */
import { Rng } from "../base/rng.ts";
import type { Checkpoint } from "../checkpoint/load.ts";
import type { Position, RunState } from "../checkpoint/state.ts";
import type { StepGroups } from "../checkpoint/step-groups.ts";
import { newAdapter } from "../cl/adapter.ts";
import { TrajectoryBuffer } from "../cl/memory.ts";
import type { ContinualMethod } from "../cl/method.ts";
import type { RunConfig } from "../config/schema.ts";
import type { ModelName, Policy } from "../core/policy.ts";
import { Curriculum } from "../curriculum/curriculum.ts";
import { MetricsWriter, type TimingRow } from "../metrics/writer.ts";
import { PhaseTimes } from "../rollout/phase-times.ts";
import { orAborted } from "./abort.ts";
import { checkContext } from "./context.ts";
import { RunDirectory } from "./directory.ts";
import {
  carryOver,
  type Endpoints,
  judgeMaker,
  openEndpoints,
  settledEndpoints,
  spendingOf,
  spentBefore,
  spentSince,
} from "./endpoints.ts";
import { expectedCalls, expectedRollouts } from "./expected-calls.ts";
import { BASE_MODEL, PREVIOUS_TASK_MODEL } from "./models.ts";
import { solvedByNothing } from "./noop.ts";
import { excludedTasks, powerLines, type Reporter, runHead, teeReporter, warning } from "./report.ts";
import { checkResume } from "./resume.ts";
import { Rollouts } from "./rollouts.ts";
import type { Session } from "./session.ts";
import { chooseUsers, loadUserModel, type Users } from "./users.ts";

export interface Run {
  readonly config: RunConfig;
  readonly session: Session;
  readonly policy: Policy;
  readonly directory: RunDirectory;
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
  readonly rng: Rng;
  readonly curriculum: Curriculum;
  readonly method: ContinualMethod;
  readonly memory: TrajectoryBuffer;
  readonly metrics: MetricsWriter;
  readonly rollouts: Rollouts;
  readonly endpoints: Endpoints;
  /** Phase → milliseconds so far; `rollout/decode` is a part of `rollout`. */
  readonly phases: Map<string, number>;
  /** What conversations take outside the core, since it was last noted. */
  readonly times: PhaseTimes;
  /** Frozen model that the KL is measured against; null without KL. */
  readonly anchor: ModelName | null;
  /** Frozen models that the method has made. */
  readonly models: Set<ModelName>;
  /** The next step. */
  position: Position;
  /** Optimizer updates so far. */
  policy_version: number;
  /** Steps in a row whose gradient was not finite. */
  nonfinite_steps: number;
  /** Path of the newest one. */
  last_checkpoint: string | null;
  /** Where the weights stand, where a cost limit may stop the run (budget-stop.ts). */
  resumable: Standing | null;
  /** The next step's rollouts, where they were begun before this step's update. */
  ahead: Promise<StepGroups> | null;
}

export async function openRun(config: RunConfig, session: Session): Promise<Run> {
  const { policy, domains, method, resume, edge } = session;
  if (resume !== null) checkResume(config, method, resume, edge.reporter);
  const rng = Rng.from(config.seed);
  const curriculum = new Curriculum({ ...config, domains, rng: rng.fork("curriculum"), solvedByNothing });
  const endpoints = openEndpoints(config, edge, spentBefore(resume));
  const users = chooseUsers(config, domains, endpoints);
  await checkContext(config, { policy, domains });
  const directory = new RunDirectory({ ...config, user: users.config }, resume);
  const reporter = teeReporter(edge.reporter, (text) => directory.log(text));
  reporter.line(runHead(describe(directory, config, session, { users, endpoints })));
  for (const text of [...users.warnings, ...excludedTasks(curriculum.splits)]) reporter.line(warning(text));
  for (const text of powerLines(curriculum.splits, config.eval_trials)) reporter.line(text);
  const position = resume?.state.position ?? { experience: 0, step: 0 };
  const expected = expectedRollouts(config, curriculum, { position, begun: resume !== null });
  for (const text of expectedCalls(config, expected)) reporter.line(text);
  await prepareWeights(config, session, users);
  const userInfo = await loadUserModel(policy, users, session.user_model_directory);
  const memory =
    resume?.memory(config.replay_buffer_size) ?? new TrajectoryBuffer({ capacity: config.replay_buffer_size });
  if (resume !== null) restore({ curriculum, method, resume });
  const metrics = new MetricsWriter(directory.path);
  carryOver(endpoints, metrics, directory.path);
  const times = new PhaseTimes(edge.now);
  const makers = { makeUser: users.maker(userInfo, session), makeJudge: judgeMaker(endpoints) };
  return {
    config,
    session,
    policy,
    directory,
    reporter,
    signal: edge.signal,
    rng,
    curriculum,
    method,
    memory,
    metrics,
    rollouts: new Rollouts({ config, policy, ...makers, times, reporter, signal: edge.signal }),
    endpoints,
    phases: new Map(),
    times,
    anchor: anchorOf(config),
    models: new Set(resume?.state.models.filter((name) => name !== PREVIOUS_TASK_MODEL)),
    position,
    policy_version: resume?.state.policy_version ?? 0,
    nonfinite_steps: resume?.state.nonfinite_steps ?? 0,
    last_checkpoint: resume?.path ?? null,
    resumable: null,
    ahead: resume === null || resume.ahead === null ? null : Promise.resolve(resume.ahead),
  };
}

/** What a checkpoint says beside the weights. */
export interface Standing {
  readonly state: RunState;
  readonly ahead: Promise<StepGroups> | null;
}

export const standingOf = (run: Run): Standing => ({ state: stateOf(run), ahead: run.ahead });

const stateOf = (run: Run): RunState => ({
  position: run.position,
  policy_version: run.policy_version,
  nonfinite_steps: run.nonfinite_steps,
  spent_usd: run.endpoints.budget.spent_usd,
  sampler: run.curriculum.state(),
  models: [...run.models, ...(run.anchor === PREVIOUS_TASK_MODEL ? [PREVIOUS_TASK_MODEL] : [])],
  method: { name: run.method.name, state: run.method.state() },
});

/**
 * Runs `work`, and notes in timings.jsonl how long it took and what was paid for it, also when it fails; when it does not, also
 * what the time went into. Parts overlap where a conversation waits for its user while the core is at work.
 */
export async function timed<T>(
  run: Run,
  {
    phase,
    step = null,
    task_idx,
  }: { readonly phase: string; readonly task_idx: number; readonly step?: number | null },
  work: () => Promise<T>,
): Promise<T> {
  const { endpoints, session, policy, times } = run;
  const { now } = session.edge;
  const before = spendingOf(endpoints);
  const began = now();
  try {
    const result = await work();
    const parts = { ...times.take(), ...(await orAborted(run.signal, policy.timings())) };
    for (const [part, ms] of Object.entries(parts))
      if (ms > 0) note(run, { task_idx, step, phase: part, within: phase, ms });
    return result;
  } finally {
    if (endpoints.budget.reached) await settledEndpoints(endpoints);
    note(run, { task_idx, step, phase, ms: now() - began, ...spentSince(before, spendingOf(endpoints)) });
  }
}

/** In timings.jsonl, to the microsecond, and for the closing words. */
function note({ phases, metrics }: Run, row: TimingRow & { readonly within?: string }): void {
  const name = row.within === undefined ? row.phase : `${row.within}/${row.phase}`;
  phases.set(name, (phases.get(name) ?? 0) + row.ms);
  metrics.timing({ ...row, ms: Math.round(row.ms * 1000) / 1000 });
}

const anchorOf = ({ kl_coef, kl_anchor }: RunConfig): ModelName | null =>
  kl_coef === 0 ? null : kl_anchor === "base" ? BASE_MODEL : PREVIOUS_TASK_MODEL;

/** Weights, moments and frozen models of the checkpoint; the frozen step-0 model where it is needed; the adapter. */
async function prepareWeights(config: RunConfig, session: Session, users: Users): Promise<void> {
  const { policy, resume, method } = session;
  const anchor = anchorOf(config);
  // the policy was opened as it was before any training, also to go on
  if (anchor === BASE_MODEL || users.needsBase) await policy.weightOp({ op: "snapshot", name: BASE_MODEL });
  if (resume !== null) return policy.loadState(resume.optimizer_file);
  if (anchor === PREVIOUS_TASK_MODEL) await policy.weightOp({ op: "snapshot", name: PREVIOUS_TASK_MODEL });
  if (config.lora_r > 0 && !method.ownAdapters)
    await policy.weightOp(newAdapter("default", config, Rng.from(config.seed)));
}

function restore({
  curriculum,
  method,
  resume,
}: {
  curriculum: Curriculum;
  method: ContinualMethod;
  resume: Checkpoint;
}): void {
  curriculum.restore(resume.state.sampler);
  method.restore(resume.state.method.state);
}

function describe(
  directory: RunDirectory,
  config: RunConfig,
  session: Session,
  { users, endpoints }: { readonly users: Users; readonly endpoints: Endpoints },
) {
  const { parameters, dtype, device } = session.policy.info;
  const facts = {
    log_dir: config.log_dir,
    model: config.model_name_or_path,
    parameters,
    dtype,
    device,
    method: session.method.name,
    users: users.identities,
    judge: endpoints.judge?.identity ?? null,
  };
  directory.describe(facts);
  return facts;
}
