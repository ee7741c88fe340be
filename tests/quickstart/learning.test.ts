/**
 * Learning is real: from a fixed seed, the settings of `configs/quickstart.yaml` raise the evaluation reward of
 * one domain, and of all three in sequence; each of them then needs its own policy text.
 */
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readConfigFile } from "../../src/config/files.ts";
import { resolveConfig } from "../../src/config/load.ts";
import type { RunConfig } from "../../src/config/schema.ts";
import type { Policy } from "../../src/core/policy.ts";
import { scoresRowsOf } from "../../src/metrics/rows.ts";
import { collectRollouts } from "../../src/rollout/collect.ts";
import { openSession } from "../../src/run/open-session.ts";
import { plainReporter } from "../../src/run/report.ts";
import { train } from "../../src/run/train.ts";
import { loadDomain } from "../../src/tau2/domains/index.ts";
import type { Domain, Task } from "../../src/tau2/types.ts";
import { CORE_LIBRARY } from "../support/core-library.ts";

const MODEL = "configs/quickstart-model";
const runs = mkdtempSync(join(tmpdir(), "grpo-cl-learning-"));
afterAll(() => rmSync(runs, { recursive: true, force: true }));

const ready = existsSync(join(MODEL, "model.safetensors"));
if (!ready) test.skip(`needs ${MODEL}: scripts/make-quickstart-model`, () => {});

async function quickstart(name: string, fields: Record<string, unknown>): Promise<RunConfig> {
  const file = await readConfigFile("configs/quickstart.yaml");
  const flags = { model_name_or_path: MODEL, log_dir: join(runs, name), ...fields };
  return resolveConfig({ command: "train", file, flags, env: {}, knownDomains: ["shop", "rail", "phone"] });
}

/** Trains and hands the trained policy to `then`; returns the score matrix, from the row before training on. */
async function trained(config: RunConfig, then: (policy: Policy) => Promise<unknown> = async () => {}) {
  const reporter = plainReporter(() => {});
  const edge = { env: Bun.env, now: () => performance.now(), signal: new AbortController().signal, reporter };
  const session = await openSession(config, { edge, library: CORE_LIBRARY, purpose: "train" });
  using policy = session.policy;
  const { rows } = await train(config, session);
  await then(policy);
  return scoresRowsOf(rows).map(({ scores }) =>
    Object.fromEntries(Object.entries(scores).map(([domain, { reward_mean }]) => [domain, reward_mean])),
  );
}

describe.if(ready)("the built-in model learns by GRPO", () => {
  test(
    "one domain, a few steps, +0.2",
    async () => {
      const config = await quickstart("one", { task_order: ["shop"], num_steps_per_task: 16, seed: 5, eval_trials: 1 });
      const [before, after] = await trained(config);
      expect((after?.shop ?? 0) - (before?.shop ?? 1)).toBeGreaterThanOrEqual(0.2);
    },
    { timeout: 120_000 },
  );

  test(
    "every domain gains over its preceding row and over the base, and needs its own policy text",
    async () => {
      const config = await quickstart("all", { seed: 5 });
      const swaps: Record<string, { readonly own: number; readonly swapped: number }> = {};
      const matrix = await trained(config, async (policy) => Object.assign(swaps, await swapPolicies(config, policy)));
      config.task_order.forEach((domain, i) => {
        const [base, before, after] = [matrix[0], matrix[i], matrix[i + 1]].map((row) => row?.[domain] ?? Number.NaN);
        expect((after as number) - (before as number)).toBeGreaterThanOrEqual(0.2);
        expect((after as number) - (base as number)).toBeGreaterThanOrEqual(0.2);
      });
      for (const { own, swapped } of Object.values(swaps)) expect(swapped).toBeLessThan(own);
    },
    { timeout: 600_000 },
  );
});

/** Reward of each domain with its own policy text and with each other domain's. */
async function swapPolicies(config: RunConfig, policy: Policy) {
  const domains = await Promise.all(
    config.task_order.map((name) => loadDomain(name, { tau2_data_dir: null, train_split: 0.8 })),
  );
  const results: Record<string, { own: number; swapped: number }> = {};
  for (const domain of domains) {
    const own = await reward(config, policy, domain);
    for (const other of domains.filter(({ name }) => name !== domain.name)) {
      const disguised = { ...domain, policy: other.policy, systemPrompt: other.systemPrompt };
      results[`${domain.name} with the policy of ${other.name}`] = {
        own,
        swapped: await reward(config, policy, disguised),
      };
    }
  }
  return results;
}

async function reward(config: RunConfig, policy: Policy, domain: Domain): Promise<number> {
  const tasks = new Map(domain.tasks.map((task) => [task.id, task]));
  const planned = (domain.splits.test ?? []).map((id) => ({ domain, task: tasks.get(id) as Task, replayed: false }));
  const makeUser = ({ scriptedUser }: Domain, task: Task) => {
    if (scriptedUser === undefined) throw new Error("a built-in domain has a scripted user");
    return scriptedUser(task);
  };
  const groups = await collectRollouts(policy, planned, {
    config,
    phase: "eval",
    step: 0,
    samples: 1,
    makeUser,
    policy_version: 0,
  });
  const rewards = groups.flatMap(({ rollouts }) => rollouts.map((rollout) => rollout.reward));
  return rewards.reduce((sum, value) => sum + value, 0) / rewards.length;
}
