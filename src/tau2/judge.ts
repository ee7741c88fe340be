/**
 * The judge of a task's natural-language assertions: a model that reads the conversation and says of each assertion
 * whether the agent met it. What it is shown and what it answers have the original's form (SPEC section 7); the
 * instructions are worded by us.
 */
import { isArray, isObject, pythonRepr, tryParseExact } from "../base/exact.ts";
import { isEnd } from "./agent.ts";
import type { EndOfConversation, Message, Reply } from "./types.ts";
import type { ChatCompletion, LlmMessage } from "./user.ts";

export interface NlVerdict {
  /** As the judge repeats it. */
  readonly nl_assertion: string;
  readonly met: boolean;
  readonly justification: string;
}

export interface JudgeQuestion {
  readonly messages: readonly Message[];
  /** At least one. */
  readonly nl_assertions: readonly string[];
}

/** A verdict for every assertion, or why there is none. */
export type Judge = (question: JudgeQuestion) => Promise<readonly NlVerdict[] | EndOfConversation>;

/** A chat model as judge. An answer that is not a verdict for each assertion is asked for again, and never passes one. */
export function modelJudge(complete: ChatCompletion): Judge {
  return async (question) => {
    const flawOf = (reply: Reply) => (verdictsOf(reply, question) === null ? NO_VERDICTS : null);
    const reply = await complete({ messages: judgePrompt(question), tools: null, flawOf });
    if (isEnd(reply)) return reply;
    return verdictsOf(reply, question) ?? { end: "infrastructure_error", detail: `the judge's answer ${NO_VERDICTS}` };
  };
}

const NO_VERDICTS = "has no verdict for each assertion";

const INSTRUCTIONS = `
You grade a customer service agent. You are given the conversation of one test case, between the agent and a customer, and a list of expected outcomes.

Decide for every expected outcome, one by one, whether the agent satisfied it.

Answer with one JSON object and nothing else:
{
    "results": [
        {
            "expectedOutcome": "the outcome you grade, repeated word for word",
            "reasoning": "why, in a sentence or two",
            "metExpectation": true or false
        }
    ]
}
with one entry for each expected outcome, in the order given.
`.trim();

/** The transcript has a line `role: content` for every message, tool results included; a message without text reads None. */
export function judgePrompt({ messages, nl_assertions }: JudgeQuestion): LlmMessage[] {
  const transcript = messages.map(({ role, content }) => `${role}: ${content ?? "None"}`).join("\n");
  const content = `conversation:\n${transcript}\n\nexpectedOutcomes:\n${pythonRepr(nl_assertions)}`;
  return [
    { role: "system", content: INSTRUCTIONS },
    { role: "user", content },
  ];
}

/** null: the answer is not one well-formed verdict for each assertion. */
function verdictsOf({ content }: Reply, { nl_assertions }: JudgeQuestion): readonly NlVerdict[] | null {
  const answer = tryParseExact(withoutFence(content ?? ""));
  const results = isObject(answer) ? answer.results : null;
  if (!isArray(results) || results.length !== nl_assertions.length) return null;
  const verdicts = results.map((result) => {
    const { expectedOutcome, reasoning, metExpectation } = isObject(result) ? result : {};
    if (typeof expectedOutcome !== "string" || typeof metExpectation !== "boolean") return null;
    return { nl_assertion: expectedOutcome, met: metExpectation, justification: String(reasoning ?? "") };
  });
  return verdicts.every((verdict) => verdict !== null) ? verdicts : null;
}

/** Many models wrap JSON in a Markdown fence. */
function withoutFence(text: string): string {
  return /^\s*```(?:json)?\s*\n([\s\S]*?)\n\s*```\s*$/.exec(text)?.[1] ?? text;
}
