/**
 * A recorded simulation again, through our environment and our evaluator: does every tool answer as recorded, and does
 * every check come out as recorded?
 */
import { pythonEquals, tryParseExact } from "../base/exact.ts";
import { setState } from "./environment.ts";
import { evaluate, isScored, needsJudge } from "./evaluator.ts";
import { PythonError } from "./python.ts";
import type { RecordedReward, RecordedRun } from "./recorded.ts";
import type { Domain, EvaluationCriteria, Message, RewardInfo, Task } from "./types.ts";

export interface Replayed {
  /** null: the original's evaluator raises on this run; `problem` says what. */
  readonly reward: number | null;
  readonly reward_info: RewardInfo | null;
  /** Fields that came out otherwise than recorded, in the order of a RewardInfo: `action_checks[2].action_match`. */
  readonly differs: readonly string[];
  /** What the evaluator raises. */
  readonly problem: string | null;
  /** How the reward was made where that is not plain. */
  readonly notes: readonly string[];
  readonly tool_results: ToolResults;
}

export interface ToolResults {
  readonly checked: number;
  /** Messages whose content is not what our tool answers: `messages[7].content`. */
  readonly differs: readonly string[];
}

/** `verdictsFit`: the recorded verdicts are on the assertions of this very task. */
export function replayRun(
  run: RecordedRun & { readonly messages: readonly Message[] },
  { domain, task, verdictsFit }: { readonly domain: Domain; readonly task: Task; readonly verdictsFit: boolean },
): Replayed {
  const tool_results = replayTools(domain, task, run.messages);
  const notes: string[] = [];
  const recorded = run.reward_info;
  const verdicts = verdictsFit && recorded?.nl_assertions?.length ? recorded.nl_assertions : null;
  const judged = needsJudge(task) && isScored(run.termination);
  const leftOut = judged && verdicts === null;
  if (leftOut) notes.push("no recorded verdicts: NL_ASSERTION left out");
  else if (judged) notes.push("recorded verdicts");
  const scored = leftOut ? withoutNl(task) : task;
  const simulation = { messages: run.messages, termination: run.termination };
  const score = (strict: boolean) => evaluate({ domain, task: scored, simulation, strict, verdicts });
  const strictly = raised(() => score(true));
  const reward_info = strictly instanceof PythonError ? raised(() => score(false)) : strictly;
  if (strictly instanceof PythonError) notes.push("a write answers otherwise than recorded; scored all the same");
  const problem = strictly instanceof PythonError ? `${strictly.type}: ${strictly.message.split("\n")[0]}` : null;
  if (reward_info instanceof PythonError)
    return { reward: null, reward_info: null, differs: ["reward"], problem, notes, tool_results };
  const differs = recorded === null ? [] : differences(recorded, reward_info, leftOut);
  const changed = recorded === null ? -1 : changedAction(recorded, reward_info);
  if (changed !== -1) notes.push(`action_checks[${changed}].action was another then`);
  return {
    reward: reward_info.reward,
    reward_info,
    differs: problem === null ? differs : [...tool_results.differs.slice(0, 1), ...differs],
    problem,
    notes: recorded === null ? [...notes, "not scored when recorded"] : notes,
    tool_results,
  };
}

function raised<T>(run: () => T): T | PythonError {
  try {
    return run();
  } catch (error) {
    if (error instanceof PythonError) return error;
    throw error;
  }
}

function withoutNl(task: Task): Task {
  const criteria = task.evaluation_criteria as EvaluationCriteria;
  return {
    ...task,
    evaluation_criteria: { ...criteria, reward_basis: criteria.reward_basis.filter((kind) => kind !== "NL_ASSERTION") },
  };
}

// ---------------------------------------------------------------------------------------------------------------------
// Tools

/** Every call, reads included, on one environment; results pair with calls by their order. */
function replayTools(domain: Domain, task: Task, messages: readonly Message[]): ToolResults {
  const environment = domain.createEnvironment();
  const initial = raised(() =>
    setState({ domain, environment, initialState: task.initial_state, history: [], strict: true }),
  );
  if (initial instanceof PythonError) return { checked: 0, differs: [] };
  const calls = messages.flatMap((message) => (message.role === "tool" ? [] : (message.tool_calls ?? [])));
  const results = messages.flatMap((message, index) => (message.role === "tool" ? [{ message, index }] : []));
  const differs = calls.flatMap((call, i) => {
    const ours = environment.getResponse(call);
    const recorded = results[i];
    if (recorded === undefined) return [];
    const { content } = recorded.message;
    const bothFail = ours.error && (recorded.message.error || (content ?? "").startsWith("Error"));
    return bothFail || sameContent(ours.content, content) ? [] : [`messages[${recorded.index}].content`];
  });
  return { checked: calls.length, differs };
}

function sameContent(a: string | null, b: string | null): boolean {
  if (a === b || a === null || b === null) return a === b;
  const [x, y] = [tryParseExact(a), tryParseExact(b)];
  return x !== undefined && y !== undefined && pythonEquals(x, y);
}

// ---------------------------------------------------------------------------------------------------------------------
// Checks

/** Where the recording holds null it compares nothing. Without verdicts the recorded reward is taken without NL_ASSERTION, too. */
function differences(recorded: RecordedReward, ours: RewardInfo, withoutVerdicts: boolean): string[] {
  const { db_match, env_assertions, action_checks, communicate_checks, nl_assertions } = recorded;
  const reward = withoutVerdicts ? rewardWithoutNl(recorded) : recorded.reward;
  return [
    ...(db_match !== null && ours.db_check !== null && db_match !== ours.db_check.db_match
      ? ["db_check.db_match"]
      : []),
    ...listDifferences(
      "env_assertions",
      "met",
      env_assertions,
      ours.env_assertions?.map(({ met }) => met),
    ),
    ...listDifferences(
      "action_checks",
      "action_match",
      action_checks,
      ours.action_checks?.map(({ action_match }) => action_match),
    ),
    ...(ours.nl_assertions === null
      ? []
      : listDifferences(
          "nl_assertions",
          "met",
          nl_assertions?.map(({ met }) => met) ?? null,
          ours.nl_assertions.map(({ met }) => met),
        )),
    ...listDifferences(
      "communicate_checks",
      "met",
      communicate_checks,
      ours.communicate_checks?.map(({ met }) => met),
    ),
    ...(sameBasis(recorded.reward_basis, ours.reward_basis, withoutVerdicts) ? [] : ["reward_basis"]),
    ...(reward !== null && Math.abs(reward - ours.reward) > REWARD_TOLERANCE ? ["reward"] : []),
  ];
}

/** Rewards are products of 0 and 1; files have been written by other programs. */
const REWARD_TOLERANCE = 1e-6;

/** The first golden action that is not what the recording was checked against; -1: none. */
function changedAction({ actions }: RecordedReward, { action_checks }: RewardInfo): number {
  return actions.findIndex((then, i) => {
    const now = action_checks?.[i]?.action;
    return now !== undefined && !pythonEquals(then, { name: now.name, arguments: now.arguments });
  });
}

/** null and an empty list say the same. A list of another length belongs to another version of the task. */
function listDifferences(
  name: string,
  flag: string,
  recorded: readonly boolean[] | null,
  ours: readonly boolean[] = [],
): string[] {
  const then = recorded ?? [];
  if (then.length === 0 && recorded === null) return [];
  if (then.length !== ours.length) return [`${name}.length`];
  return then.flatMap((value, i) => (value === ours[i] ? [] : [`${name}[${i}].${flag}`]));
}

function sameBasis(
  recorded: readonly string[] | null,
  ours: readonly string[] | null,
  withoutVerdicts: boolean,
): boolean {
  if (recorded === null || ours === null) return true;
  const kinds = (basis: readonly string[]) =>
    basis
      .map((kind) => kind.replace(/^RewardType\./, ""))
      .filter((kind) => !(withoutVerdicts && kind === "NL_ASSERTION"))
      .sort()
      .join();
  return kinds(recorded) === kinds(ours);
}

/** null: the recording does not tell. */
function rewardWithoutNl({ reward, reward_basis, reward_breakdown }: RecordedReward): number | null {
  if (reward_basis !== null && !reward_basis.includes("NL_ASSERTION")) return reward;
  if (reward === 1) return 1;
  if (reward_breakdown === null) return null;
  const others = Object.entries(reward_breakdown).filter(([kind]) => kind !== "NL_ASSERTION");
  return others.reduce((product, [, value]) => product * value, 1);
}
