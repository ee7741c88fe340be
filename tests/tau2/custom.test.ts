/** Domains from code: plain values for their tools, both sides, splits; and what does not fit together is named. */
import { describe, expect, test } from "bun:test";
import { customDomain, type DomainSource, type State, ToolError } from "../../src/tau2/domains/custom.ts";
import { knownDomains, loadDomain, registerDomain } from "../../src/tau2/domains/index.ts";
import { prepareEnvironment } from "../../src/tau2/environment.ts";
import { evaluate } from "../../src/tau2/evaluator.ts";
import { dict, float, int, model, optional, record, str } from "../../src/tau2/model.ts";
import { parameter } from "../../src/tau2/tool.ts";
import type { Domain, Requestor, ToolCall } from "../../src/tau2/types.ts";

const id = parameter(str, "Id.");
type Account = { balance: number; note: string | null };

const task = (name: string, evaluation_criteria: object | null = null, rest: object = {}) => ({
  id: name,
  user_scenario: { instructions: "x" },
  evaluation_criteria,
  ...rest,
});

const bank: DomainSource = {
  name: "bank",
  policy: "Pay.",
  db: { accounts: { a: { balance: 10.5 } }, open: true },
  user_db: { phone: { on: false } },
  tasks: [
    task("pay", { actions: [{ action_id: "1", name: "pay", arguments: { id: "a", amount: 2.5 } }] }),
    task("assert", {
      env_assertions: [{ env_type: "user", func_name: "is_on", arguments: {} }],
      reward_basis: ["ENV_ASSERTION"],
    }),
    task("started", null, {
      initial_state: { initialization_actions: [{ env_type: "assistant", func_name: "close", arguments: {} }] },
    }),
  ],
  database: model("Bank", {
    accounts: dict(record(model("Account", { balance: float, note: { type: optional(str), default: null } }))),
    open: { type: { kind: "bool" } },
  }),
  tools: [
    {
      name: "pay",
      kind: "write",
      description: "Pay.",
      parameters: { id, amount: parameter(float, "Amount."), times: parameter(int, "Times.", { default: 1 }) },
      run(state: State, { amount, times, ...args }: { id: string; amount: number; times: number }) {
        const accounts = state.table<Account>("accounts");
        const account = accounts.get(args.id);
        if (account === undefined) throw new ToolError(`no account ${args.id}`);
        accounts.set(args.id, { ...account, balance: account.balance - amount * times });
        return { left: account.balance - amount * times, open: state.value("open"), size: accounts.size };
      },
    },
  ],
  functions: [
    { name: "close", kind: "write", description: "", parameters: {}, run: (state) => state.setValue("open", false) },
  ],
  userTools: [
    {
      name: "switch_on",
      kind: "write",
      description: "On.",
      parameters: {},
      run: (state) => state.setValue("phone", { on: true }),
    },
  ],
  userFunctions: [
    {
      name: "is_on",
      kind: "read",
      description: "",
      parameters: {},
      run: (state) => (state.value("phone") as { on: boolean }).on,
    },
  ],
  sync: (agent, user) => {
    const phone = user?.value("phone") as { on: boolean } | undefined;
    if (phone?.on) agent.setValue("open", true);
  },
};

const options = { train_split: 0.7, solo_mode: false };
const where = (part: string) => `bank/${part}.json`;
const load = (changes: Partial<DomainSource> = {}): Domain => customDomain({ ...bank, ...changes }, options, where);
const call = (name: string, args: object = {}, requestor: Requestor = "assistant"): ToolCall => ({
  id: "",
  name,
  arguments: args as never,
  requestor,
});

test("tools see plain numbers of the declared types, and their results are JSON", () => {
  const environment = load().createEnvironment();
  const answer = (...made: Parameters<typeof call>) => environment.getResponse(call(...made)).content;
  expect(answer("pay", { id: "a", amount: 2 })).toBe('{"left": 8.5, "open": true, "size": 1}');
  expect(answer("pay", { id: "a", amount: "1.5", times: 1 })).toBe('{"left": 7, "open": true, "size": 1}');
  expect(answer("pay", { id: "b", amount: 1 })).toBe("Error: no account b");
  expect(answer("pay", { id: "a", amount: "much" })).toStartWith("Error: amount: Input should be a valid number");
  expect(answer("pay", { id: "a" })).toContain("missing 1 required positional argument: 'amount'");
  expect(answer("close")).toBe("Error: Tool 'close' not found.");
  expect(answer("switch_on", {}, "user")).toBe("null");
});

test("a rewritten entity hashes as an untouched one, so golden runs compare", () => {
  const domain = load();
  const [golden] = domain.tasks;
  if (golden === undefined) throw new Error("no task");
  const asked = call("pay", { id: "a", amount: 2.5 });
  const rewarded = (...calls: ToolCall[]) => {
    const environment = prepareEnvironment(domain, golden);
    const messages = calls.flatMap((made) => [
      { role: "assistant", content: null, tool_calls: [made] } as const,
      environment.getResponse(made),
    ]);
    return evaluate({ domain, task: golden, simulation: { messages, termination: "agent_stop" } }).reward;
  };
  expect(rewarded(asked)).toBe(1);
  expect(rewarded(asked, call("pay", { id: "a", amount: 0 }))).toBe(1);
  expect(rewarded(asked, asked)).toBe(0);
});

test("functions, sync and assertions of both sides", () => {
  const domain = load();
  const [, asserted, started] = domain.tasks;
  if (started === undefined || asserted === undefined) throw new Error("no task");
  const environment = prepareEnvironment(domain, started);
  expect(environment.getResponse(call("pay", { id: "a", amount: 0 })).content).toContain('"open": false');
  environment.getResponse(call("switch_on", {}, "user"));
  expect(environment.getResponse(call("pay", { id: "a", amount: 0 })).content).toContain('"open": true');
  const simulation = { messages: [], termination: "user_stop" } as const;
  expect(evaluate({ domain, task: asserted, simulation }).reward).toBe(0);
});

test("splits: by train_split, or as given; solo mode; our own guidelines", () => {
  expect(load().splits).toMatchObject({ train: ["pay", "assert"], test: ["started"] });
  const given = load({ split_tasks: { train: ["started", "pay"], dev: ["assert"] } });
  expect(given.splits).toMatchObject({ train: ["pay", "started"], test: [], dev: ["assert"] });
  const solo = customDomain(bank, { ...options, solo_mode: true }, where);
  expect(solo.tools.map(({ function: { name } }) => name)).toEqual(["pay", "switch_on", "done"]);
  const [first] = load().tasks;
  expect(load().userSystemPrompt(first as never)).toEndWith("<scenario>\nInstructions:\n\tx\n</scenario>");
  expect(load({ user_guidelines: "Be kind." }).userSystemPrompt(first as never)).toStartWith("Be kind.\n\n<scenario>");
});

test("a registered domain is loaded by its name", () => {
  const source = { ...bank, name: "registered_bank" };
  registerDomain(source);
  expect(knownDomains()).toContain("registered_bank");
  expect(loadDomain("registered_bank", { tau2_data_dir: null, train_split: 0.7 }).tasks).toHaveLength(3);
  expect(() => registerDomain(source)).toThrow('a domain "registered_bank" is registered already');
});

describe("what does not fit together names its file and field", () => {
  test.each([
    [{ name: "airline" }, 'registerDomain(airline): tools: name: a domain "airline" comes with the program'],
    [{ name: "../x" }, "has other signs than letters, digits, _ and -"],
    [
      { db: { accounts: { a: { balance: "much" } }, open: true } },
      "db: accounts.a.balance: Input should be a valid number",
    ],
    [{ tasks: [{ id: "t" }] }, "tasks: task t: user_scenario: Field required"],
    [
      { tasks: [task("t", { actions: [{ action_id: "1", name: "fly", arguments: {} }] })] },
      'tasks: task t: evaluation_criteria.actions.0.name: there is no tool "fly"',
    ],
    [{ split_tasks: { train: ["nobody"] } }, "split_tasks: train: task nobody is not in tasks"],
  ])("%j", (changes, sentence) => {
    const source = { ...bank, name: "flawed", ...changes } as DomainSource;
    expect(() => registerDomain(source)).toThrow(sentence);
    expect(knownDomains()).not.toContain("flawed");
  });
});
