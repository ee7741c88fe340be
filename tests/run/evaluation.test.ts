/** Evaluation of a session that was trained, over a scripted policy. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CLAlgorithm, type ContinualMethod } from "../../src/cl/method.ts";
import { methodOf } from "../../src/cl/registry.ts";
import type { RunConfig } from "../../src/config/schema.ts";
import { type FakePolicy, type FakeScript, fakePolicy } from "../../src/core/fake.ts";
import { evaluateSession } from "../../src/run/evaluation.ts";
import type { Session } from "../../src/run/session.ts";
import { lampConfig, lampDomains, lampRun, luckyScript } from "../support/lamp-run.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-evaluation-"));
afterAll(() => rmSync(root, { recursive: true }));

/** Its luck depends on the weights, so that another column is another policy. */
const script: FakeScript = (tokens, context) => {
  const weightsVersion = Math.abs(Math.round(context.weights.reduce((sum, weight) => sum + weight, 0) * 1e7)) % 65_536;
  return luckyScript(tokens, { ...context, weightsVersion });
};

const sessionOf = (policy: FakePolicy, method: ContinualMethod): Session => ({
  edge: {
    env: {},
    now: () => 0,
    signal: new AbortController().signal,
    reporter: { line: () => {}, progress: () => {} },
  },
  policy,
  model_directory: "fake",
  user_model_directory: null,
  domains: lampDomains(),
  method,
  resume: null,
});

const progressiveConfig = (name: string): RunConfig =>
  lampConfig(join(root, name), {
    cl_algorithm: "progressive",
    lora_r: 2,
    learning_rate: 0.02,
    warmup_steps: 0,
    eval_interval: 0,
    eval_trials: 6,
  });

test("after progressive training every domain is answered by its own column, and the newest one is back", async () => {
  const config = progressiveConfig("columns");
  const method = methodOf(config);
  const { rows, policy } = await lampRun(config, { script, method });
  const trained = rows.findLast((row) => row.kind === "scores");
  const session = sessionOf(policy, method);
  const digest = await policy.digest();
  const options = { split: "test", policy_version: 9 } as const;
  expect((await evaluateSession(config, session, options)).rewards).toEqual(trained?.rewards ?? {});
  for (const domain of ["hall", "attic", "cellar"]) {
    const { rewards } = await evaluateSession(config, session, { ...options, domain });
    expect(rewards).toEqual({ [domain]: trained?.rewards[domain] ?? {} });
    const [column, back] = policy.weightOps.slice(-2);
    const index = config.task_order.indexOf(domain);
    expect(column).toEqual({ op: "activate_adapter", column: `column_${index}` });
    expect(back).toEqual({ op: "activate_adapter", column: "column_2" });
  }
  expect(await policy.digest()).toBe(digest);
});

test("a method that was not trained leaves the model as it is", async () => {
  const config = progressiveConfig("untrained");
  const policy = fakePolicy(script);
  await evaluateSession(config, sessionOf(policy, methodOf(config)), { split: "test" });
  expect(policy.weightOps).toEqual([]);
});

test("what only a run in training can do is refused", async () => {
  class Probing extends CLAlgorithm {
    readonly name = "probing";
    override beforeDomain(domain: string) {
      return [{ op: "probe", domains: [domain], tasks: "train", tasks_max: 1, trials: 1 } as const];
    }
  }
  const evaluation = evaluateSession(lampConfig(join(root, "probing")), sessionOf(fakePolicy(script), new Probing()), {
    split: "test",
  });
  await expect(evaluation).rejects.toThrow("method: probe can only be carried out while a run is trained");
});
