/** Files of recorded conversations: what is read, what is left out, and how a bad file is named. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UserError } from "../../src/base/errors.ts";
import { readRecorded } from "../../src/run/sft-data.ts";
import { lampRollouts, writeRollouts } from "../support/lamp-rollouts.ts";
import { foldersWith, SHARED } from "../support/shared.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-sft-data-"));
afterAll(() => rmSync(root, { recursive: true }));

const file = (name: string, content: unknown) => {
  const path = join(root, name);
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
  return path;
};

test("of a run directory: every training rollout once, as it was sampled, none of an evaluation", async () => {
  const groups = await lampRollouts();
  const rollouts = groups.flatMap((group) => group.rollouts);
  const run = join(root, "run");
  mkdirSync(join(run, "rollouts"), { recursive: true });
  for (const name of ["step_000000", "eval_base_hall"]) writeRollouts(join(run, `rollouts/${name}.jsonl.zst`), groups);
  mkdirSync(join(run, "checkpoint_task_0"));
  const lines = Bun.zstdDecompressSync(readFileSync(join(run, "rollouts/step_000000.jsonl.zst")))
    .toString()
    .trim();
  writeFileSync(join(run, "checkpoint_task_0/trajectories.json"), `[${lines.split("\n").slice(3).join(",")}]`);
  file("run/config.json", { seed: 1 });

  const recorded = await readRecorded([run]);
  expect(recorded).toHaveLength(rollouts.length);
  const sampled = new Map(rollouts.map((one) => [JSON.stringify([one.domain, one.task_id, one.sample]), one]));
  for (const one of recorded) {
    if (one.kind !== "trajectory") throw new Error("expected a trajectory");
    const [domain, task_id, , , sample] = JSON.parse(one.identity);
    const { tokens, sampled_mask, reward } = sampled.get(JSON.stringify([domain, task_id, sample])) ?? {};
    expect({ tokens: one.tokens, sampled_mask: one.sampled_mask, reward: one.reward }).toEqual({
      tokens,
      sampled_mask,
      reward,
    } as never);
  }
});

const simulation = (fields: object = {}) => ({
  id: "s",
  task_id: "3",
  termination_reason: "user_stop",
  reward_info: { reward: 1.0 },
  messages: [
    { role: "assistant", content: "Hi! How can I help you today?", tool_calls: null },
    { role: "user", content: "Hello" },
  ],
  ...fields,
});
const results = (simulations: readonly unknown[], domain_name: unknown = "shop") => ({
  info: { environment_info: { domain_name, policy: "P" }, agent_info: { implementation: "llm_agent" } },
  tasks: [{ id: "7", initial_state: { message_history: [{}, {}] } }],
  simulations,
});
const trajectory = {
  domain: "d",
  task_id: "1",
  task_idx: 0,
  step: 0,
  sample: 0,
  termination: "user_stop",
  reward: 1,
  tokens: [1, 2],
  sampled: [[1, 2]],
  messages: [],
};

test("tau2's results: the greeting, or the task's history, was given", async () => {
  const path = file("results.json", results([simulation(), simulation({ id: "t", task_id: "7", reward_info: null })]));
  const recorded = await readRecorded([path, path]);
  expect(recorded).toMatchObject([
    { kind: "simulation", domain: "shop", task_id: "3", reward: 1, given: 1, policy: "P", solo_task: null },
    { kind: "simulation", domain: "shop", task_id: "7", reward: 0, given: 2 },
  ]);
});

test("a results directory: simulations beside their results.json", async () => {
  mkdirSync(join(root, "split/simulations"), { recursive: true });
  file("split/results.json", results([]));
  file("split/simulations/a.json", simulation({ id: "a" }));
  file("split/simulations/b.json", simulation({ id: "b" }));
  expect((await readRecorded([join(root, "split")])).map(({ domain, identity }) => [domain, identity])).toEqual([
    ["shop", "a 3"],
    ["shop", "b 3"],
  ]);
});

describe("a bad file is named, with its line or field", () => {
  test.each([
    ["no-json.json", '{\n"simulations": [\n1,,]}', "no-json.json:3: it is not JSON"],
    ["other.json", { a: 1 }, "other.json: it holds neither"],
    ["no-info.json", { simulations: [] }, "no-info.json: info: expected an object, found nothing"],
    ["domain.json", results([], 3), "domain.json: info.environment_info: domain_name: expected a text, found 3"],
    ["task.json", results([simulation({ task_id: null })]), "task.json: simulations.0: task_id: expected a text"],
    [
      "reward.json",
      results([simulation(), simulation({ reward_info: { reward: "1" } })]),
      "simulations.1.reward_info: reward: expected a number",
    ],
    [
      "role.json",
      results([simulation({ messages: [{ role: "nobody", content: "" }] })]),
      "role.json: simulations.0: messages.0",
    ],
    ["lines.jsonl", `${JSON.stringify(trajectory)}\n{`, "lines.jsonl:2: it is not JSON"],
    [
      "mask.jsonl",
      `${JSON.stringify(trajectory)}\n${JSON.stringify({ ...trajectory, sampled: [[1, 3]] })}\n`,
      "mask.jsonl:2: sampled: expected pairs",
    ],
    ["first.jsonl", JSON.stringify({ ...trajectory, sampled: [[0, 1]] }), "first.jsonl:1: sampled"],
    ["tokens.json", [trajectory, { ...trajectory, tokens: [1, -2] }], "tokens.json: [1]: tokens: expected token ids"],
    ["cut.jsonl.zst", "(", "cut.jsonl.zst: it is no whole zstd file"],
  ])("%s", async (name, content, message) => {
    const error = await readRecorded([file(name, content)]).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UserError);
    expect((error as UserError).message).toContain(message);
  });
  test("a directory without any, and nothing at all", async () => {
    mkdirSync(join(root, "empty"));
    await expect(readRecorded([join(root, "empty")])).rejects.toThrow("holds neither tau2-bench results");
    await expect(readRecorded([join(root, "none")])).rejects.toThrow("does not exist");
  });
});

const recordings = foldersWith("tau2", "airline_sample.json");
test.skipIf(recordings.length === 0)("the reference results (in ../shared) are read", async () => {
  for (const folder of recordings) {
    const recorded = await readRecorded([join(SHARED, "tau2", folder)]);
    expect(recorded.length).toBeGreaterThan(0);
    for (const one of recorded) expect(one).toMatchObject({ kind: "simulation", given: 1 });
  }
});
