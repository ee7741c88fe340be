/** A run under way: everything the loop reads, and the few values that move with it. */
import { Rng } from "../base/rng.ts";
import type { Checkpoint } from "../checkpoint/load.ts";
import type { Position, RunState } from "../checkpoint/state.ts";
import { TrajectoryBuffer } from "../cl/memory.ts";
import type { ContinualMethod } from "../cl/method.ts";
import type { RunConfig } from "../config/schema.ts";
import type { ModelName, Policy } from "../core/policy.ts";
import { Curriculum } from "../curriculum/curriculum.ts";
import { MetricsWriter } from "../metrics/writer.ts";
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
import { BASE_MODEL } from "./models.ts";
import { solvedByNothing } from "./noop.ts";
import { excludedTasks, type Reporter, runHead, teeReporter, warning } from "./report.ts";
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
  /** Phase → milliseconds so far. */
  readonly phases: Map<string, number>;
  /** Frozen model that the KL is measured against; null without KL. */
  readonly anchor: ModelName | null;
  /** The next step. */
  position: Position;
  /** Optimizer updates so far. */
  policy_version: number;
  /** Steps in a row whose gradient was not finite. */
  nonfinite_steps: number;
  /** Path of the newest one. */
  last_checkpoint: string | null;
  /** The state that the weights are in, where a cost limit may stop the run (budget-stop.ts). */
  resumable: RunState | null;
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
    rollouts: new Rollouts({ config, policy, ...makers, reporter, signal: edge.signal }),
    endpoints,
    phases: new Map(),
    anchor: config.kl_coef > 0 ? BASE_MODEL : null,
    position,
    policy_version: resume?.state.policy_version ?? 0,
    nonfinite_steps: resume?.state.nonfinite_steps ?? 0,
    last_checkpoint: resume?.path ?? null,
    resumable: null,
  };
}

export const stateOf = (run: Run): RunState => ({
  position: run.position,
  policy_version: run.policy_version,
  nonfinite_steps: run.nonfinite_steps,
  spent_usd: run.endpoints.budget.spent_usd,
  sampler: run.curriculum.state(),
  method: { name: run.method.name, state: run.method.state() },
});

/** Runs `work`, and notes in timings.jsonl how long it took and what was paid for it, also when it fails. */
export async function timed<T>(
  run: Run,
  {
    phase,
    step = null,
    task_idx,
  }: { readonly phase: string; readonly task_idx: number; readonly step?: number | null },
  work: () => Promise<T>,
): Promise<T> {
  const { endpoints, session, phases, metrics } = run;
  const { now } = session.edge;
  const before = spendingOf(endpoints);
  const began = now();
  try {
    return await work();
  } finally {
    if (endpoints.budget.reached) await settledEndpoints(endpoints);
    const ms = now() - began;
    phases.set(phase, (phases.get(phase) ?? 0) + ms);
    metrics.timing({ task_idx, step, phase, ms, ...spentSince(before, spendingOf(endpoints)) });
  }
}

/** Weights and moments of the checkpoint, and the frozen step-0 model where it is needed. */
async function prepareWeights(config: RunConfig, session: Session, users: Users): Promise<void> {
  const { policy, resume, model_directory } = session;
  if (resume !== null) await policy.loadState(resume.optimizer_file);
  if (config.kl_coef === 0 && !users.needsBase) return;
  if (resume === null) await policy.weightOp({ op: "snapshot", name: BASE_MODEL });
  else await policy.loadModel(BASE_MODEL, model_directory);
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
