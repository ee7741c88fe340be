/** The nouns of tau2-bench, as its data files and recorded simulations spell them (SPEC sections 6 and 8). */
import type { ExactObject, ExactValue } from "../base/exact.ts";

export type Requestor = "assistant" | "user";

export interface ToolCall {
  readonly id: string;
  readonly name: string;
  readonly arguments: ExactObject;
  readonly requestor: Requestor;
}

/** A message of the assistant or the user; `tool_calls: null` means none. */
export interface ParticipantMessage {
  readonly role: "assistant" | "user";
  readonly content: string | null;
  readonly tool_calls: readonly ToolCall[] | null;
}

export interface ToolMessage {
  readonly role: "tool";
  readonly id: string;
  readonly content: string | null;
  readonly requestor: Requestor;
  readonly error: boolean;
}

export type Message = ParticipantMessage | ToolMessage;

/** OpenAI function schema. */
export interface ToolSchema {
  readonly type: "function";
  readonly function: { readonly name: string; readonly description: string; readonly parameters: ExactObject };
}

export type ToolKind = "read" | "write" | "think" | "generic";

export interface GoldenAction {
  readonly action_id: string;
  readonly requestor: Requestor;
  readonly name: string;
  readonly arguments: ExactObject;
  readonly info: string | null;
  readonly compare_args: readonly string[] | null;
}

export interface EnvFunctionCall {
  readonly env_type: Requestor;
  readonly func_name: string;
  readonly arguments: ExactObject;
}

export interface EnvAssertion extends EnvFunctionCall {
  readonly assert_value: boolean;
  readonly message: string | null;
}

export type RewardType = "DB" | "ENV_ASSERTION" | "NL_ASSERTION" | "ACTION" | "COMMUNICATE";

export interface EvaluationCriteria {
  readonly actions: readonly GoldenAction[] | null;
  readonly env_assertions: readonly EnvAssertion[] | null;
  readonly communicate_info: readonly string[] | null;
  readonly nl_assertions: readonly string[] | null;
  readonly reward_basis: readonly RewardType[];
}

export interface InitialState {
  readonly initialization_data: {
    readonly agent_data: ExactObject | null;
    readonly user_data: ExactObject | null;
  } | null;
  readonly initialization_actions: readonly EnvFunctionCall[] | null;
  readonly message_history: readonly Message[] | null;
}

export interface StructuredInstructions {
  readonly domain: string;
  readonly reason_for_call: string;
  readonly known_info: string | null;
  readonly unknown_info: string | null;
  readonly task_instructions: string;
}

export interface Task {
  readonly id: string;
  readonly description: {
    readonly purpose: string | null;
    readonly relevant_policies: string | null;
    readonly notes: string | null;
  } | null;
  readonly user_scenario: { readonly persona: string | null; readonly instructions: string | StructuredInstructions };
  readonly ticket: string | null;
  readonly initial_state: InitialState | null;
  readonly evaluation_criteria: EvaluationCriteria | null;
  readonly issues: ExactValue;
  readonly required_documents: readonly string[] | null;
  readonly user_tools: readonly string[] | null;
}

/** One live environment: databases and tools of one conversation. Copy-on-write, so making one is cheap. */
export interface Environment {
  /** Runs the call and then syncs; a failed call is an error message, not an exception (SPEC section 3). */
  getResponse(call: ToolCall): ToolMessage;
  agentDbHash(): string;
  userDbHash(): string | null;
  /** Non-null once the environment itself wants the conversation over (built-in domains: a policy violation). */
  readonly ended?: { readonly reason: string } | null;
  /** One hand holds agent's and user's tools, and nobody speaks. */
  readonly solo_mode?: boolean;
  /** The rest is tau2's; a domain whose tasks use none of it may leave it out (`ToolEnvironment` has it all). */
  /** The call alone, as the evaluator's reference run makes it: no sync, and exceptions are thrown. */
  callTool?(call: ToolCall): void;
  /** Any function of a toolkit, tool or not, as initial states and assertions call them; then syncs. */
  runFunction?(call: EnvFunctionCall): ExactValue;
  /** Merges a task's initialization data into one side's database. */
  mergeData?(side: Requestor, data: ExactObject): void;
  sync?(): void;
}

export interface Domain {
  readonly name: string;
  readonly policy: string;
  /** System prompt of tau2's LLM agent, policy included (SPEC section 10). */
  readonly systemPrompt: string;
  /** The agent works alone: what the user does otherwise is among its tools, and it ends the conversation by calling `done`. */
  readonly solo_mode?: boolean;
  /** System prompt of the agent that works alone; the task's ticket stands in it. */
  soloSystemPrompt?(task: Task): string;
  /** The agent's; in solo mode its own, then the user's, then `done`. */
  readonly tools: readonly ToolSchema[];
  /** null: the user has no tools. */
  readonly userTools: readonly ToolSchema[] | null;
  /** Kind of an agent's or user's tool; null: there is no such tool. */
  toolKind(name: string): ToolKind | null;
  /** In the order of tasks.json. */
  readonly tasks: readonly Task[];
  /** Split name (`train` and `test` always among them) → task ids, in the order of tasks.json. */
  readonly splits: Readonly<Record<string, readonly string[]>>;
  /** A fresh environment, before the task's initial state; in solo mode one where the agent holds all tools. */
  createEnvironment(): Environment;
  /** The one that golden actions run on, where it differs: it is never solo, since those name user and agent apart. */
  createGoldEnvironment?(): Environment;
  /** Full system prompt of the user simulator for a task (SPEC section 9). */
  userSystemPrompt(task: Task): string;
  /** Built-in domains bring a deterministic user. */
  readonly scriptedUser?: (task: Task) => User;
}

/** Why a conversation ended; tau2's names (SPEC section 5), and ours for what the original calls a crash. */
export type TerminationReason =
  | "user_stop"
  | "agent_stop"
  | "max_steps"
  | "too_many_errors"
  | "agent_error"
  | "user_error"
  | "timeout"
  | "infrastructure_error"
  | "context_window_exceeded"
  | "unexpected_error";

/** A participant ends the conversation for a reason of its own instead of replying. */
export interface EndOfConversation {
  readonly end: TerminationReason;
  readonly detail: string;
}

export type Reply = Omit<ParticipantMessage, "role">;

/**
 * Plays the agent. `incoming` is what it has not seen yet: the user's text, or the results of its own calls. The first time
 * it holds everything said so far, the agent's own greeting (and history, where a task brings one) included.
 */
export interface Agent {
  reply(incoming: readonly Message[]): Promise<Reply | EndOfConversation>;
  isStop?(reply: Reply): boolean;
}

/**
 * Plays the user. `incoming` is the agent's text, or the results of the user's own calls; the first time everything the
 * user can have seen so far, which is the greeting unless the task brings a history.
 */
export interface User {
  /** Stands in every report, for instance `scripted`, `openai:gpt-4.1`, `local:base`. */
  readonly identity: string;
  reply(incoming: readonly Message[]): Promise<Reply | EndOfConversation>;
  /** Frees what the user holds (for `local`, a sequence in the core). */
  close?(): void;
}

export interface ConversationLimits {
  readonly max_steps: number;
  readonly max_errors: number;
}

/** What the orchestrator hands on: a trajectory and how it ended, not yet scored. */
export interface Simulation {
  readonly messages: readonly Message[];
  readonly termination: TerminationReason;
  /** Why, in words: from a participant that ended the conversation, or what the original would have crashed with. */
  readonly detail: string | null;
  readonly step_count: number;
  readonly num_errors: number;
}

export interface RewardInfo {
  readonly reward: number;
  readonly reward_basis: readonly RewardType[] | null;
  readonly reward_breakdown: Readonly<Partial<Record<RewardType, number>>> | null;
  readonly db_check: { readonly db_match: boolean; readonly db_reward: number } | null;
  readonly env_assertions:
    | readonly { readonly env_assertion: EnvAssertion; readonly met: boolean; readonly reward: number }[]
    | null;
  readonly action_checks:
    | readonly {
        readonly action: GoldenAction;
        readonly action_match: boolean;
        readonly action_reward: number;
        readonly tool_type: ToolKind | null;
      }[]
    | null;
  readonly communicate_checks:
    | readonly { readonly info: string; readonly met: boolean; readonly justification: string }[]
    | null;
  readonly nl_assertions:
    | readonly { readonly nl_assertion: string; readonly met: boolean; readonly justification: string }[]
    | null;
  readonly info: ExactValue;
}
