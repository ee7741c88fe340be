/**
 * A recorded conversation as the tokens that a rollout of it would have left: the same prompts, and in place of what the
 * policy sampled the turns that the recorded agent took.
 */
import type { ChatMessage } from "../core/policy.ts";
import type { Message } from "../tau2/types.ts";
import { visibleToAgent } from "../tau2/user.ts";
import { chatMessage } from "./agent.ts";
import type { TokenRecord } from "./dialogue.ts";
import type { ChatRenderer } from "./renderer.ts";

export interface RecordedConversation {
  readonly systemPrompt: string;
  readonly messages: readonly Message[];
  /** Messages at the start that the agent did not say itself: the greeting, or the task's history. */
  readonly given: number;
}

/** What stands behind the agent's last turn is left out: nothing is learned from it. */
export async function recordedTokens(
  renderer: ChatRenderer,
  { systemPrompt, messages, given }: RecordedConversation,
): Promise<Pick<TokenRecord, "tokens" | "sampled_mask">> {
  const segments: { readonly tokens: Uint32Array; readonly spoken: boolean }[] = [];
  let incoming: ChatMessage[] = [{ role: "system", content: systemPrompt }];
  for (const [i, message] of messages.entries()) {
    if (!visibleToAgent(message)) continue;
    if (message.role !== "assistant" || i < given) {
      incoming.push(chatMessage(message));
      continue;
    }
    const prompt = segments.length === 0 ? renderer.first(incoming) : renderer.next(incoming, { ended: true });
    segments.push({ tokens: await prompt, spoken: false });
    segments.push({ tokens: await renderer.spoken(chatMessage(message)), spoken: true });
    incoming = [];
  }
  return joined(segments);
}

function joined(segments: readonly { readonly tokens: Uint32Array; readonly spoken: boolean }[]) {
  const length = segments.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const [tokens, sampled_mask] = [new Uint32Array(length), new Uint8Array(length)];
  let at = 0;
  for (const segment of segments) {
    tokens.set(segment.tokens, at);
    if (segment.spoken) sampled_mask.fill(1, at, at + segment.tokens.length);
    at += segment.tokens.length;
  }
  return { tokens, sampled_mask };
}
