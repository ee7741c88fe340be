/** Tools that several domains have, word for word. */
import { calculate as calculated } from "../expression.ts";
import { str } from "../model.ts";
import { parameter, type Tool, tool } from "../tool.ts";

export const calculate: Tool<unknown> = tool({
  name: "calculate",
  kind: "generic",
  description: "Calculate the result of a mathematical expression.",
  parameters: {
    expression: parameter(
      str,
      "The mathematical expression to calculate, such as '2 + 2'. The expression can contain numbers, operators (+, -, *, /), parentheses, and spaces.",
    ),
  },
  run: (_state, { expression }) => calculated(expression),
});

export const transferToHumanAgents: Tool<unknown> = tool({
  name: "transfer_to_human_agents",
  kind: "generic",
  description:
    "Transfer the user to a human agent, with a summary of the user's issue.\n\nOnly transfer if\n -  the user explicitly asks for a human agent\n -  given the policy and the available tools, you cannot solve the user's issue.",
  parameters: { summary: parameter(str, "A summary of the user's issue.") },
  run: () => "Transfer successful",
});
