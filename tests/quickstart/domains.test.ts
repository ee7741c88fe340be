import { describe, expect, test } from "bun:test";
import { Rng } from "../../src/base/rng.ts";
import type { Preparation } from "../../src/tau2/domains/quickstart/convention.ts";
import {
  demonstration,
  demonstrator,
  type Habits,
  rightHabits,
} from "../../src/tau2/domains/quickstart/demonstration.ts";
import { type QuickstartDomain, quickstartDomain, quickstartDomains } from "../../src/tau2/domains/quickstart/index.ts";
import type { PosedTask } from "../../src/tau2/domains/quickstart/tasks.ts";
import { prepareEnvironment } from "../../src/tau2/environment.ts";
import { evaluate } from "../../src/tau2/evaluator.ts";
import { runConversation } from "../../src/tau2/orchestrator.ts";
import type { Agent, Message, Reply, Simulation } from "../../src/tau2/types.ts";

const DOMAINS = Object.values(quickstartDomains).map((make) => make() as QuickstartDomain);
const LIMITS = { max_steps: 24, max_errors: 10 };

const text = (content: string): Reply => ({ content, tool_calls: null });
const call = (name: string, args: Record<string, string>): Reply => ({
  content: null,
  tool_calls: [{ id: "call", name, arguments: args, requestor: "assistant" }],
});
const always = (reply: Reply): Agent => ({ reply: async () => reply });

async function play(domain: QuickstartDomain, { task }: PosedTask, agent: Agent) {
  const user = domain.scriptedUser?.(task);
  if (user === undefined) throw new Error(`${domain.name} has no scripted user`);
  const environment = prepareEnvironment(domain, task);
  const simulation = await runConversation({ environment, agent, user, limits: LIMITS });
  return { simulation, reward: evaluate({ domain, task, simulation }).reward };
}

const split = (domain: QuickstartDomain, name: "train" | "test"): PosedTask[] => {
  const ids = new Set(domain.splits[name]);
  return domain.posed.filter(({ task }) => ids.has(task.id));
};

async function meanReward(domain: QuickstartDomain, agentFor: (posed: PosedTask) => Agent): Promise<number> {
  const plays = await Promise.all(
    split(domain, "test").map(async (posed) => (await play(domain, posed, agentFor(posed))).reward),
  );
  return plays.reduce((sum, reward) => sum + reward, 0) / plays.length;
}

const withHabits = (habits: Habits) => (posed: PosedTask) =>
  demonstrator(demonstration(posed.problem, habits, Rng.from(1).fork(posed.task.id)));

describe.each(DOMAINS.map((domain) => [domain.name, domain] as const))("%s", (_, domain) => {
  test("has 64 training and 64 evaluation tasks, with ids of their own", () => {
    for (const name of ["train", "test"] as const) {
      const posed = split(domain, name);
      expect(posed.length).toBe(64);
      for (const { problem } of posed) {
        for (const id of [problem.order, problem.account]) {
          expect((Number(id.slice(1, 3)) + Number(id.slice(3))) % 4 === 0).toBe(name === "test");
        }
      }
    }
    expect(new Set(domain.posed.map(({ problem }) => problem.order)).size).toBe(128);
  });

  test("every task needs a write or a transfer", () => {
    for (const { task } of domain.posed) {
      const writes = task.evaluation_criteria?.actions?.filter(
        ({ requestor, name }) => requestor === "assistant" && domain.toolKind(name) === "write",
      );
      expect(writes?.length).toBeGreaterThanOrEqual(1);
      expect(task.evaluation_criteria?.reward_basis).toEqual(["DB"]);
    }
  });

  test("an agent with the right habits solves every task in 3 to 6 turns", async () => {
    for (const posed of domain.posed) {
      const { simulation, reward } = await play(domain, posed, withHabits(rightHabits(domain.convention))(posed));
      expect({ task: posed.task.id, reward }).toEqual({ task: posed.task.id, reward: 1 });
      expect(agentTurns(simulation)).toBeWithin(3, 7);
    }
  });

  test("habits of another domain solve nothing but lost orders", async () => {
    const others = (["confirm", "hold", "unlock", "none"] as Preparation[]).filter(
      (other) => other !== domain.convention.preparation,
    );
    for (const preparation of others) {
      expect(await meanReward(domain, withHabits({ preparation, swapsUnwanted: false }))).toBe(4 / 64);
    }
    const swapped = { ...rightHabits(domain.convention), swapsUnwanted: true };
    expect(await meanReward(domain, withHabits(swapped))).toBe(48 / 64);
  });

  test.each([
    ["empty", always(text("..."))],
    ["refusing", always(text("I cannot help with that."))],
    ["transferring", always(call("transfer", {}))],
    ["parroting both requests", always(text("Please confirm and unlock."))],
  ])("an agent that is always %s scores at most 10 %%", async (_, agent) => {
    expect(await meanReward(domain, () => agent)).toBeLessThanOrEqual(0.1);
  });

  test("the same seed makes the same domain, another seed other tasks", () => {
    const name = domain.convention.name;
    expect(quickstartDomain(name).tasks).toEqual(domain.tasks);
    expect(quickstartDomain(name, 2).tasks).not.toEqual(domain.tasks);
  });

  test("conversations leave the domain as it was", async () => {
    const before = domain.createEnvironment();
    const posed = domain.posed[0] as PosedTask;
    await play(domain, posed, withHabits(rightHabits(domain.convention))(posed));
    const after = domain.createEnvironment();
    expect([after.agentDbHash(), after.userDbHash()]).toEqual([before.agentDbHash(), before.userDbHash()]);
  });
});

test("domains differ in their policy text and their users, not in the agent's tools", () => {
  const [shop, ...others] = DOMAINS;
  for (const other of others) {
    expect(other.tools).toEqual(shop?.tools ?? []);
    expect(other.policy).not.toBe(shop?.policy ?? "");
  }
  expect(shop?.tools.length).toBeGreaterThanOrEqual(4);
});

test("the user of phone unlocks the order with a tool of its own", async () => {
  const phone = quickstartDomain("phone");
  const posed = phone.posed[0] as PosedTask;
  const { simulation } = await play(phone, posed, withHabits(rightHabits(phone.convention))(posed));
  const calls = simulation.messages.flatMap((message) => ("tool_calls" in message ? (message.tool_calls ?? []) : []));
  expect(calls.map(({ requestor, name }) => `${requestor} ${name}`)).toEqual([
    "user unlock",
    `assistant ${posed.problem.write}`,
  ]);
});

test("an unprepared write ends the conversation and cannot be made good", async () => {
  const shop = quickstartDomain("shop");
  const posed = shop.posed[0] as PosedTask;
  const write = call(posed.problem.write, { id: posed.problem.order });
  const turns = [write, text(`Please confirm ${posed.problem.order}.`), write];
  const { simulation, reward } = await play(shop, posed, demonstrator(turns));
  expect(reward).toBe(0);
  expect(agentTurns(simulation)).toBe(1);
});

/** Without the greeting that opens every conversation. */
const agentTurns = ({ messages }: Simulation): number =>
  messages.filter(({ role }: Message) => role === "assistant").length - 1;
