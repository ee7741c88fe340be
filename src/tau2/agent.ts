/** tau2's agents: their system prompts, and the agent that can end a conversation itself (SPEC sections 5 and 10). */
import type { Agent, EndOfConversation, Reply } from "./types.ts";

/** The fixed line every conversation begins with. */
export const GREETING = "Hi! How can I help you today?";

const INSTRUCTIONS = `
You are a customer service agent that helps the user according to the <policy> provided below.
In each turn you can either:
- Send a message to the user.
- Make a tool call.
You cannot do both at the same time.

Try to be helpful and always follow the policy. Always make sure you generate valid JSON only.
`.trim();

/** System prompt of tau2's LLM agent. */
export function agentSystemPrompt(policy: string): string {
  return `<instructions>\n${INSTRUCTIONS}\n</instructions>\n<policy>\n${policy}\n</policy>`;
}

const STOP = "###STOP###";

/** An agent that may end the conversation, as in tau2's gym: by saying `###STOP###`, or by a call of `done`, which drops all else. */
export function stoppingAgent(agent: Agent): Agent {
  return {
    async reply(incoming) {
      const reply = await agent.reply(incoming);
      return isEnd(reply) || !reply.tool_calls?.some(({ name }) => name === "done")
        ? reply
        : { content: STOP, tool_calls: null };
    },
    isStop: ({ content }) => content?.includes(STOP) ?? false,
  };
}

export function isEnd(reply: Reply | EndOfConversation): reply is EndOfConversation {
  return "end" in reply;
}
