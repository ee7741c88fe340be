/** Tasks as tau2's data files hold them: parsed with defaults, and printed as the original prints them (SPEC section 8). */
import { UserError } from "../base/errors.ts";
import { dumps, type ExactObject, type ExactValue, type Float, isArray, isObject } from "../base/exact.ts";
import { toolCallText } from "./environment.ts";
import {
  bool,
  dict,
  type Field,
  type FieldType,
  float,
  int,
  list,
  literal,
  ModelError,
  model,
  optional,
  parseModel,
  record,
  str,
  union,
} from "./model.ts";
import type {
  EnvFunctionCall,
  EvaluationCriteria,
  GoldenAction,
  InitialState,
  Message,
  StructuredInstructions,
  Task,
} from "./types.ts";

const anything: FieldType = { kind: "any" };
const openObject = dict(anything);
const orNull = (type: FieldType): Field => ({ type: optional(type), default: null });
const withDefault = (type: FieldType, value: ExactValue): Field => ({ type, default: value });
const requestor = literal("assistant", "user");

const instructionsModel = model("StructuredUserInstructions", {
  domain: str,
  reason_for_call: str,
  known_info: orNull(str),
  unknown_info: orNull(str),
  task_instructions: str,
});

const toolCallModel = model("ToolCall", {
  id: withDefault(str, ""),
  name: str,
  arguments: openObject,
  requestor: withDefault(requestor, "assistant"),
});

/** What the original's messages carry besides; a text conversation uses none of it, but histories are printed with it. */
const metadata = {
  turn_idx: orNull(int),
  cost: orNull(float),
  usage: orNull(openObject),
  raw_data: orNull(openObject),
  generation_time_seconds: orNull(float),
  ...Object.fromEntries(
    [
      "audio_format",
      "audio_path",
      "audio_script_gold",
      "speech_effects",
      "source_effects",
      "channel_effects",
      "turn_taking_action",
      "utterance_ids",
      "chunk_id",
    ].map((name) => [name, orNull(anything)]),
  ),
  is_final_chunk: withDefault(bool, true),
  source: orNull(anything),
  contains_speech: withDefault(bool, true),
};

const messageModels = [
  model("ParticipantMessage", {
    role: literal("assistant", "user"),
    content: orNull(str),
    tool_calls: orNull(list(record(toolCallModel))),
    is_audio: withDefault(bool, false),
    ...metadata,
  }),
  model("ToolMessage", {
    id: str,
    role: literal("tool"),
    content: orNull(str),
    requestor: withDefault(requestor, "assistant"),
    error: withDefault(bool, false),
    turn_idx: orNull(int),
  }),
].map(record);

const envFunction = { env_type: requestor, func_name: str, arguments: openObject };

const criteriaModel = model("EvaluationCriteria", {
  actions: orNull(
    list(
      record(
        model("Action", {
          action_id: str,
          requestor: withDefault(requestor, "assistant"),
          name: str,
          arguments: openObject,
          info: orNull(str),
          compare_args: orNull(list(str)),
        }),
      ),
    ),
  ),
  env_assertions: orNull(
    list(
      record(model("EnvAssertion", { ...envFunction, assert_value: withDefault(bool, true), message: orNull(str) })),
    ),
  ),
  communicate_info: orNull(list(str)),
  nl_assertions: orNull(list(str)),
  reward_basis: withDefault(list(literal("DB", "ENV_ASSERTION", "NL_ASSERTION", "ACTION", "COMMUNICATE")), [
    "DB",
    "COMMUNICATE",
  ]),
});

const issueModel = model("TaskIssue", {
  id: str,
  title: str,
  description: orNull(str),
  status: withDefault(literal("open", "resolved", "wont_fix"), "open"),
  resolution: orNull(str),
  created_at: orNull(str),
  resolved_at: orNull(str),
  author_email: orNull(str),
  pr_link: orNull(str),
  simulation_file: orNull(str),
});

const taskModel = model("Task", {
  id: str,
  description: orNull(
    record(model("Description", { purpose: orNull(str), relevant_policies: orNull(str), notes: orNull(str) })),
  ),
  user_scenario: record(
    model("UserScenario", { persona: orNull(str), instructions: union(record(instructionsModel), str) }),
  ),
  ticket: orNull(str),
  initial_state: orNull(
    record(
      model("InitialState", {
        initialization_data: orNull(
          record(model("InitializationData", { agent_data: orNull(openObject), user_data: orNull(openObject) })),
        ),
        initialization_actions: orNull(list(record(model("EnvFunctionCall", envFunction)))),
        message_history: orNull(list(union(...messageModels))),
      }),
    ),
  ),
  evaluation_criteria: orNull(record(criteriaModel)),
  issues: orNull(list(record(issueModel))),
  required_documents: orNull(list(str)),
  user_tools: orNull(list(str)),
});

/** The tasks of one file; `file` names it in errors. */
export function parseTasks(value: ExactValue, file: string): Task[] {
  if (!isArray(value)) throw new UserError(file, "a list of tasks is expected");
  const tasks = value.map((item, i) => parseTask(item, `${file}: task ${taskLabel(item, i)}`));
  const seen = new Set<string>();
  for (const { id } of tasks) {
    if (seen.has(id)) throw new UserError(`${file}: task ${id}`, "the id appears twice; ids must differ");
    seen.add(id);
  }
  return tasks;
}

const taskLabel = (item: ExactValue, index: number): string =>
  isObject(item) && typeof item.id === "string" ? item.id : `number ${index + 1}`;

/** One task with its defaults filled in; unknown keys are ignored. `where` names it in errors. */
export function parseTask(value: ExactValue, where: string): Task {
  return checked(where, () => parseModel(taskModel, value)) as unknown as Task;
}

const messagesModel = model("Messages", { messages: list(union(...messageModels)) });

/** The messages of a recorded conversation. `where` names it in errors. */
export function parseMessages(value: ExactValue, where: string): Message[] {
  const parsed = checked(where, () => parseModel(messagesModel, { messages: value }));
  return parsed.messages as unknown as Message[];
}

/** Turns what a model finds wrong into an error that names the field. */
export function checked<T>(where: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof ModelError)) throw error;
    const [first] = error.issues;
    const more = error.issues.length > 1 ? ` (and ${error.issues.length - 1} more)` : "";
    throw new UserError(
      `${where}: ${first?.path.join(".") || "the whole entry"}`,
      `${first?.message}, found ${shortText(first?.input)}${more}`,
      {
        cause: error,
      },
    );
  }
}

function shortText(value: ExactValue | undefined): string {
  const text = value === undefined ? "nothing" : dumps(value, { ascii: false });
  return text.length <= 80 ? text : `${text.slice(0, 77)}...`;
}

// ---------------------------------------------------------------------------------------------------------------------
// str(task)

/** Python's `textwrap.indent`: lines of white space alone stay as they are. */
export function indent(text: string, prefix: string): string {
  return text.replace(/[^\n]*\n?/g, (line) => (line.trim() === "" ? line : prefix + line));
}

const tab = (text: string): string => indent(text, "\t");

/** What the user simulator is told: `str(user_scenario)`. */
export function scenarioText({ persona, instructions }: Task["user_scenario"]): string {
  const about = persona === null ? [] : ["Persona:", tab(persona)];
  return [
    ...about,
    "Instructions:",
    tab(typeof instructions === "string" ? instructions : instructionsText(instructions)),
  ].join("\n");
}

function instructionsText({
  domain,
  reason_for_call,
  known_info,
  unknown_info,
  task_instructions,
}: StructuredInstructions): string {
  const part = (title: string, text: string | null): string[] => (text === null ? [] : [`${title}:\n${tab(text)}`]);
  return [
    `Domain: ${domain}`,
    ...part("Reason for call", reason_for_call),
    ...part("Known info", known_info),
    ...part("Unknown info", unknown_info),
    ...part("Task instructions", task_instructions),
  ].join("\n");
}

/** The original's `str(task)`. */
export function taskText(task: Task): string {
  const section = (title: string, text: string | null): string[] => (text === null ? [] : [`${title}:`, tab(text)]);
  const issues = (task.issues as readonly ExactObject[] | null) ?? [];
  return [
    `ID: ${task.id}`,
    ...section("Description", task.description && descriptionText(task.description)),
    ...section("User Scenario", scenarioText(task.user_scenario)),
    ...section("Initial State", task.initial_state && initialStateText(task.initial_state)),
    ...section("Evaluation Criteria", task.evaluation_criteria && criteriaText(task.evaluation_criteria)),
    ...(issues.length === 0 ? [] : ["Issues:", ...issues.map((issue) => tab(issueText(issue)))]),
  ].join("\n");
}

function descriptionText({ purpose, relevant_policies, notes }: NonNullable<Task["description"]>): string {
  const line = (title: string, text: string | null): string[] => (text === null ? [] : [`${title}: ${text}`]);
  return [...line("Purpose", purpose), ...line("Relevant Policies", relevant_policies), ...line("Notes", notes)].join(
    "\n",
  );
}

function initialStateText({ initialization_data, initialization_actions, message_history }: InitialState): string {
  const section = (title: string, items: readonly string[] | undefined): string[] =>
    items === undefined ? [] : [`${title}:`, ...items.map(tab)];
  return [
    ...section(
      "Initialization Data",
      initialization_data
        ? [dumps(initialization_data as unknown as ExactObject, { indent: 2, ascii: false })]
        : undefined,
    ),
    ...section("Initialization Actions", initialization_actions?.map(functionText)),
    ...section("Message History", message_history?.map(messageText)),
  ].join("\n");
}

const functionText = ({ env_type, func_name, arguments: args }: EnvFunctionCall): string =>
  [`Env Type: ${env_type}`, `Func Name: ${func_name}`, `Arguments:\n${dumps(args, { indent: 2 })}`].join("\n");

function criteriaText({ actions, env_assertions, communicate_info, nl_assertions }: EvaluationCriteria): string {
  const section = (title: string, items: readonly string[] | undefined): string[] =>
    items === undefined ? [] : [`${title}:`, ...items.map(tab)];
  return [
    ...section("Actions", actions?.map(actionText)),
    ...section("Env Assertions", env_assertions?.map(functionText)),
    ...section("Communicate Info", communicate_info ?? undefined),
    ...section("NL Assertions", nl_assertions ?? undefined),
  ].join("\n");
}

function actionText({ action_id, requestor: by, name, arguments: args, info }: GoldenAction): string {
  const lines = [
    `Action ID: ${action_id}`,
    `Requestor: ${by}`,
    `Name: ${name}`,
    `Arguments:\n${dumps(args, { indent: 2 })}`,
  ];
  return [...lines, ...(info === null ? [] : [`Info:\n${indent(info, "    ")}`])].join("\n");
}

const STATUS_ICONS: Readonly<Record<string, string>> = { open: "🔴", resolved: "✅", wont_fix: "⚪" };

function issueText(issue: ExactObject): string {
  const line = (title: string, key: string): string[] =>
    issue[key] ? [`  ${title}: ${issue[key] as string | Float}`] : [];
  return [
    `${STATUS_ICONS[String(issue.status)] ?? ""} [${issue.id}] ${issue.title}`,
    ...line("Description", "description"),
    ...line("Resolution", "resolution"),
    ...line("Created", "created_at"),
    ...line("Resolved", "resolved_at"),
    ...line("Author", "author_email"),
    ...line("PR", "pr_link"),
    ...line("Simulation", "simulation_file"),
  ].join("\n");
}

/** The original's `str(message)`, as errors and task texts quote it. */
export function messageText(message: Message): string {
  if (message.role === "tool") {
    return [
      "ToolMessage",
      `id: ${message.id}`,
      `content: ${message.content}`,
      `requestor: ${message.requestor}`,
      `error: ${message.error ? "True" : "False"}`,
    ].join("\n");
  }
  const title = message.role === "assistant" ? "AssistantMessage" : "UserMessage";
  const content = message.content !== null && message.content.trim() !== "" ? [`content: ${message.content}`] : [];
  const calls = message.tool_calls === null ? [] : ["ToolCalls:", ...message.tool_calls.map(toolCallText)];
  return [title, ...content, ...calls, "is_final_chunk: True"].join("\n");
}
