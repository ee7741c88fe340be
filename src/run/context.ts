/** Does a conversation fit the model at all? Asked before any long work. */
import { UserError } from "../base/errors.ts";
import type { RunConfig } from "../config/schema.ts";
import type { Policy } from "../core/policy.ts";
import { toolsJson } from "../rollout/local-user.ts";
import { agentPrompt } from "../tau2/agent.ts";
import type { Domain, Task } from "../tau2/types.ts";

/** Each domain's prompt (policy and tools) and one turn must fit. */
export async function checkContext(
  config: RunConfig,
  { policy, domains }: { readonly policy: Policy; readonly domains: readonly Domain[] },
): Promise<void> {
  checkContextLimit(config, policy.info.context_tokens_max);
  const limit = Math.min(config.max_context_tokens ?? Number.POSITIVE_INFINITY, policy.info.context_tokens_max);
  for (const domain of domains) {
    const prompt = await promptTokens(config, policy, domain);
    const needed = prompt + config.max_new_tokens;
    if (needed <= limit) continue;
    throw new UserError(
      "max_new_tokens",
      `${domain.name}'s prompt has ${prompt} tokens, and ${config.max_new_tokens} of a turn make ${needed}, but a conversation has at most ${limit}. Lower max_new_tokens, or take a model with a longer context`,
    );
  }
}

/** Also asked of config.json alone, before the model is loaded. */
export function checkContextLimit(config: RunConfig, model_context_tokens: number): void {
  if (config.max_context_tokens === null || config.max_context_tokens <= model_context_tokens) return;
  throw new UserError(
    "max_context_tokens",
    `${config.max_context_tokens} is more than the model's context of ${model_context_tokens} tokens`,
  );
}

async function promptTokens(config: RunConfig, policy: Policy, domain: Domain): Promise<number> {
  const messages = [
    { role: "system", content: agentPrompt(domain, domain.tasks[0] as Task) },
    { role: "user", content: "Hello" },
  ] as const;
  const text = await policy.render("policy", messages, {
    tools_json: toolsJson(domain.tools),
    add_generation_prompt: true,
    enable_thinking: config.enable_thinking,
  });
  return (await policy.tokenize("policy", text)).length;
}
