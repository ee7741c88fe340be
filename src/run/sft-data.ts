/**
 * Recorded conversations from files: tau2-bench's results (`simulations` with messages), or our own rollouts
 * (`rollouts/*.jsonl.zst`, `trajectories.json`), one file, several, or directories of them.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { UserError } from "../base/errors.ts";
import {
  type ExactObject,
  type ExactValue,
  isArray,
  isObject,
  JsonError,
  numberOf,
  parseExact,
} from "../base/exact.ts";
import { type Trajectory, trajectoryOf } from "../cl/trajectory.ts";
import { parseMessages, parseTask } from "../tau2/task.ts";
import type { Message, Task } from "../tau2/types.ts";

interface Recorded {
  /** File, and line or entry: for messages to people. */
  readonly where: string;
  readonly domain: string;
  readonly task_id: string;
  /** A conversation that was not scored has 0. */
  readonly reward: number;
  /** Lost to the infrastructure: says nothing about the agent. */
  readonly failed: boolean;
  /** Equal for two copies of one conversation. */
  readonly identity: string;
}

/** One of ours: its tokens are those that the policy sampled. */
export interface RecordedTrajectory extends Recorded, Pick<Trajectory, "tokens" | "sampled_mask"> {
  readonly kind: "trajectory";
}

/** One of tau2's: text, to be rendered again. */
export interface RecordedSimulation extends Recorded {
  readonly kind: "simulation";
  readonly messages: readonly Message[];
  /** Messages at the start that the agent did not say itself. */
  readonly given: number;
  /** The policy text that the agent followed; null where the file does not say. */
  readonly policy: string | null;
  /** Set where the agent worked alone. */
  readonly solo_task: Task | null;
}

export type RecordedFile = readonly (RecordedTrajectory | RecordedSimulation)[];

/** All conversations of `paths`, each once, in the order of the files. UserError names the file and its line or field. */
export async function readRecorded(paths: readonly string[]): Promise<RecordedFile> {
  const seen = new Map<string, RecordedTrajectory | RecordedSimulation>();
  for (const path of paths.flatMap(filesOf)) {
    for (const conversation of await readFileOf(path)) {
      if (!seen.has(conversation.identity)) seen.set(conversation.identity, conversation);
    }
  }
  return [...seen.values()];
}

function filesOf(path: string): string[] {
  if (!existsSync(path)) throw new UserError("--data", `${path} does not exist`);
  if (!statSync(path).isDirectory()) return [path];
  const files = readdirSync(path, { recursive: true, encoding: "utf8" })
    .sort()
    .map((name) => join(path, name));
  const recorded = files.filter(isRecording);
  if (recorded.length > 0) return recorded;
  throw new UserError("--data", `${path} holds neither tau2-bench results (.json) nor rollouts (.jsonl.zst)`);
}

/**
 * In a run directory the rollouts of the evaluations are left out: they are of tasks that stay unseen. Everything else that
 * is JSON (configs, metrics, tokenizers) holds no conversations.
 */
function isRecording(path: string): boolean {
  if (path.endsWith(".jsonl.zst")) return !basename(path).startsWith("eval_");
  if (basename(path) === "trajectories.json") return true;
  return path.endsWith(".json") && statSync(path).isFile() && RESULTS.test(readFileSync(path, "utf8"));
}

const RESULTS = /"(simulations|reward_info)"\s*:/;

async function readFileOf(path: string): Promise<RecordedFile> {
  if (path.endsWith(".jsonl.zst")) return readLines(path, await decompressed(path));
  const text = readFileSync(path, "utf8");
  if (path.endsWith(".jsonl")) return readLines(path, text);
  const value = parsed(text, (line) => `${path}:${line}`);
  if (isArray(value)) return value.map((item, i) => recordedTrajectory(item, `${path}: [${i}]`));
  if (isObject(value) && (isArray(value.simulations) || isArray(value.messages))) return readResults(path, value);
  throw new UserError(path, "it holds neither tau2-bench's `simulations` nor an array of trajectories");
}

async function decompressed(path: string): Promise<string> {
  try {
    return new TextDecoder().decode(await Bun.zstdDecompress(readFileSync(path)));
  } catch (error) {
    throw new UserError(path, `it is no whole zstd file (${(error as Error).message})`, { cause: error });
  }
}

function parsed(text: string, where: (line: number) => string): ExactValue {
  try {
    return parseExact(text);
  } catch (error) {
    if (error instanceof JsonError) throw new UserError(where(error.line), `it is not JSON: ${error.reason}`);
    throw error;
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Ours

function readLines(path: string, text: string): RecordedTrajectory[] {
  return text.split("\n").flatMap((line, i) => {
    const where = `${path}:${i + 1}`;
    return line.trim() === ""
      ? []
      : [
          recordedTrajectory(
            parsed(line, () => where),
            where,
          ),
        ];
  });
}

const isWhole = (value: ExactValue): boolean => typeof value === "number" && Number.isSafeInteger(value) && value >= 0;

function recordedTrajectory(value: ExactValue, where: string): RecordedTrajectory {
  const fields = objectAt(value, where);
  for (const name of ["domain", "task_id", "termination"]) textAt(fields, name, where);
  for (const name of ["task_idx", "step", "sample"]) numberAt(fields, name, where);
  const { tokens, sampled } = fields;
  if (!isArray(tokens) || !tokens.every(isWhole)) throw new UserError(`${where}: tokens`, "expected token ids");
  const size = tokens.length;
  const isRun = (run: ExactValue) => {
    const [from, to] = isArray(run) && run.length === 2 && run.every(isWhole) ? (run as readonly number[]) : [];
    return from !== undefined && to !== undefined && from > 0 && from < to && to <= size;
  };
  if (!isArray(sampled) || !sampled.every(isRun))
    throw new UserError(`${where}: sampled`, `expected pairs [from, to] within the ${size} tokens, from at least 1`);
  const trajectory = trajectoryOf(value);
  const { domain, task_id, termination, sampled_mask, task_idx, step, sample } = trajectory;
  const facts = [domain, task_id, task_idx, step, sample, Bun.hash(trajectory.tokens).toString(36)];
  return {
    kind: "trajectory",
    where,
    domain,
    task_id,
    reward: numberAt(fields, "reward", where),
    failed: termination === "infrastructure_error",
    identity: JSON.stringify(facts),
    tokens: trajectory.tokens,
    sampled_mask,
  };
}

// ---------------------------------------------------------------------------------------------------------------------
// tau2's

/** A whole results file, or one simulation of a results directory: `results.json` beside `simulations/`. */
function readResults(path: string, value: ExactObject): RecordedSimulation[] {
  const whole = isArray(value.simulations);
  const results = whole ? value : siblingResults(path);
  const simulations = whole ? (value.simulations as readonly ExactValue[]) : [value];
  const info = objectAt(results.info, `${path}: info`);
  const environment = objectAt(info.environment_info, `${path}: info.environment_info`);
  const facts: ResultsFacts = {
    domain: textAt(environment, "domain_name", `${path}: info.environment_info`),
    policy: typeof environment.policy === "string" ? environment.policy : null,
    solo: isObject(info.agent_info) && String(info.agent_info.implementation).includes("solo"),
    tasks: isArray(results.tasks) ? results.tasks : [],
  };
  return simulations.map((simulation, i) =>
    recordedSimulation(simulation, whole ? `${path}: simulations.${i}` : path, facts),
  );
}

interface ResultsFacts {
  readonly domain: string;
  readonly policy: string | null;
  readonly solo: boolean;
  readonly tasks: readonly ExactValue[];
}

function siblingResults(path: string): ExactObject {
  const file = join(dirname(dirname(path)), "results.json");
  if (!existsSync(file))
    throw new UserError(path, `it is one simulation, and the ${file} that names its domain is missing`);
  const value = parsed(readFileSync(file, "utf8"), (line) => `${file}:${line}`);
  return objectAt(value, file);
}

function recordedSimulation(value: ExactValue, where: string, facts: ResultsFacts): RecordedSimulation {
  const fields = objectAt(value, where);
  const task_id = textAt(fields, "task_id", where);
  const messages = parseMessages(fields.messages ?? null, where);
  const task = facts.tasks.find((item) => isObject(item) && item.id === task_id);
  return {
    kind: "simulation",
    where,
    domain: facts.domain,
    task_id,
    reward: rewardAt(fields, where),
    failed: fields.termination_reason === "infrastructure_error",
    identity: typeof fields.id === "string" ? `${fields.id} ${task_id}` : where,
    messages,
    given: historyLength(task) ?? (facts.solo || messages[0]?.role !== "assistant" ? 0 : 1),
    policy: facts.policy,
    solo_task: facts.solo ? soloTask(task, where) : null,
  };
}

function rewardAt({ reward_info }: ExactObject, where: string): number {
  if (reward_info === undefined || reward_info === null) return 0;
  return numberAt(objectAt(reward_info, `${where}.reward_info`), "reward", `${where}.reward_info`);
}

/** null: the task brings no history, so the conversation began with the greeting. */
function historyLength(task: ExactValue | undefined): number | null {
  const state = isObject(task) ? task.initial_state : null;
  const history = isObject(state) ? state.message_history : null;
  return isArray(history ?? undefined) ? (history as readonly ExactValue[]).length : null;
}

function soloTask(task: ExactValue | undefined, where: string): Task {
  if (task === undefined)
    throw new UserError(`${where}.task_id`, "the file's `tasks` do not hold this task, whose ticket the agent had");
  return parseTask(task, `${where}: its task`);
}

// ---------------------------------------------------------------------------------------------------------------------
// Fields

function objectAt(value: ExactValue | undefined, where: string): ExactObject {
  if (isObject(value)) return value;
  throw new UserError(where, `expected an object, found ${shortText(value)}`);
}

function textAt(fields: ExactObject, name: string, where: string): string {
  const value = fields[name];
  if (typeof value === "string" && value !== "") return value;
  throw new UserError(`${where}: ${name}`, `expected a text, found ${shortText(value)}`);
}

function numberAt(fields: ExactObject, name: string, where: string): number {
  const value = fields[name] === undefined ? undefined : numberOf(fields[name] as ExactValue);
  if (value !== undefined && typeof fields[name] !== "boolean") return Number(value);
  throw new UserError(`${where}: ${name}`, `expected a number, found ${shortText(fields[name])}`);
}

const shortText = (value: ExactValue | undefined): string =>
  value === undefined ? "nothing" : String(JSON.stringify(value)).slice(0, 60);
