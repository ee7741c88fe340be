/** `grpo-cl tau2 replay` on files of both layouts: table, JSON, exit code. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { AgentEnv } from "../../src/api/index.ts";
import { dumps, type ExactObject } from "../../src/base/exact.ts";
import { loadDomain } from "../../src/tau2/domains/index.ts";
import { type SimulationRun, toTau2Results } from "../../src/tau2/results.ts";
import { emptyDirectory, removeDirectories, runCli } from "./run-cli.ts";

afterAll(removeDirectories);

const cwd = emptyDirectory();

const domain = loadDomain("rail", { tau2_data_dir: null, train_split: 0.8 });

/** The golden run of a task of `rail`, whose users leave at the agent's first words. */
async function goldenRun(index: number): Promise<SimulationRun> {
  const task = domain.tasks[index];
  if (task === undefined) throw new Error("no such task");
  await using env = new AgentEnv({ domain, task_id: task.id });
  await env.reset();
  for (const { name, arguments: args } of task.evaluation_criteria?.actions ?? [])
    await env.step(dumps({ name, arguments: args }));
  const { simulation_run: simulation, reward_info } = (await env.step("Done.")).info;
  if (simulation === null) throw new Error("the run did not end");
  const times = {
    start_time: "2026-01-01T00:00:00",
    end_time: "2026-01-01T00:00:01",
    duration: 1,
    agent_cost: null,
    user_cost: null,
  };
  return { id: `run-${index}`, task, trial: 0, seed: 1, simulation, reward_info, ...times };
}

const participant = { implementation: "llm_agent", llm: null, llm_args: null };
const results = toTau2Results({
  domain,
  runs: [await goldenRun(0), await goldenRun(1)],
  timestamp: "2026-01-01T00:00:00",
  git_commit: "0",
  num_trials: 1,
  max_steps: 200,
  max_errors: 10,
  seed: 1,
  agent: participant,
  user: participant,
});
const [first, second] = results.simulations as [ExactObject, ExactObject];
const reward = first.reward_info as ExactObject;

function write(path: string, value: ExactObject): string {
  mkdirSync(join(cwd, path, ".."), { recursive: true });
  writeFileSync(join(cwd, path), dumps(value));
  return path;
}

const replay = (...args: string[]) => runCli(["tau2", "replay", ...args], { cwd });

test("one file: all the same, exit code 0", async () => {
  const { out, err, exitCode } = await replay(write("same.json", results));
  expect(err).toBe("");
  expect(out).toMatch(/^rail +train_verb_0 +0 +1\.00 +1\.00$/m);
  expect(out).toContain("rail: 2 simulations, 2 the same, 0 with another reward");
  expect(exitCode).toBe(0);
});

test("a directory with a file a simulation, and what else lies there", async () => {
  const { simulations: _, ...about } = results;
  write("split/results.json", about);
  write("split/simulations/run-0.json", first);
  write("split/simulations/run-1.json", second);
  write("split/notes.json", { hello: 1 });
  const { out, exitCode } = await replay("split");
  expect(out).toContain("split/results.json: 2 simulations of rail (a file each)");
  expect(out).toContain("split/notes.json: passed over, no results of tau2-bench");
  expect(exitCode).toBe(0);
  expect((await replay("split/simulations/run-1.json")).out).toContain("rail: 1 simulations, 1 the same");
});

test("what differs, and what cannot be replayed, is named and ends with exit code 1", async () => {
  const changed = { ...first, reward_info: { ...reward, reward: 0, db_check: { db_match: false } } };
  const nobody = { ...second, task_id: "nobody" };
  const path = write("other.json", { ...results, simulations: [changed, nobody, second] });
  const elsewhere = write("bank.json", { ...results, info: { environment_info: { domain_name: "bank" } } });
  const { out, exitCode } = await replay(path, elsewhere);
  expect(out).toMatch(/^rail +train_verb_0 +0 +0\.00 +1\.00 +db_check\.db_match and 1 more$/m);
  expect(out).toMatch(/^rail +nobody +0 +1\.00 +none +not replayed +unknown task of rail$/m);
  expect(out).toMatch(/^bank .*not replayed +unknown domain; known are/m);
  expect(exitCode).toBe(1);
  const json = JSON.parse((await replay(path, "--json")).out);
  expect(json.totals).toMatchObject({
    simulations: 3,
    same: 1,
    rewards_differ: 1,
    not_replayed: 1,
    tool_results_differ: 0,
  });
  expect(json.runs[0]).toMatchObject({
    verdict: "differs",
    differs: ["db_check.db_match", "reward"],
    recorded: 0,
    ours: 1,
  });
});

test("the recording's own tasks, on request", async () => {
  const [task, ...others] = results.tasks as ExactObject[];
  const criteria = { ...(task?.evaluation_criteria as ExactObject), actions: [] };
  const path = write("tasks.json", { ...results, tasks: [{ ...task, evaluation_criteria: criteria }, ...others] });
  expect((await replay(path)).out).toMatch(/train_verb_0 .*the task has changed since$/m);
  const { out, exitCode } = await replay(path, "--tasks", "recorded");
  expect(out).toMatch(/train_verb_0 +0 +1\.00 +0\.00 +db_check\.db_match/);
  expect(exitCode).toBe(1);
});

describe("bad input", () => {
  test.each([
    [[], "needs a results file"],
    [["gone.json"], "gone.json: no such file or directory"],
    [["same.json", "--tasks", "all"], "--tasks: expected today or recorded"],
    [["same.json", "--kl_coef", "1"], "--kl_coef: is an option of train and eval"],
    [[write("no.json", { a: 1 })], "no.json: holds no recorded simulations"],
  ])("%j", async (args, sentence) => {
    const { err, exitCode } = await replay(...args);
    expect(err).toContain(sentence);
    expect(exitCode).toBe(2);
  });
});
