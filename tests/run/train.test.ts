import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readJsonl } from "../../src/base/jsonl.ts";
import { CLAlgorithm, type MethodOp } from "../../src/cl/method.ts";
import { parseTrajectory } from "../../src/cl/trajectory.ts";
import type { RunConfigInput } from "../../src/config/schema.ts";
import type { TaskRef } from "../../src/curriculum/curriculum.ts";
import type { ScoresRow, TrainRow } from "../../src/metrics/rows.ts";
import { type LampRunOptions, lampConfig, lampDomains, lampRun, luckyScript } from "../support/lamp-run.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-train-"));
afterAll(() => rmSync(root, { recursive: true }));

let runs = 0;
const freshDirectory = () => join(root, `run-${runs++}`);
const run = (fields: Partial<RunConfigInput> = {}, options: LampRunOptions = {}) =>
  lampRun(lampConfig(freshDirectory(), fields), options);
const metricsOf = (log_dir: string) => readFileSync(join(log_dir, "metrics.jsonl"), "utf8");
const trainRows = (rows: readonly { kind: string }[]) => rows.filter((row) => row.kind === "train") as TrainRow[];

describe("a whole run", () => {
  const finished = run({ save_interval: 2 });

  test("speaks in the seed's form", async () => {
    const { lines } = await finished;
    const text = lines.join("\n");
    const rule = "=".repeat(80);
    expect(text).toContain(
      `\n${rule}\nTask 0: HALL\n${rule}\n\nTraining on 8 tasks from hall domain\nTask 0, Step 0: `,
    );
    for (const line of lines.filter((candidate) => candidate.includes(", Step ")))
      expect(line).toMatch(/^Task \d+, Step \d+: loss=-?\d+\.\d{4}, reward_mean=\d\.\d{4}, reward_max=\d\.\d{4}$/);
    expect(text).toMatch(/\n {2}\d of 4 groups tied: no gradient from these\n/);
    expect(text).toContain("User simulator: scripted (hall, attic, cellar)");
    expect(text).toMatch(/\n {2}before training +\d\.\d{4} \[/);
    expect(text).toMatch(/BWT: [+-]\d\.\d{4} \[[+-]\d\.\d{4}, [+-]\d\.\d{4}\]/);
  });

  test("leaves the files that it promises, and no others", async () => {
    const { log_dir } = await finished;
    expect(readdirSync(log_dir).toSorted()).toEqual([
      "checkpoint_latest",
      "checkpoint_task_0",
      "checkpoint_task_1",
      "checkpoint_task_2",
      "config.json",
      "learning_curves.png",
      "learning_curves.svg",
      "metrics.json",
      "metrics.jsonl",
      "rollouts",
      "run.json",
      "run.log",
      "timings.jsonl",
    ]);
    expect(readdirSync(join(log_dir, "checkpoint_task_0")).toSorted()).toEqual([
      "config.json",
      "manifest.json",
      "model",
      "state",
      "trajectories.json",
    ]);
    expect(JSON.parse(readFileSync(join(log_dir, "config.json"), "utf8"))).toMatchObject({
      seed: 42,
      user: { kind: "scripted" },
    });
  });

  test("tells where the time of every step went, and in its closing words", async () => {
    const { log_dir, lines } = await finished;
    const timings = readJsonl(join(log_dir, "timings.jsonl")) as {
      phase: string;
      within?: string;
      step: number | null;
      ms: number;
    }[];
    for (const phase of ["rollout", "update"]) {
      const rows = timings.filter((row) => row.phase === phase);
      expect(rows.map(({ step }) => step)).toEqual([0, 1, 2, 0, 1, 2, 0, 1, 2]);
    }
    for (const phase of ["environment", "user"]) {
      expect(timings.filter((row) => row.phase === phase && row.within === "rollout")).toHaveLength(9);
    }
    expect(timings.some(({ phase }) => phase === "checkpoint")).toBe(true);
    expect(lines.at(-1)).toMatch(
      /\n {2}training steps \d+\.\d s: rollout \d+ % \(.*environment \d+ %.*\), update \d+ %\n/,
    );
  });

  test("has a row of all domains before training and after each one", async () => {
    const { rows } = await finished;
    const scores = rows.filter((row) => row.kind === "scores") as ScoresRow[];
    expect(scores.map(({ task_idx, domain }) => [task_idx, domain])).toEqual([
      [-1, null],
      [0, "hall"],
      [1, "attic"],
      [2, "cellar"],
    ]);
    for (const row of scores) expect(Object.keys(row.scores)).toEqual(["hall", "attic", "cellar"]);
  });

  test("replays earlier domains only, as many tasks as the ratio says", async () => {
    const { rows, log_dir } = await finished;
    const replayed = trainRows(rows).map((row) => row["rollout/replay_groups"]);
    // 4 tasks a step, ratio 0.3: ⌊1.2⌋ ⌊2.4⌋ ⌊3.6⌋.
    expect(replayed).toEqual([0, 0, 0, 1, 1, 1, 1, 1, 1]);
    const file = await Bun.file(join(log_dir, "rollouts", "step_000008.jsonl.zst")).bytes();
    const lines = new TextDecoder()
      .decode(await Bun.zstdDecompress(file))
      .trimEnd()
      .split("\n");
    const rollouts = lines.map(parseTrajectory);
    expect(rollouts.length).toBe(12);
    expect(new Set(rollouts.map(({ domain, replayed }) => `${domain} ${replayed}`)).size).toBe(2);
    for (const { domain, replayed } of rollouts) expect(domain === "cellar").toBe(!replayed);
  });

  test("anchors the KL to the base model, restarts the optimizer with each domain, warms up", async () => {
    const { policy } = await finished;
    expect(policy.weightOps).toEqual([
      { op: "snapshot", name: "base" },
      { op: "reset_optimizer" },
      { op: "reset_optimizer" },
    ]);
    expect(policy.batches[0]?.loss).toMatchObject({ anchor: "base", kl_coef: 0.1, temperature: 0.7 });
    const rates = policy.optimizerSteps.map(({ learning_rate }) => Math.round(learning_rate * 1e9));
    expect(rates).toEqual([100, 200, 300, 100, 200, 300, 100, 200, 300]);
    expect(policy.liveSequences).toBe(0);
  });

  test("the same seed gives the same metrics.jsonl, another one does not", async () => {
    const [one, same, other] = [
      await finished,
      await run({ save_interval: 2 }),
      await run({ save_interval: 2, seed: 43 }),
    ];
    expect(metricsOf(same.log_dir)).toBe(metricsOf(one.log_dir));
    expect(metricsOf(other.log_dir)).not.toBe(metricsOf(one.log_dir));
  });

  test("a directory of another run is refused", async () => {
    const { log_dir } = await finished;
    await expect(lampRun(lampConfig(log_dir))).rejects.toThrow(`--log_dir: ${log_dir} holds another run (config.json)`);
  });
});

test("evaluation uses the same streams in every row: weights that do not matter give equal rows", async () => {
  const { rows } = await run(
    {},
    { script: (tokens, context) => luckyScript(tokens, { ...context, weightsVersion: 0 }) },
  );
  const scores = rows.filter((row) => row.kind === "scores").map((row) => (row as ScoresRow).rewards);
  expect(new Set(scores.map((rewards) => JSON.stringify(rewards))).size).toBe(1);
});

test("replay with ratio 0 is sequential, byte for byte", async () => {
  const [zero, sequential] = [await run({ replay_ratio: 0 }), await run({ cl_algorithm: "sequential" })];
  expect(metricsOf(zero.log_dir)).toBe(metricsOf(sequential.log_dir));
});

test("no two training rollouts share a random stream, also when a domain comes back", async () => {
  const { policy, rows } = await run({ task_order: ["hall", "attic", "hall"], kl_coef: 0 });
  const seeds = policy.samples.filter(({ temperature }) => temperature === 0.7).map(({ seed }) => seed);
  expect(new Set(seeds).size).toBe(seeds.length);
  const columns = rows.filter((row) => row.kind === "scores").map((row) => Object.keys((row as ScoresRow).scores));
  expect(columns).toEqual(Array(4).fill(["hall", "attic"]));
});

test("without KL there is no base model, and the optimizer may live on", async () => {
  const { policy } = await run({ kl_coef: 0, reset_optimizer: false });
  expect(policy.weightOps).toEqual([]);
  expect(policy.batches[0]?.loss).toMatchObject({ anchor: null });
  const rates = policy.optimizerSteps.map(({ learning_rate }) => Math.round(learning_rate * 1e9));
  expect(rates).toEqual([100, 200, 300, 400, 500, 600, 700, 800, 900]);
});

test("a domain without a script is played by the frozen base model, with a warning", async () => {
  const domains = lampDomains().map((domain) => ({ ...domain, scriptedUser: undefined }));
  const script: typeof luckyScript = (tokens, context) => {
    if (context.request.model === "policy") return luckyScript(tokens, context);
    return context.text.includes("Done.") ? "###STOP###" : "Lamp A, please.";
  };
  const { policy, lines } = await run({ kl_coef: 0, num_steps_per_task: 1 }, { domains, script });
  expect(policy.weightOps[0]).toEqual({ op: "snapshot", name: "base" });
  expect(lines.join("\n")).toContain("Warning: the frozen step-0 policy plays the user in hall, attic, cellar");
  expect(lines.join("\n")).toContain("User simulator: local:base (hall, attic, cellar)");
  expect(policy.samples.some(({ model }) => model === "base")).toBe(true);
});

test("a domain where nothing varies is told", async () => {
  const { lines, rows } = await run(
    { num_steps_per_task: 6, kl_coef: 0, task_order: ["hall"] },
    { script: () => "Done." },
  );
  const warnings = lines.filter((line) => line.startsWith("Warning: only 0.0 % of hall's groups vary"));
  expect(warnings).toHaveLength(1);
  expect(warnings[0]).toContain("grpo-cl sft");
  expect(lines).toContain("  4 of 4 groups tied: no gradient from these");
  expect(trainRows(rows).map((row) => [row["train/skipped"], row["train/grad_norm"]])).toEqual(Array(6).fill([1, 0]));
});

describe("a gradient that is not finite", () => {
  const fake = { optimizerReport: { grad_norm: Number.NaN, skipped: true } };

  test("three in a row stop the run; each is dumped and written as null", async () => {
    const log_dir = freshDirectory();
    const stopped = lampRun(lampConfig(log_dir), { fake });
    await expect(stopped).rejects.toThrow("training: 3 steps in a row had a gradient that is not finite");
    await stopped.catch(() => {});
    const rows = metricsOf(log_dir)
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(trainRows(rows).map((row) => [row["train/skipped"], row["train/grad_norm"]])).toEqual(
      Array(3).fill([1, null]),
    );
    const dump = await Bun.file(join(log_dir, "nonfinite_task_0_step_2.json.zst")).bytes();
    const batches = JSON.parse(new TextDecoder().decode(await Bun.zstdDecompress(dump)));
    expect(batches[0].tokens_N.length).toBe(batches[0].offsets.at(-1));
  });
});

describe("a prompt that cannot fit", () => {
  test.each([
    {
      fields: { max_context_tokens: 500 },
      fake: {},
      message:
        /max_new_tokens: hall's prompt has \d+ tokens, and 200 of a turn make \d+, but a conversation has at most 500/,
    },
    { fields: {}, fake: { context_tokens_max: 300 }, message: /but a conversation has at most 300/ },
    {
      fields: { max_context_tokens: 500 },
      fake: { context_tokens_max: 300 },
      message: /max_context_tokens: 500 is more than the model's context of 300 tokens/,
    },
  ])("is refused before anything is written ($message)", async ({ fields, fake, message }) => {
    const log_dir = freshDirectory();
    await expect(lampRun(lampConfig(log_dir, { ...fields, max_new_tokens: 200 }), { fake })).rejects.toThrow(message);
    expect(existsSync(log_dir)).toBe(false);
  });
});

describe("a method of one's own", () => {
  class Custom extends CLAlgorithm {
    readonly name = "custom";
    seen: string[] = [];
    constructor(readonly answers: { penalty?: readonly MethodOp[]; ops?: readonly MethodOp[]; plan?: TaskRef }) {
      super();
    }
    override augmentBatch(context: Parameters<CLAlgorithm["augmentBatch"]>[0]) {
      return [...context.tasks.slice(1), ...(this.answers.plan ? [this.answers.plan] : [])];
    }
    override preStepHook() {
      return this.answers.penalty ?? [];
    }
    override postStepHook({ experience, step, memory }: Parameters<CLAlgorithm["postStepHook"]>[0]) {
      this.seen.push(`step ${experience.index}.${step} ${memory.size}`);
      return this.answers.ops ?? [];
    }
    override postTaskHook({ experience }: Parameters<CLAlgorithm["postTaskHook"]>[0]) {
      this.seen.push(`end ${experience.index}`);
      return [];
    }
  }
  const fields = { num_steps_per_task: 1, task_order: ["hall", "attic"], eval_interval: 0 };

  test("its hooks are called, its plans carried out", async () => {
    const method = new Custom({ ops: [{ op: "reset_optimizer" }] });
    const { policy, rows } = await run(fields, { method });
    expect(method.seen).toEqual(["step 0.0 9", "end 0", "step 1.0 18", "end 1"]);
    expect(trainRows(rows).map((row) => row["rollout/groups"])).toEqual([3, 3]);
    expect(policy.weightOps.filter(({ op }) => op === "reset_optimizer").length).toBe(3);
  });

  test.each([
    {
      what: "a snapshot under a name of the run's",
      answers: { penalty: [{ op: "snapshot", name: "base" }] as const },
      message: "method: snapshot: the name base is the run's own",
    },
    {
      what: "an operation that nothing carries out",
      answers: { ops: [{ op: "estimate_fisher" } as unknown as MethodOp] },
      message: "method: it asks for the operation estimate_fisher, which nothing carries out",
    },
    {
      what: "an evaluation task",
      answers: { plan: { domain: "hall", task_id: "J", replayed: true } },
      message: "J is no training task of hall",
    },
  ])("$what is refused, never ignored", async ({ answers, message }) => {
    await expect(run(fields, { method: new Custom(answers) })).rejects.toThrow(message);
  });
});
