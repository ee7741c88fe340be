/** Recorded simulations against our domains: one row a simulation, none passed over in silence. */
import { UserError } from "../base/errors.ts";
import { type ExactValue, exactOf, pythonEquals } from "../base/exact.ts";
import { knownDomains, loadDomain } from "../tau2/domains/index.ts";
import type { RecordedRun } from "../tau2/recorded.ts";
import { type Replayed, replayRun } from "../tau2/replay.ts";
import { parseTask } from "../tau2/task.ts";
import type { Domain, Task } from "../tau2/types.ts";
import type { FoundRecording } from "./recordings.ts";

export interface ReplayRow {
  readonly file: string;
  readonly simulation_id: string;
  readonly domain: string;
  readonly task_id: string;
  readonly trial: number | null;
  readonly termination: string;
  readonly recorded: number | null;
  readonly ours: number | null;
  /** `same`; `differs` in a reward or a check; `not_replayed`: no such domain, task or message. */
  readonly verdict: "same" | "differs" | "not_replayed";
  /** Fields of the reward that came out otherwise; the first one locates the fault. */
  readonly differs: readonly string[];
  /** Tool results that read otherwise than recorded. */
  readonly tool_results_differ: readonly string[];
  readonly tool_results: number;
  readonly notes: readonly string[];
}

export interface ReplayOptions {
  readonly tau2_data_dir: string | null;
  /** Score with the tasks of the data directory, or with those in the recording. */
  readonly tasks: "today" | "recorded";
}

/** Throws UserError where a domain's data is missing. */
export function* replayRecordings(recordings: readonly FoundRecording[], options: ReplayOptions): Generator<ReplayRow> {
  const domains = new Map<string, Domain | string>();
  for (const recording of recordings) {
    const key = `${recording.domain}${recording.solo_mode ? " solo" : ""}`;
    const domain = domains.get(key) ?? domainOf(recording, options);
    domains.set(key, domain);
    for (const run of recording.runs) yield replayRow(recording, run, domain, options);
  }
}

/** A text: why there is none. */
function domainOf({ domain, solo_mode }: FoundRecording, { tau2_data_dir }: ReplayOptions): Domain | string {
  if (!knownDomains().includes(domain)) return `unknown domain; known are ${knownDomains().join(", ")}`;
  return loadDomain(domain, { tau2_data_dir, train_split: 1, solo_mode });
}

function replayRow(
  recording: FoundRecording,
  run: RecordedRun,
  domain: Domain | string,
  options: ReplayOptions,
): ReplayRow {
  const about = {
    file: recording.path,
    simulation_id: run.id,
    domain: recording.domain,
    task_id: run.task_id,
    trial: run.trial,
    termination: run.termination,
    recorded: run.reward_info?.reward ?? null,
  };
  const not = (why: string): ReplayRow => ({ ...about, ...NOT_REPLAYED, notes: [why] });
  if (typeof domain === "string") return not(domain);
  const { messages } = run;
  if (messages === null) return not("no messages: a voice run?");
  const known = domain.tasks.find(({ id }) => id === run.task_id);
  const task = options.tasks === "recorded" ? recordedTask(recording, run.task_id) : known;
  if (typeof task === "string") return not(task);
  if (task === undefined) return not(`unknown task of ${domain.name}`);
  const then = recordedTask(recording, run.task_id);
  const replayed = replayRun({ ...run, messages }, { domain, task, verdictsFit: sameAssertions(task, then) });
  return { ...about, ...summary(replayed, typeof then === "string" || sameCriteria(task, then)) };
}

const NOT_REPLAYED = {
  ours: null,
  verdict: "not_replayed",
  differs: [],
  tool_results_differ: [],
  tool_results: 0,
} as const;

function summary(
  replayed: Replayed,
  isTaskTheSame: boolean,
): Omit<ReplayRow, "file" | "simulation_id" | "domain" | "task_id" | "trial" | "termination" | "recorded"> {
  const { reward, differs, tool_results, notes, problem } = replayed;
  return {
    ours: reward,
    verdict: differs.length === 0 ? "same" : "differs",
    differs,
    tool_results_differ: tool_results.differs,
    tool_results: tool_results.checked,
    notes: [...(problem === null ? [] : [problem]), ...notes, ...(isTaskTheSame ? [] : ["the task has changed since"])],
  };
}

/** The task as the recording has it; a text: why there is none. */
function recordedTask({ tasks, path }: FoundRecording, task_id: string): Task | string {
  const task = tasks.get(task_id);
  if (task === undefined) return `the recording has no task ${task_id}`;
  try {
    return parseTask(task, `${path}: task ${task_id}`);
  } catch (error) {
    if (error instanceof UserError) return error.message;
    throw error;
  }
}

function sameAssertions(task: Task, then: Task | string): boolean {
  return (
    typeof then !== "string" && same(task.evaluation_criteria?.nl_assertions, then.evaluation_criteria?.nl_assertions)
  );
}

const sameCriteria = (task: Task, then: Task): boolean =>
  same(task.evaluation_criteria, then.evaluation_criteria) && same(task.initial_state, then.initial_state);

const same = (a: unknown, b: unknown): boolean => pythonEquals(exactOf(a) as ExactValue, exactOf(b) as ExactValue);
