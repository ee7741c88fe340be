/** Passes messages between agent, user and environment until one of them ends it or a limit does. SPEC section 5. */
import { GREETING, isEnd } from "./agent.ts";
import { valueError } from "./python.ts";
import { messageText } from "./task.ts";
import type {
  Agent,
  ConversationLimits,
  EndOfConversation,
  Environment,
  Message,
  ParticipantMessage,
  Reply,
  Simulation,
  TerminationReason,
  ToolCall,
  User,
} from "./types.ts";
import { isUserStop, visibleToAgent, visibleToUser } from "./user.ts";

export interface ConversationOptions {
  /** Prepared: the task's initial state applied, `history` replayed (see `prepareEnvironment`). */
  readonly environment: Environment;
  readonly agent: Agent;
  /** Absent in solo mode only. */
  readonly user: User | null;
  readonly limits: ConversationLimits;
  /** The task's message history, which opens the trajectory in place of the greeting. */
  readonly history?: readonly Message[];
  /** The agent works alone: whatever it says that is no tool call ends the conversation. */
  readonly solo_mode?: boolean;
  /** End with `agent_error` or `user_error` when a message is empty or mixes text and tool calls. */
  readonly validate_communication?: boolean;
  /** Checked between steps; an aborted conversation throws the signal's reason. */
  readonly signal?: AbortSignal;
}

/** Runs one conversation to its end. What the original crashes on ends it with `agent_error` or `user_error` and a detail. */
export async function runConversation(options: ConversationOptions): Promise<Simulation> {
  const conversation = new Conversation(options);
  await conversation.begin();
  while (!conversation.done) {
    options.signal?.throwIfAborted();
    await conversation.step();
  }
  return conversation.result();
}

type Role = "agent" | "user" | "environment";

class Conversation {
  readonly #messages: Message[];
  #from: Role = "agent";
  #to: Role = "user";
  #termination: TerminationReason | null = null;
  #detail: string | null = null;
  #steps = 0;
  #errors = 0;
  /** A participant broke off: its reason stands, whatever the limits say. */
  #ended = false;
  /** How much of the trajectory each participant has been given. */
  #given = { agent: 0, user: 0 };

  constructor(readonly options: ConversationOptions) {
    this.#messages = (options.history ?? []).map(bareMessage);
  }

  get done(): boolean {
    return this.#termination !== null;
  }

  result(): Simulation {
    if (this.#termination === null) throw new Error("the conversation is still running");
    return {
      messages: this.#messages,
      termination: this.#termination,
      detail: this.#detail,
      step_count: this.#steps,
      num_errors: this.#errors,
    };
  }

  async begin(): Promise<void> {
    const last = this.#messages.at(-1);
    if (last !== undefined) this.#resume(last);
    else if (this.options.solo_mode) await this.#soloStart();
    else this.#messages.push({ role: "assistant", content: GREETING, tool_calls: null });
    this.#validate();
    this.options.environment.sync?.();
  }

  async step(): Promise<void> {
    if (this.#to === "environment") this.#callTools();
    else if (this.#to === "user") await this.#userTurn();
    else await this.#agentTurn();
    if (this.#ended) return;
    this.#validate();
    this.#steps++;
    this.options.environment.sync?.();
    this.#checkLimits();
  }

  #end({ end, detail }: EndOfConversation): void {
    this.#termination = end;
    this.#detail = detail;
    this.#ended = true;
  }

  /** The last message of a history decides whose turn it is; a stop in it ends the run at once. */
  #resume(last: Message): void {
    validateMessageHistory(this.#messages);
    if (last.role === "tool") {
      this.#from = "environment";
      this.#to = last.requestor === "assistant" ? "agent" : "user";
      return;
    }
    this.#from = last.role === "assistant" ? "agent" : "user";
    this.#to = last.tool_calls !== null ? "environment" : this.#from === "agent" ? "user" : "agent";
    if (last.role === "user" && isUserStop(last)) this.#termination = "user_stop";
    if (last.role === "assistant" && this.#isAgentStop(last)) this.#termination = "agent_stop";
  }

  async #soloStart(): Promise<void> {
    const reply = await this.options.agent.reply([]);
    if (isEnd(reply)) return this.#end(reply);
    this.#add("assistant", reply); // an empty one too: the original does not check the first message
    this.#to = reply.tool_calls === null ? "user" : "environment";
    if (this.#isAgentStop(reply)) this.#termination = "agent_stop";
    else if (reply.tool_calls === null) this.#termination = "agent_error";
  }

  async #agentTurn(): Promise<void> {
    const reply = await this.options.agent.reply(this.#unseen("agent", visibleToAgent));
    if (isEnd(reply)) return this.#end(reply);
    if (!this.#accept("assistant", reply)) return;
    this.#from = "agent";
    this.#to = reply.tool_calls === null ? "user" : "environment";
    if (this.#isAgentStop(reply)) this.#termination = "agent_stop";
    else if (this.options.solo_mode && reply.tool_calls === null) this.#termination = "agent_error";
  }

  async #userTurn(): Promise<void> {
    const { user } = this.options;
    if (user === null) throw new Error("a conversation without solo mode needs a user");
    const reply = await user.reply(this.#unseen("user", visibleToUser));
    if (isEnd(reply)) return this.#end(reply);
    if (!this.#accept("user", reply)) return;
    this.#from = "user";
    this.#to = reply.tool_calls === null ? "agent" : "environment";
    if (isUserStop(reply)) this.#termination = "user_stop";
  }

  #callTools(): void {
    const calls = this.#pendingCalls();
    if (calls.length === 0) this.#crash("IndexError: list index out of range");
    for (const call of calls) {
      const result = this.options.environment.getResponse(call);
      this.#errors += Number(result.error);
      this.#messages.push(result);
    }
    if (this.#ended) return;
    this.#to = this.#from;
    this.#from = "environment";
    const ended = this.options.environment.ended ?? null;
    if (ended !== null) this.#end({ end: this.#to === "agent" ? "agent_error" : "user_error", detail: ended.reason });
  }

  #pendingCalls(): readonly ToolCall[] {
    const last = this.#messages.at(-1);
    return last === undefined || last.role === "tool" ? [] : (last.tool_calls ?? []);
  }

  /** What a participant has not been given yet; the first time that is everything it may see. */
  #unseen(who: "agent" | "user", visible: (message: Message) => boolean): Message[] {
    const incoming = this.#messages.slice(this.#given[who]).filter(visible);
    this.#given[who] = this.#messages.length;
    return incoming;
  }

  /** Adds a participant's message; false if it is none, which the original crashes on. */
  #accept(role: "assistant" | "user", reply: Reply): boolean {
    const flaw = messageFlaw({ role, ...reply });
    if (flaw === null) {
      this.#add(role, reply);
      return true;
    }
    this.#from = role === "assistant" ? "agent" : "user";
    this.#crash(flaw);
    return false;
  }

  #add(role: "assistant" | "user", { content, tool_calls }: Reply): void {
    this.#messages.push({ role, content, tool_calls });
    this.#given[role === "assistant" ? "agent" : "user"] = this.#messages.length;
  }

  #crash(detail: string): void {
    this.#end({ end: this.#from === "agent" ? "agent_error" : "user_error", detail });
  }

  #isAgentStop(reply: Reply): boolean {
    return this.options.agent.isStop?.(reply) ?? false;
  }

  #validate(): void {
    const last = this.#messages.at(-1);
    if (
      !this.options.validate_communication ||
      this.#from === "environment" ||
      last === undefined ||
      last.role === "tool"
    )
      return;
    const text = hasText(last);
    const calls = last.tool_calls !== null;
    const soloText = this.options.solo_mode === true && this.#from === "agent" && text && !this.#isAgentStop(last);
    if (text === calls || soloText) this.#termination = this.#from === "agent" ? "agent_error" : "user_error";
  }

  /** Not while the environment is next, so a run can overshoot by one step; the limits outrank a stop of the same step. */
  #checkLimits(): void {
    if (this.#to === "environment") return;
    if (this.#steps >= this.options.limits.max_steps) this.#termination = "max_steps";
    if (this.#errors >= this.options.limits.max_errors) this.#termination = "too_many_errors";
  }
}

const hasText = ({ content }: Reply): boolean => content !== null && content.trim() !== "";

/** What the original raises for a message with neither text nor tool calls; null: nothing is wrong. */
function messageFlaw(message: ParticipantMessage): string | null {
  if (hasText(message) || message.tool_calls !== null) return null;
  const name = message.role === "assistant" ? "AssistantMessage" : "UserMessage";
  return `ValueError: ${name} must have either content or tool_calls. Got ${messageText(message)}`;
}

/** What a conversation uses of a message; those of a task's history carry the original's metadata besides. */
function bareMessage(message: Message): Message {
  if (message.role !== "tool") return { role: message.role, content: message.content, tool_calls: message.tool_calls };
  const { role, id, content, requestor, error } = message;
  return { role, id, content, requestor, error };
}

/** Checks that calls and results of a history match in number and requestor. Throws what the original raises. */
export function validateMessageHistory(history: readonly Message[]): void {
  let expected = 0;
  let requestor: string | null = null;
  for (const message of history) {
    if (message.role === "tool") {
      if (expected === 0 || requestor === null) throw valueError("No tool messages expected.");
      if (requestor !== message.requestor)
        throw valueError(`Got tool message from ${message.requestor}, expected ${requestor}.`);
      expected--;
      continue;
    }
    const flaw = messageFlaw(message);
    if (flaw !== null) throw valueError(flaw.replace("ValueError: ", ""));
    if (message.tool_calls !== null) {
      if (expected > 0) throw valueError(`${expected} tool messages are missing. Got ${message.role} message.`);
      expected = message.tool_calls.length;
      requestor = message.role;
    } else {
      requestor = null; // the original means to reset the count here too, but does not
    }
  }
}
