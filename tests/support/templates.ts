/** Chat templates as functions, over the fake policy: what the renderer must cope with. */
import { EngineError } from "../../src/core/errors.ts";
import type { ChatMessage, Policy, RenderOptions } from "../../src/core/policy.ts";

export type TemplateFunction = (messages: readonly ChatMessage[], options: RenderOptions) => string;

/** The policy with another template. */
export function withTemplate<P extends Policy>(policy: P, template: TemplateFunction): P {
  return new Proxy(policy, {
    get(target, name) {
      if (name === "render") {
        return async (_model: string, messages: readonly ChatMessage[], options: RenderOptions) =>
          template(messages, options);
      }
      const value = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

const turn = (role: string, body: string) => `<|im_start|>${role}\n${body}<|im_end|>\n`;

/** Llama 3.1's way in ChatML's tokens: trims, puts the tools into the first message whoever speaks, tool results as JSON. */
export const llamaLike: TemplateFunction = (messages, { tools_json, add_generation_prompt }) => {
  const none: ChatMessage = { role: "system", content: "" };
  const [system, ...rest] = messages[0]?.role === "system" ? messages : [none, ...messages];
  const parts = [turn("system", (system?.content ?? "").trim())];
  if (tools_json !== null) {
    const first = rest.shift();
    parts.push(turn("user", `Answer with {"name": …, "parameters": …}.\n${tools_json}\n${first?.content?.trim()}`));
  }
  for (const { role, content, tool_calls } of rest) {
    const [call] = tool_calls ?? [];
    if (call)
      parts.push(turn(role, `{"name": "${call.function.name}", "parameters": ${call.function.arguments_json}}`));
    else
      parts.push(
        turn(role === "tool" ? "ipython" : role, role === "tool" ? JSON.stringify(content) : (content ?? "").trim()),
      );
  }
  return parts.join("") + (add_generation_prompt ? "<|im_start|>assistant\n" : "");
};

/** Qwen3's way: reasoning of earlier turns is dropped, the prompt closes or leaves open the reasoning. */
export const qwen3Like: TemplateFunction = (messages, { tools_json, add_generation_prompt, enable_thinking }) => {
  const lastUser = messages.findLastIndex(({ role }) => role === "user");
  const parts = messages.map(({ role, content }, i) => {
    if (role === "system")
      return turn(role, tools_json === null ? (content ?? "") : `${content}\n<tool_call>\n${tools_json}`);
    if (role === "tool") {
      const opens = messages[i - 1]?.role !== "tool" ? "<|im_start|>user" : "";
      return `${opens}\n<tool_response>\n${content}\n</tool_response>${messages[i + 1]?.role !== "tool" ? "<|im_end|>\n" : ""}`;
    }
    const spoken = (content ?? "").split("</think>").at(-1)?.trimStart() ?? "";
    const last = role === "assistant" && i > lastUser && i === messages.length - 1;
    return turn(role, last ? `<think>\n\n</think>\n\n${spoken}` : role === "assistant" ? spoken : (content ?? ""));
  });
  const generation = `<|im_start|>assistant\n${enable_thinking ? "" : "<think>\n\n</think>\n\n"}`;
  return parts.join("") + (add_generation_prompt ? generation : "");
};

/** jinja's `raise_exception`. */
export const raise = (message: string): never => {
  throw new EngineError("BadArgument", `chat template: ${message}`);
};
