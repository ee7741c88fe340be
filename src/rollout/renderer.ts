/**
 * Chat template → token ids, append-only: a token is made once and never again.
 *
 * The first prompt is the whole template. What comes after a turn of the model is the difference of two renderings of a
 * short conversation: everything that the template puts behind an assistant turn. So tool results and user texts look
 * exactly as the template wants them, and the model's own tokens stay what it sampled.
 *
 * The result equals the tokens of the full template, except where no append-only history can:
 *   - Qwen3's template drops the reasoning of earlier turns (and the empty `<think>` block that `enable_thinking: false`
 *     puts into each prompt); our history keeps what the model saw when it spoke.
 *   - Templates that trim assistant texts (Llama 3): spaces at the border of a sampled turn stay.
 *   - A policy may sample tokens that its tokenizer would not choose for the same text, also at the border of its turn.
 *   - A call that the template would print in another way (`{"a":1}` without spaces, a malformed one) stays as sampled.
 *   - A turn that was cut gets the template's end of turn; one that ended with another stop token keeps that token.
 */
import { UserError } from "../base/errors.ts";
import { EngineError } from "../core/errors.ts";
import type { CallGrammar, ChatMessage, ModelInfo, ModelName, Policy } from "../core/policy.ts";
import type { ToolFormat } from "./tool-call.ts";

export interface RendererOptions {
  readonly model: ModelName;
  readonly info: ModelInfo;
  /** The model's directory, for messages to people. */
  readonly directory: string;
  /** JSON text of the OpenAI tool schemas (an array), or null for none. */
  readonly tools_json: string | null;
  readonly enable_thinking: boolean;
}

export interface ChatRenderer {
  /** How this model writes tool calls; null without tools. */
  readonly toolFormat: ToolFormat | null;
  /** What `constrained_tool_calls` limits sampling with; null without tools, or where the template shows a call as nothing we know. */
  readonly grammar: CallGrammar | null;
  /** The generation prompt ends inside an opened `<think>`: the sampled text begins as reasoning. */
  readonly opensThinking: boolean;
  /** Tokens of a whole prompt that ends where the model speaks. */
  first(messages: readonly ChatMessage[]): Promise<Uint32Array>;
  /**
   * Tokens between a sampled turn and the next one. `ended`: the turn's last token was a stop token, so the template's
   * end of turn is already there in one form or another.
   */
  next(messages: readonly ChatMessage[], turn: { readonly ended: boolean }): Promise<Uint32Array>;
  /** Tokens that the model would have to sample for the template to show this message of the assistant: up to its stop token. */
  spoken(message: ChatMessage): Promise<Uint32Array>;
}

/** Checks what the template does to each role. UserError, naming the directory, where it refuses or reorders. */
export async function openRenderer(policy: Policy, options: RendererOptions): Promise<ChatRenderer> {
  if (!options.info.has_chat_template) {
    throw new UserError(options.directory, "the model has no chat template. Take an instruction-tuned (chat) model.");
  }
  const template = new Template(policy, options);
  const traits = await traitsOf(template);
  const heads = new Map<string, Promise<Head | null>>();

  async function first(messages: readonly ChatMessage[]): Promise<Uint32Array> {
    const allowed = traits.assistantMayOpen ? messages : withoutOpening(messages);
    const text = await template.text(allowed, { tools_json: options.tools_json, add_generation_prompt: true });
    const key = JSON.stringify(allowed.slice(0, -1));
    if (!heads.has(key)) heads.set(key, headOf(template, allowed));
    const head = await heads.get(key);
    if (!head || !text.startsWith(head.text)) return template.tokens(text);
    return joined(head.tokens, await template.tokens(text.slice(head.text.length)));
  }

  async function next(messages: readonly ChatMessage[], { ended }: { readonly ended: boolean }): Promise<Uint32Array> {
    const text = await template.after([USER, ASSISTANT], messages, { add_generation_prompt: true });
    const tokens = await template.tokens(text);
    return ended ? tokens.subarray(traits.endOfTurnTokens) : tokens;
  }

  async function spoken(message: ChatMessage): Promise<Uint32Array> {
    const introduction = textBefore(await template.after([USER], [ASSISTANT, LAST], BARE), ASSISTANT.content);
    const results = (message.tool_calls ?? []).map(() => TOOL);
    const text = await template.after([USER], [message, ...results, LAST], BARE);
    if (!text.startsWith(introduction)) throw template.refused("it opens turns of the assistant in different ways");
    const tokens = await template.tokens(text.slice(introduction.length));
    const stop = tokens.findIndex((token) => options.info.eos_token_ids.includes(token));
    if (stop === -1) throw template.refused("it does not end a turn of the assistant with a stop token of the model");
    return tokens.slice(0, stop + 1);
  }

  const { toolFormat, opensThinking } = traits;
  return { toolFormat, grammar: grammarOf(options, traits), opensThinking, first, next, spoken };
}

const BARE = { add_generation_prompt: false } as const;

const textBefore = (text: string, mark: string): string => text.slice(0, Math.max(text.indexOf(mark), 0));

/** Contents that no template trims, and that occur nowhere else. */
const SYSTEM = { role: "system", content: "qSystemq" } as const;
const USER = { role: "user", content: "qUserq" } as const;
const ASSISTANT = { role: "assistant", content: "qAssistantq" } as const;
const TOOL = { role: "tool", content: "qToolq", tool_call_id: "call_0" } as const;
const LAST = { role: "user", content: "qLastq" } as const;
const CALL = {
  role: "assistant",
  content: "",
  tool_calls: [{ function: { name: "q_probe_q", arguments_json: "{}" } }],
} as const;
const PROBE_TOOLS = JSON.stringify([
  {
    type: "function",
    function: {
      name: "q_probe_q",
      description: "Probe.",
      parameters: { type: "object", properties: {}, required: [] },
    },
  },
]);

interface Traits {
  readonly toolFormat: ToolFormat | null;
  /** False: the format is a guess, since the template does not print calls in it. */
  readonly formatShown: boolean;
  readonly opensThinking: boolean;
  /** False: the template puts a leading assistant message where only a user may speak (Llama 3.1 with tools), or refuses. */
  readonly assistantMayOpen: boolean;
  /** Tokens that the template puts behind an assistant text, up to its stop token; 0 where it puts none. */
  readonly endOfTurnTokens: number;
}

async function traitsOf(template: Template): Promise<Traits> {
  await requireRoles(template, [SYSTEM, USER, ASSISTANT, LAST]);
  if (template.hasTools) await requireRoles(template, [SYSTEM, USER, ASSISTANT, TOOL, TOOL, LAST]);
  const prompt = await template.after([USER], [], { add_generation_prompt: true });
  return {
    ...(template.hasTools ? await toolFormatOf(template) : { toolFormat: null, formatShown: false }),
    opensThinking: prompt.trimEnd().endsWith("<think>"),
    assistantMayOpen: await assistantMayOpen(template),
    endOfTurnTokens: await endOfTurnTokens(template),
  };
}

/** Every content of the probe must be in the text, in its order. */
async function requireRoles(
  template: Template,
  messages: readonly (ChatMessage & { content: string })[],
): Promise<void> {
  const text = await template.text(messages, { add_generation_prompt: true });
  let at = 0;
  for (const { role, content } of messages) {
    const found = text.indexOf(content, at);
    if (found === -1) {
      const verb = text.includes(content) ? "moves" : "leaves out";
      throw template.refused(`it ${verb} the message of role ${role}`);
    }
    at = found + content.length;
  }
  if (text.indexOf(ASSISTANT.content) !== text.lastIndexOf(ASSISTANT.content)) {
    throw template.refused("it repeats a message of role assistant");
  }
}

async function toolFormatOf(template: Template): Promise<Pick<Traits, "toolFormat" | "formatShown">> {
  const prompt = await template.text([SYSTEM, USER], { add_generation_prompt: true });
  if (!prompt.includes("q_probe_q")) throw template.refused("it does not show the tools to the model");
  const withCall = await template.tryText([SYSTEM, USER, CALL]);
  const call = withCall?.slice(withCall.indexOf(USER.content)) ?? "";
  const shows = (key: string) => call.includes('"q_probe_q"') && call.includes(`"${key}"`);
  if (withCall?.includes("<tool_call>")) return { toolFormat: "hermes", formatShown: shows("arguments") };
  if (call.includes('"parameters"')) return { toolFormat: "llama3", formatShown: shows("parameters") };
  return { toolFormat: template.info.architecture === "llama" ? "llama3" : "hermes", formatShown: false };
}

function grammarOf({ tools_json }: RendererOptions, traits: Traits): CallGrammar | null {
  const { toolFormat, formatShown, opensThinking } = traits;
  if (tools_json === null || toolFormat === null || !formatShown) return null;
  return { tools_json, format: toolFormat, in_reasoning: opensThinking };
}

/**
 * The grammar of the agent's turns under `constrained_tool_calls`; null: they are free. UserError where the template does
 * not say how the model writes calls.
 */
export function agentGrammar(
  { toolFormat, grammar }: ChatRenderer,
  config: { readonly constrained_tool_calls: boolean; readonly model_name_or_path: string },
): CallGrammar | null {
  if (!config.constrained_tool_calls || toolFormat === null) return null;
  if (grammar !== null) return grammar;
  throw new UserError(
    "constrained_tool_calls",
    `the chat template of ${config.model_name_or_path} prints tool calls in no format that is known; set it to false`,
  );
}

/** Is a leading assistant message introduced as one that answers a user is? */
async function assistantMayOpen(template: Template): Promise<boolean> {
  const userEnd = await template.after([SYSTEM, USER], [], { add_generation_prompt: false });
  const answer = await template.after([SYSTEM, USER], [ASSISTANT, LAST], { add_generation_prompt: false });
  const introduction = answer.slice(answer.startsWith(userEnd) ? userEnd.length : 0, answer.indexOf(ASSISTANT.content));
  const opening = await template.tryText([SYSTEM, ASSISTANT, LAST]);
  return opening?.includes(introduction + ASSISTANT.content) ?? false;
}

async function endOfTurnTokens(template: Template): Promise<number> {
  const tokens = await template.tokens(await template.after([USER, ASSISTANT], [], { add_generation_prompt: false }));
  return tokens.findIndex((token) => template.info.eos_token_ids.includes(token)) + 1;
}

const withoutOpening = (messages: readonly ChatMessage[]) => {
  const firstUser = messages.findIndex((message) => message.role === "user");
  return messages.filter((message, i) => i >= firstUser || message.role !== "assistant");
};

/** The start of a prompt that is the same whatever the last message says: rendered and tokenised once per domain. */
interface Head {
  readonly text: string;
  readonly tokens: Uint32Array;
}

/** Cut before a special token, where a tokenizer cuts too; null where there is none near the end, or it does not. */
async function headOf(template: Template, messages: readonly ChatMessage[]): Promise<Head | null> {
  const probe = [...messages.slice(0, -1), LAST];
  const text = await template.text(probe, { tools_json: template.options.tools_json, add_generation_prompt: false });
  const whole = await template.tokens(text);
  const header = await template.tokens(text.slice(0, Math.max(text.lastIndexOf(LAST.content), 0)));
  const end = await template.lastSpecial(header);
  if (end === null) return null;
  const tail = await template.decode(whole.subarray(end));
  const head = { text: text.slice(0, text.length - tail.length), tokens: whole.slice(0, end) };
  const again = joined(head.tokens, await template.tokens(tail));
  return text.endsWith(tail) && again.every((token, t) => token === whole[t]) ? head : null;
}

interface TextOptions {
  /** Absent: a small probe in the tools' place, since a template may speak differently when there are tools. */
  readonly tools_json?: string | null;
  readonly add_generation_prompt: boolean;
}

/** A model's template and tokenizer. */
class Template {
  readonly #model: ModelName;

  constructor(
    readonly policy: Policy,
    readonly options: RendererOptions,
  ) {
    this.#model = options.model;
  }

  get hasTools(): boolean {
    return this.options.tools_json !== null;
  }
  get info(): ModelInfo {
    return this.options.info;
  }

  async text(messages: readonly ChatMessage[], options: TextOptions): Promise<string> {
    const { tools_json = this.hasTools ? PROBE_TOOLS : null, add_generation_prompt } = options;
    const { enable_thinking } = this.options;
    try {
      return await this.policy.render(this.#model, messages, { tools_json, add_generation_prompt, enable_thinking });
    } catch (error) {
      if (!(error instanceof EngineError) || error.code !== "BadArgument") throw error;
      throw this.refused(`with roles ${messages.map(({ role }) => role).join(", ")} it fails: ${error.message}`, error);
    }
  }

  /** null where the template refuses. */
  async tryText(messages: readonly ChatMessage[]): Promise<string | null> {
    try {
      return await this.text(messages, { add_generation_prompt: false });
    } catch (error) {
      if (error instanceof UserError) return null;
      throw error;
    }
  }

  /** What the template puts behind the content of the last message of `before`, when `messages` follow. */
  async after(
    before: readonly (ChatMessage & { content: string })[],
    messages: readonly ChatMessage[],
    options: TextOptions,
  ): Promise<string> {
    const text = await this.text([...before, ...messages], options);
    const { role, content } = before.at(-1) ?? USER;
    const at = text.indexOf(content);
    if (at === -1) throw this.refused(`it leaves out a message of role ${role}`);
    return text.slice(at + content.length);
  }

  tokens(text: string): Promise<Uint32Array> {
    return this.policy.tokenize(this.#model, text);
  }

  decode(tokens: Uint32Array): Promise<string> {
    return this.policy.decode(this.#model, tokens, { skip_special: false });
  }

  /** Index of the last special token; headers are short, so only the last few tokens are looked at. */
  async lastSpecial(tokens: Uint32Array): Promise<number | null> {
    for (let at = tokens.length - 1; at >= Math.max(0, tokens.length - 16); at--) {
      const one = tokens.subarray(at, at + 1);
      const spoken = await this.policy.decode(this.#model, one, { skip_special: true });
      if (spoken === "" && (await this.decode(one)) !== "") return at;
    }
    return null;
  }

  refused(what: string, cause?: unknown): UserError {
    return new UserError(this.options.directory, `the chat template cannot hold the conversation: ${what}`, { cause });
  }
}

function joined(a: Uint32Array, b: Uint32Array): Uint32Array {
  const both = new Uint32Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
