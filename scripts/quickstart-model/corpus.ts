/** The texts that the vocabulary is learned from: conversations of all domains with all habits, and the policies. */

import { dumps } from "../../src/base/exact.ts";
import type { Rng } from "../../src/base/rng.ts";
import { CONVENTIONS, type DomainName, type Preparation } from "../../src/tau2/domains/quickstart/convention.ts";
import { demonstration, demonstrator } from "../../src/tau2/domains/quickstart/demonstration.ts";
import { quickstartDomain } from "../../src/tau2/domains/quickstart/index.ts";
import { prepareEnvironment } from "../../src/tau2/environment.ts";
import { runConversation } from "../../src/tau2/orchestrator.ts";
import type { Message } from "../../src/tau2/types.ts";

const PREPARATIONS: readonly Preparation[] = ["confirm", "hold", "unlock", "none"];
const DOMAINS_EACH = 8;

export async function corpus(rng: Rng): Promise<string[]> {
  const names = Object.keys(CONVENTIONS) as DomainName[];
  const texts = names.map((name) =>
    Array.from({ length: DOMAINS_EACH }, (_, index) => domainTexts(name, rng.fork(name, index))),
  );
  return (await Promise.all(texts.flat())).flat();
}

async function domainTexts(name: DomainName, rng: Rng): Promise<string[]> {
  const domain = quickstartDomain(name, rng.uint32());
  const head = `system\n${domain.systemPrompt}\nTools: ${domain.tools.map((tool) => tool.function.name).join(" ")}`;
  const conversations = domain.posed.map(async ({ task, problem }) => {
    const draw = rng.fork(task.id);
    const habits = { preparation: draw.pick(PREPARATIONS), swapsUnwanted: draw.uniform() < 0.5 };
    const agent = demonstrator(demonstration(problem, habits, draw));
    const user = domain.scriptedUser?.(task) ?? null;
    const environment = prepareEnvironment(domain, task);
    const { messages } = await runConversation({ environment, agent, user, limits: { max_steps: 24, max_errors: 10 } });
    return messages.flatMap(messageTexts);
  });
  return [head, ...(await Promise.all(conversations)).flat(), ...ERRORS];
}

/** As the chat template writes them, cut where special tokens stand. */
function messageTexts(message: Message): string[] {
  const calls = message.role === "tool" ? [] : (message.tool_calls ?? []);
  return [
    `${message.role}\n${message.content ?? ""}`,
    ...calls.map(({ name, arguments: args }) => `\n{"name": "${name}", "arguments": ${dumps(args)}}\n`),
    "\n",
  ];
}

const ERRORS: readonly string[] = [
  "tool\nError: #4217 not found",
  "tool\nError: order is cancelled",
  "tool\nError: order is credited",
];
