/** The user of the end-to-end runs: opens, then stops or goes on by the agent's first own text; also as a process. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { Budget } from "../../src/rollout/budget.ts";
import { openaiEndpoint } from "../../src/rollout/openai.ts";
import type { LlmMessage } from "../../src/tau2/user.ts";
import { RULES, ruleUser } from "../support/openai-server.ts";

/** Greeting, user, agent, user, … from the user's chair. */
const conversation = (...texts: string[]): LlmMessage[] => [
  { role: "system", content: "scenario" },
  ...texts.map(
    (content, i): LlmMessage =>
      i % 2 === 0 ? { role: "user", content } : { role: "assistant", content, tool_calls: null },
  ),
];

test.each([
  ["opens after the greeting", conversation("Hi!"), "Hello, I have a question about my reservation."],
  ["stops on an even sum of code points", conversation("Hi!", "Hello", "bb"), "###STOP###"],
  ["goes on otherwise", conversation("Hi!", "Hello", "ba"), "Please go on."],
  ["and keeps to what it decided first", conversation("Hi!", "Hello", "ba", "Please go on.", "bb"), "Please go on."],
])("parity %s", (_, messages, said) => {
  expect(ruleUser("parity")(messages, 0)).toBe(said);
});

test("each rule has a verdict", () => {
  const texts = ["a", "bb"];
  const verdicts = Object.entries(RULES).map(([name, rule]) => [name, ...texts.map(rule)]);
  expect(verdicts).toEqual([
    ["parity", false, true],
    ["length", false, true],
    ["always", true, true],
    ["never", false, false],
  ]);
});

test("as a process it prints the URL that user.base_url takes", async () => {
  const script = join(import.meta.dir, "..", "support", "openai-server.ts");
  const server = Bun.spawn([process.execPath, script, "--rule", "always"], { stdout: "pipe", timeout: 20_000 });
  try {
    const { value } = await server.stdout.getReader().read();
    const base_url = new TextDecoder().decode(value).trim();
    const config = {
      model: "rule",
      base_url,
      api_key_env: "NONE",
      temperature: 0,
      timeout_s: 5,
      max_retries: 0,
      requests_per_minute: null,
      max_concurrent_requests: 1,
      cache_dir: null,
      price_per_million_input_tokens: 0,
      price_per_million_output_tokens: 0,
    };
    const budget = new Budget({ limit_usd: null });
    const complete = openaiEndpoint({ role: "user", config, env: {}, now: () => 0, budget }).completion({ seed: 1 });
    expect(await complete({ messages: conversation("Hi!", "Hello", "x"), tools: null })).toEqual({
      content: "###STOP###",
      tool_calls: null,
    });
  } finally {
    server.kill();
    await server.exited;
  }
}, 30_000);
