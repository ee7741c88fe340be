/** tau2's agents: their system prompts, and the agent that can end a conversation itself (SPEC sections 5 and 10). */
import type { Agent, Domain, EndOfConversation, Reply, Task, ToolSchema } from "./types.ts";

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

const SOLO_INSTRUCTIONS = `
You are a customer service agent that helps the user according to the <policy> provided below.
You will be provided with a ticket that contains the user's request.
You will need to plan and call the appropriate tools to solve the ticket.

You cannot communicate with the user, only make tool calls.
Stop when you consider that you have solved the ticket.
To do so, send a message containing a single tool call to the \`done\` tool. Do not include any other tool calls in this last message.

Always follow the policy. Always make sure you generate valid JSON only.
`.trim();

/** System prompt of tau2's solo agent. A task may lack a ticket; the original then prints None. */
export function soloSystemPrompt(policy: string, { ticket }: Task): string {
  return `<instructions>\n${SOLO_INSTRUCTIONS}\n</instructions>\n<policy>\n${policy}\n</policy>\n<ticket>\n${ticket ?? "None"}\n</ticket>`;
}

/** What an agent is told about a task: the ticket, if it works alone. */
export function agentPrompt({ solo_mode, systemPrompt, soloSystemPrompt }: Domain, task: Task): string {
  return solo_mode && soloSystemPrompt !== undefined ? soloSystemPrompt(task) : systemPrompt;
}

/** How an agent that works alone says that it has finished. */
export const DONE: ToolSchema = {
  type: "function",
  function: {
    name: "done",
    description: "Call this function when you are done with the task.",
    parameters: { properties: {}, title: "parameters", type: "object" },
  },
};

/** Whether the original lets an agent work on this task alone: nobody may speak in its history; without one it needs a ticket and a goal. */
export function isSoloTask({ initial_state, ticket, evaluation_criteria }: Task): boolean {
  if (initial_state !== null)
    return (initial_state.message_history ?? []).every(
      ({ role, ...message }) =>
        role === "tool" || (role === "assistant" && "tool_calls" in message && message.tool_calls !== null),
    );
  return ticket !== null && (evaluation_criteria?.actions ?? []).length > 0;
}

const STOP = "###STOP###";

/** An agent that may end the conversation, as in tau2's gym: by saying `###STOP###`, or by a call of `done`, which drops all else. */
export function stoppingAgent(agent: Agent): Agent {
  return {
    async reply(incoming) {
      const reply = await agent.reply(incoming);
      return isEnd(reply) || !reply.tool_calls?.some(({ name }) => name === DONE.function.name)
        ? reply
        : { content: STOP, tool_calls: null };
    },
    isStop: ({ content }) => content?.includes(STOP) ?? false,
  };
}

/** tau2's solo agent: it ends by a call of `done`, and a message without a call is its failure. */
export function soloAgent(agent: Agent): Agent {
  return stoppingAgent({
    async reply(incoming) {
      const reply = await agent.reply(incoming);
      if (isEnd(reply) || reply.tool_calls !== null) return reply;
      return { end: "agent_error", detail: "ValueError: LLMSoloAgent only supports tool calls." };
    },
  });
}

export function isEnd(reply: Reply | EndOfConversation): reply is EndOfConversation {
  return "end" in reply;
}
