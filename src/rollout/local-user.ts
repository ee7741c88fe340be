/**
 * A model on the same core plays the user: another directory, or the frozen step-0 policy. It speaks through its own chat
 * template, append-only, one sequence a conversation, with a random stream of its own.
 */
import { basename } from "node:path";
import { dumps, exactOf } from "../base/exact.ts";
import type { Rng } from "../base/rng.ts";
import type { ChatMessage, ModelInfo, ModelName, Policy } from "../core/policy.ts";
import type { Domain, EndOfConversation, Reply, Task, ToolSchema } from "../tau2/types.ts";
import { type ChatCompletion, type LlmMessage, simulatedUser } from "../tau2/user.ts";
import { Dialogue } from "./dialogue.ts";
import { type ChatRenderer, openRenderer } from "./renderer.ts";
import type { RolloutUser } from "./rollout.ts";
import { parseReply } from "./tool-call.ts";

export interface LocalOptions {
  readonly info: ModelInfo;
  /** The model's directory, for messages to people. */
  readonly directory: string;
  readonly temperature: number;
  /** Longest turn. */
  readonly max_new_tokens: number;
  readonly context_tokens_max: number;
  readonly enable_thinking: boolean;
  /** Of this one conversation. */
  readonly rng: Rng;
}

/** The model for one conversation: requests must go on where the last one ended. `close` frees its sequence. */
export function localCompletion(
  policy: Policy,
  model: ModelName,
  options: LocalOptions,
): ChatCompletion & { close(): void } {
  let dialogue: Dialogue | null = null;
  let renderer: ChatRenderer | null = null;
  let closed = false;
  /** Messages of the last request; the next one has our reply behind them, then what is new. */
  let given = 0;

  async function open(tools: readonly ToolSchema[] | null): Promise<{ dialogue: Dialogue; renderer: ChatRenderer }> {
    renderer ??= await openRenderer(policy, { ...options, model, tools_json: toolsJson(tools) });
    dialogue ??= new Dialogue({
      policy,
      model,
      renderer,
      sampling: samplingOf(options),
      context_tokens_max: options.context_tokens_max,
      seedOf: (turn) => options.rng.fork("turn", turn).uint64(),
    });
    if (closed) dialogue.close();
    return { dialogue, renderer };
  }

  const complete: ChatCompletion = async ({ messages, tools }): Promise<Reply | EndOfConversation> => {
    const { dialogue, renderer } = await open(tools);
    const { text, stop } = await dialogue.turn(unseen(messages, given).map(chatMessage));
    given = messages.length;
    if (stop === "context_window_exceeded") return failed("context_window_exceeded of the user");
    const { content, calls } = parseReply(text, renderer.toolFormat);
    if (content === null && calls.length === 0) return failed("empty message of the user");
    const named = calls.map((call, i) => ({
      ...call,
      id: `user_call_${dialogue.turns}_${i + 1}`,
      requestor: "user" as const,
    }));
    return { content, tool_calls: named.length === 0 ? null : named };
  };

  const close = () => {
    closed = true;
    dialogue?.close();
  };
  return Object.assign(complete, { close });
}

/** What the user's model fails at is no reward of the agent's: it counts as a failure of the infrastructure. */
const failed = (detail: string): EndOfConversation => ({ end: "infrastructure_error", detail });

/** tau2's user simulator over a local model; `name` is what reports call it (`local:base`). */
export function localUser(
  policy: Policy,
  model: ModelName,
  { domain, task, ...options }: LocalOptions & { readonly domain: Domain; readonly task: Task },
): RolloutUser {
  const complete = localCompletion(policy, model, options);
  return {
    ...simulatedUser({ identity: localIdentity(model, options.directory), domain, task, complete }),
    close: complete.close,
  };
}

/** `local:base` for the frozen step-0 policy, else the directory's last part. */
export const localIdentity = (model: ModelName, directory: string) =>
  `local:${model === "base" ? model : basename(directory)}`;

/** JSON text for a chat template, or null for none. */
export function toolsJson(tools: readonly ToolSchema[] | null): string | null {
  return tools === null || tools.length === 0 ? null : dumps(exactOf(tools), { ascii: false });
}

function unseen(messages: readonly LlmMessage[], given: number): readonly LlmMessage[] {
  if (given === 0) return messages;
  if (messages[given]?.role !== "assistant")
    throw new Error("a local user's requests must go on where the last one ended");
  return messages.slice(given + 1);
}

function chatMessage(message: LlmMessage): ChatMessage {
  const content = message.content ?? "";
  if (message.role !== "assistant" || message.tool_calls === null)
    return { ...message, content, tool_calls: undefined };
  const tool_calls = message.tool_calls.map(({ function: { name, arguments: arguments_json } }) => ({
    function: { name, arguments_json },
  }));
  return { role: message.role, content, tool_calls };
}

const samplingOf = ({ info, temperature, max_new_tokens }: LocalOptions) => ({
  temperature,
  top_p: 1,
  top_k: 0,
  min_p: 0,
  max_new_tokens,
  stop_token_ids: info.eos_token_ids,
});
