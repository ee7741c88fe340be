/** Evaluation without training: what `grpo-cl eval` and the API's `evaluate` do with an opened session. */
import { Rng } from "../base/rng.ts";
import type { RunConfig } from "../config/schema.ts";
import { Curriculum } from "../curriculum/curriculum.ts";
import { usableTasks } from "../curriculum/nl-assertions.ts";
import { type DomainSplit, tasksOfSplit } from "../curriculum/split.ts";
import { BudgetError } from "../rollout/budget.ts";
import { needsJudge } from "../tau2/evaluator.ts";
import { asBudgetStop } from "./budget-stop.ts";
import { carryOutAlone } from "./carry-out.ts";
import { checkContext } from "./context.ts";
import { judgeMaker, openEndpoints, spendingLines } from "./endpoints.ts";
import { type Evaluation, evaluateDomains } from "./evaluate.ts";
import { type ExpectedRollouts, expectedCalls } from "./expected-calls.ts";
import { BASE_MODEL } from "./models.ts";
import { solvedByNothing } from "./noop.ts";
import { warning } from "./report.ts";
import { Rollouts } from "./rollouts.ts";
import type { Session } from "./session.ts";
import { chooseUsers, loadUserModel } from "./users.ts";

/** Tasks of a domain: those held out (`test`), those trained on (`train`), all, or a split of its own (`base`, `small` …). */
export type EvaluatedSplit = "test" | "train" | "all" | (string & {});

export interface EvaluateSessionOptions {
  readonly split: EvaluatedSplit;
  /** Absent: all of `task_order`. */
  readonly domain?: string | null;
  /** Optimizer updates so far. */
  readonly policy_version?: number;
}

/** Every domain under the weights that the session's method has for it; then those of the domain trained last are back. */
export async function evaluateSession(
  config: RunConfig,
  session: Session,
  { split, domain = null, policy_version = 0 }: EvaluateSessionOptions,
): Promise<Evaluation> {
  const { policy, domains, method, edge } = session;
  await checkContext(config, { policy, domains });
  const endpoints = openEndpoints(config, edge);
  const users = chooseUsers(config, domains, endpoints);
  for (const text of users.warnings) edge.reporter.line(warning(text));
  // After training the frozen step-0 policy is there already, and the live one must not take its place.
  if (users.needsBase && policy_version === 0) await policy.weightOp({ op: "snapshot", name: BASE_MODEL });
  const userInfo = await loadUserModel(policy, users, session.user_model_directory);
  const makers = { makeUser: users.maker(userInfo, session), makeJudge: judgeMaker(endpoints) };
  const rollouts = new Rollouts({ config, policy, ...makers, reporter: edge.reporter, signal: edge.signal });
  const curriculum = new Curriculum({ ...config, domains, rng: Rng.from(config.seed), solvedByNothing });
  const splits = curriculum.splits
    .filter((each) => domain === null || each.domain.name === domain)
    .map((both) => evaluated(both, split, config.eval_max_tasks ?? undefined));
  const enter = (name: string) => carryOutAlone(policy, method.beforeDomain(name));
  for (const text of expectedCalls(config, evaluationOnly(config, splits))) edge.reporter.line(text);
  try {
    const evaluation = await evaluateDomains(splits, { rollouts, config, policy_version, enter });
    const last = curriculum.experiences.at(-1);
    if (last !== undefined) await enter(last.domain);
    return evaluation;
  } catch (error) {
    throw error instanceof BudgetError ? asBudgetStop(error, config) : error;
  } finally {
    for (const text of spendingLines(endpoints)) edge.reporter.line(text);
  }
}

function evaluationOnly({ eval_trials }: RunConfig, splits: readonly DomainSplit[]): ExpectedRollouts {
  const tasks = splits.flatMap(({ test }) => test);
  return { train: 0, eval: tasks.length * eval_trials, judged: tasks.filter(needsJudge).length * eval_trials };
}

function evaluated(both: DomainSplit, split: EvaluatedSplit, tasksMax: number | undefined): DomainSplit {
  if (split === "test") return both;
  const { domain, nl_assertions, train, excluded } = both;
  const chosen =
    split === "train"
      ? { tasks: train, excluded: excluded.train }
      : usableTasks(tasksOfSplit(domain, split), nl_assertions);
  const trained = new Set(train.map(({ id }) => id));
  const test = chosen.tasks.slice(0, tasksMax);
  return {
    ...both,
    test,
    contaminated: test.some(({ id }) => trained.has(id)),
    excluded: { ...excluded, test: chosen.excluded },
  };
}
