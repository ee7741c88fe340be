/** Runs against paid models: answers kept on disk, what is counted, where a limit stops, and where the key is not. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { RunConfigInput } from "../../src/config/schema.ts";
import type { ScoresRow, TrainRow } from "../../src/metrics/rows.ts";
import { BudgetError } from "../../src/rollout/budget.ts";
import type { Domain, Task } from "../../src/tau2/types.ts";
import { type LampRunOptions, lampConfig, lampDomains, lampRun } from "../support/lamp-run.ts";
import { type Answer, openaiServer, type Script } from "../support/openai-server.ts";

const KEY = "sk-very-secret-0123456789";
const root = mkdtempSync(join(tmpdir(), "grpo-cl-cost-"));
afterAll(() => rmSync(root, { recursive: true }));

let directories = 0;
const directory = (name: string) => join(root, `${name}-${directories++}`);

/** The lamp domain's user as a model: asks for its lamp, then stops. `aside` makes answers differ from call to call. */
const lampScript =
  (aside: (call: number) => string = () => ""): Script =>
  ([system, , asked], call) => {
    const lamp = /lamp (\w)/.exec(system?.content ?? "")?.[1];
    return asked === undefined ? `Lamp ${lamp}, please.${aside(call)}` : `###STOP###${aside(call)}`;
  };

/** Is it the judge that is asked? */
const isJudge = (messages: Parameters<Script>[0]) => messages[1]?.content?.startsWith("conversation:") === true;

const PRICES = { price_per_million_input_tokens: 1000, price_per_million_output_tokens: 2000 };
const paidUser = (base_url: string, fields: RunConfigInput["user"] = {}) =>
  ({ kind: "openai", model: "sim", base_url, api_key_env: "SIM_KEY", max_retries: 1, ...PRICES, ...fields }) as const;

const SMALL = { num_steps_per_task: 3, eval_interval: 2, eval_max_tasks: 2, kl_coef: 0 } as const;
const run = (log_dir: string, fields: Partial<RunConfigInput>, options: LampRunOptions = {}) =>
  lampRun(lampConfig(log_dir, { ...SMALL, ...fields }), { env: { SIM_KEY: KEY }, ...options });

const metricsOf = (log_dir: string) => readFileSync(join(log_dir, "metrics.jsonl"), "utf8");
const timingsOf = (log_dir: string) =>
  readFileSync(join(log_dir, "timings.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, number>);
const sum = (rows: readonly Record<string, number>[], name: string) =>
  rows.reduce((total, row) => total + (row[name] ?? 0), 0);

describe("answers kept on disk", () => {
  test.each([0, 0.9])("at temperature %p a run repeats bit for bit without a request", async (temperature) => {
    const cache_dir = directory("cache");
    const [first, again] = [directory("first"), directory("again")];
    using server = openaiServer(lampScript((call) => ` (${call})`));
    const user = paidUser(server.url, { cache_dir, temperature });
    const paid = await run(first, { user });
    const asked = server.requests.length;
    expect(asked).toBeGreaterThan(0);
    const free = await run(again, { user });
    expect(server.requests.length).toBe(asked);
    expect(metricsOf(again)).toBe(metricsOf(first));
    expect(metricsOf(first)).not.toContain('"rollout/user_cost_usd":0,');
    expect(sum(timingsOf(first), "user_calls")).toBe(asked);
    expect(sum(timingsOf(again), "user_calls")).toBe(0);
    expect(sum(timingsOf(again), "user_cached_calls")).toBe(asked + sum(timingsOf(first), "user_cached_calls"));
    expect(paid.lines.join("\n")).toMatch(new RegExp(`Calls \\(user, openai:sim\\): ${asked}, `));
    expect(free.lines.join("\n")).toMatch(
      /Calls \(user, openai:sim\): 0, \d+ more from the cache; 0 \+ 0 tokens, \$0\.0000/,
    );
  });
});

describe("before the run", () => {
  test("calls and price are told, with what they assume", async () => {
    using server = openaiServer(lampScript());
    const { lines } = await run(directory("told"), { user: paidUser(server.url) });
    // 3 domains: 3 steps × 4 tasks × 3 samples; evaluations of 2 tasks × 2 trials: 4 of all domains, 1 between each;
    // with the latter 2 tasks of each earlier domain, once.
    const conversations = 3 * 3 * 4 * 3 + 2 * 2 * (4 * 3 + 3) + 2 * (1 + 2);
    expect(lines.find((line) => line.startsWith("Expected"))).toBe(
      `Expected calls of sim (user): about ${(conversations * 10).toLocaleString("en-US")} for ${conversations} conversations, if each takes 10; ` +
        `about $${(conversations * 10 * (2.5 + 0.12)).toFixed(2)} with 2,500 + 60 tokens a call`,
    );
    const held = lines.join("\n").match(/Calls \(user/g);
    expect(held).toHaveLength(1);
  });
});

describe("a limit", () => {
  test.each([false, true])(
    "stops a run where it can go on as if nothing had been (overlap: %p)",
    async (overlap) => {
      using server = openaiServer(lampScript());
      const whole = directory("whole");
      const limitedRun = (log_dir: string, fields: Partial<RunConfigInput>) =>
        run(log_dir, { ...fields, overlap_rollouts: overlap });
      await limitedRun(whole, { user: paidUser(server.url) });
      const cost = sum(timingsOf(whole), "user_cost_usd");
      const places = new Set<string>();
      for (const share of [0.05, 0.15, 0.3, 0.45, 0.6, 0.8, 0.95]) {
        const log_dir = directory("stopped");
        const limited = paidUser(server.url, { max_cost_usd: cost * share, max_concurrent_requests: 1 });
        const error = await limitedRun(log_dir, { user: limited }).catch((thrown: unknown) => thrown);
        expect(error).toBeInstanceOf(BudgetError);
        const spent = sum(timingsOf(log_dir), "user_cost_usd");
        expect(spent).toBeGreaterThanOrEqual(cost * share);
        expect(spent).toBeLessThan(cost * share + cost / 50);
        const { message } = error as Error;
        expect(message).toContain("Stopped: user and judge have cost $");
        expect(readFileSync(join(log_dir, "run.log"), "utf8")).toContain(message);
        if (message.includes("There is no checkpoint yet")) continue;
        expect(message).toContain(`--resume_from ${log_dir} and a higher --user.max_cost_usd`);
        const again = limitedRun(log_dir, { user: limited, resume_from: log_dir });
        expect(await again.catch((thrown: unknown) => thrown)).toBeInstanceOf(BudgetError);
        const { lines } = await limitedRun(log_dir, {
          user: paidUser(server.url, { max_cost_usd: cost * 3 }),
          resume_from: log_dir,
        });
        expect(metricsOf(log_dir)).toBe(metricsOf(whole));
        const total = sum(timingsOf(log_dir), "user_cost_usd");
        expect(lines.join("\n")).toContain(`Cost of the whole run: $${total.toFixed(4)} of at most $`);
        places.add(/Going on at step \d+/.exec(lines.join("\n"))?.[0] ?? "a domain's start");
      }
      expect(places.size).toBeGreaterThan(1);
    },
    60_000,
  );

  test("goes with a run into another directory", async () => {
    using server = openaiServer(lampScript());
    const [first, second] = [directory("first"), directory("second")];
    await run(first, { user: paidUser(server.url), task_order: ["hall"] });
    const spent = sum(timingsOf(first), "user_cost_usd");
    const user = paidUser(server.url, { max_cost_usd: spent });
    const resumed = run(second, { user, task_order: ["hall", "attic"], resume_from: first });
    expect(await resumed.catch((thrown: unknown) => thrown)).toBeInstanceOf(BudgetError);
    expect(sum(timingsOf(second), "user_cost_usd")).toBeCloseTo(spent, 9);
  });
});

/** Lamps whose reward also counts what the judge says. */
const judgedDomains = (): Domain[] =>
  lampDomains().map((domain) => ({ ...domain, tasks: domain.tasks.map(withAssertions) }));

function withAssertions(task: Task): Task {
  if (task.evaluation_criteria === null) throw new Error("no criteria");
  const criteria = { nl_assertions: ["The agent says little."], reward_basis: ["DB", "NL_ASSERTION"] } as const;
  return { ...task, evaluation_criteria: { ...task.evaluation_criteria, ...criteria } };
}

const judging =
  (verdict: (transcript: string) => Answer): Script =>
  (messages, call) =>
    isJudge(messages) ? verdict(messages[1]?.content ?? "") : lampScript()(messages, call);

const says = (metExpectation: boolean): Answer =>
  JSON.stringify({ results: [{ expectedOutcome: "The agent says little.", reasoning: "so", metExpectation }] });

describe("a judge", () => {
  const judged = (log_dir: string, base_url: string, fields: Partial<RunConfigInput> = {}) =>
    run(
      log_dir,
      {
        nl_assertions: "judge",
        judge: { model: "wise", base_url, api_key_env: "SIM_KEY", max_retries: 0, ...PRICES },
        task_order: ["hall"],
        ...fields,
      },
      { domains: judgedDomains().slice(0, 1) },
    );
  const base = (rows: readonly { kind: string }[]) =>
    (rows.find((row) => row.kind === "scores") as ScoresRow).scores.hall;

  test("decides rewards, and is paid beside the user", async () => {
    const rewards: (number | undefined)[] = [];
    for (const met of [true, false]) {
      using server = openaiServer(judging(() => says(met)));
      const log_dir = directory("judged");
      const { rows, lines } = await judged(log_dir, server.url, { user: paidUser(server.url) });
      rewards.push(base(rows)?.reward_mean);
      expect(lines.join("\n")).toContain("\nJudge: openai:wise\n");
      expect(JSON.parse(readFileSync(join(log_dir, "run.json"), "utf8")).judge).toBe("openai:wise");
      expect(lines.join("\n")).toMatch(/Expected calls of wise \(judge\): at most 48, .*; about \$\d/);
      expect(lines.join("\n")).toMatch(/Calls \(judge, openai:wise\): 48, 0 more/);
      expect(sum(timingsOf(log_dir), "judge_calls")).toBe(48);
      expect(sum(timingsOf(log_dir), "judge_cost_usd")).toBeGreaterThan(0);
    }
    expect(rewards[0]).toBeGreaterThan(0);
    expect(rewards[1]).toBe(0);
  });

  test("that does not answer is no reward: the conversation is lost, and counted apart", async () => {
    let asked = 0;
    using server = openaiServer(judging(() => (asked++ % 4 === 0 ? "It went well." : says(true))));
    const { rows } = await judged(directory("mute"), server.url);
    const lost = rows.flatMap((row) => (row.kind === "train" ? [(row as TrainRow)["rollout/failed"] ?? 0] : []));
    const failed = rows.flatMap((row) =>
      row.kind === "scores" ? Object.values((row as ScoresRow).scores).map(({ n_failed }) => n_failed) : [],
    );
    expect([...lost, ...failed].reduce((total, n) => total + n, 0)).toBeGreaterThan(5);
    expect(JSON.stringify(rows)).toContain('"infrastructure_error":');
  });
});

test("the key is in no file and in nothing said, even where the server repeats it", async () => {
  const cache_dir = directory("cache");
  const log_dir = directory("secret");
  using server = openaiServer(
    (messages, call) => (call % 5 === 0 ? `Is ${KEY} yours?` : lampScript()(messages, call)),
    {
      key: KEY,
    },
  );
  const { lines } = await run(log_dir, { user: paidUser(server.url, { cache_dir }) });
  expect(lines.join("\n")).not.toContain("secret-0");
  const files = [...filesIn(cache_dir), ...filesIn(log_dir)];
  expect(files.length).toBeGreaterThan(20);
  for (const file of files) {
    const bytes = readFileSync(file);
    const text = file.endsWith(".zst") ? Bun.zstdDecompressSync(bytes).toString() : bytes.toString();
    expect(text.includes("secret-0") ? file : "").toBe("");
  }
  expect(files.some((file) => readFileSync(file).includes("Is *** yours?"))).toBe(true);
});

const filesIn = (path: string): string[] =>
  readdirSync(path, { recursive: true, encoding: "utf8" })
    .map((name) => join(path, name))
    .filter((file) => statSync(file).isFile());
