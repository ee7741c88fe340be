/** The whole program over the real core: a short training, an evaluation, going on, and Ctrl-C. */
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { readJsonl } from "../../src/base/jsonl.ts";
import { emptyDirectory, removeDirectories, runCli, startCli } from "./run-cli.ts";

afterAll(removeDirectories);

const LIMIT_MS = 120_000;
const QUICK = ["train", "--config", "quick_test", "--num_threads", "1"];

test(
  "a run writes what it promises; the same seed gives the same bytes, another seed does not",
  async () => {
    const cwd = emptyDirectory();
    for (const [log_dir, seed] of [
      ["a", "1"],
      ["b", "1"],
      ["c", "2"],
    ] as const) {
      const { exitCode, out, err } = await runCli([...QUICK, "--log_dir", log_dir, "--seed", seed], { cwd });
      expect(err).toBe("");
      expect(out).toContain("Task 0: PHONE\n");
      expect(out).toMatch(/Task 0, Step 1: loss=-?\d+\.\d{4}, reward_mean=\d\.\d{4}, reward_max=\d\.\d{4}\n/);
      expect(exitCode).toBe(0);
    }
    const read = (path: string) => readFileSync(join(cwd, path), "utf8");
    expect(read("b/metrics.jsonl")).toBe(read("a/metrics.jsonl"));
    expect(read("c/metrics.jsonl")).not.toBe(read("a/metrics.jsonl"));
    expect(JSON.parse(read("a/config.json"))).toMatchObject({ seed: 1, log_dir: "a", user: { kind: "scripted" } });
    const metrics = JSON.parse(read("a/metrics.json"));
    expect(Object.keys(metrics).sort()).toEqual([
      "baselines",
      "score_matrix",
      "task_0/eval",
      "task_0/train",
      "transfer",
    ]);
    expect(metrics.score_matrix.map(({ task_idx }: { task_idx: number }) => task_idx)).toEqual([-1, 0]);
    expect(readdirSync(join(cwd, "a/checkpoint_task_0"))).toEqual(
      expect.arrayContaining(["config.json", "model", "trajectories.json"]),
    );

    const again = await runCli(["train", "--config", "a/config.json", "--log_dir", "d"], { cwd });
    expect(again.exitCode).toBe(0);
    expect(read("d/metrics.jsonl")).toBe(read("a/metrics.jsonl"));

    const evaluated = await runCli(
      [
        "eval",
        "--model_name_or_path",
        "a/checkpoint_task_0",
        "--config",
        "quick_test",
        "--json",
        "--out",
        "results.json",
      ],
      { cwd },
    );
    expect(evaluated.exitCode).toBe(0);
    const { scores } = JSON.parse(evaluated.out);
    const { reward_mean } = metrics.score_matrix[1].scores.phone;
    expect(scores.phone.reward_mean).toBe(reward_mean);
    const results = JSON.parse(read("results.json"));
    expect(results.simulations).toHaveLength(4);
    expect(results.info.environment_info.domain_name).toBe("phone");

    const text = await runCli(["eval", "--model_name_or_path", "a/checkpoint_task_0", "--config", "quick_test"], {
      cwd,
    });
    for (const word of ["domain", "split", "tasks", "trials", "pass^1", "stop reasons", "malformed calls", "user"]) {
      expect(text.out).toMatch(new RegExp(`^${RegExp.escape(word)}`, "m"));
    }
  },
  LIMIT_MS,
);

test(
  "a script trains, with a method of its own",
  async () => {
    const cwd = emptyDirectory();
    const script = `
      import { type BatchContext, CLAlgorithm, GRPOConfig, GRPOTrainer } from "grpo-cl";
      let asked = 0;
      class Mine extends CLAlgorithm {
        readonly name = "mine";
        override augmentBatch(context: BatchContext) { asked += 1; return super.augmentBatch(context); }
      }
      using trainer = new GRPOTrainer(await GRPOConfig.load("quick_test", { log_dir: "mine" }), { clAlgorithm: new Mine() });
      await trainer.train();
      const { scores } = await trainer.evaluate();
      const alone = await trainer.evaluateTask("phone");
      await trainer.save("saved");
      const last = trainer.metrics.scoreMatrix().at(-1);
      console.log(JSON.stringify({ asked, steps: trainer.metrics.steps().length, same: last?.scores.phone?.reward_mean === scores.phone?.reward_mean, alone: JSON.stringify(alone) === JSON.stringify(scores.phone) }));
    `;
    await Bun.write(join(cwd, "my.ts"), script);
    const { out, err, exitCode } = await runCli(["run", "my.ts"], { cwd });
    expect(err).toBe("");
    expect(exitCode).toBe(0);
    expect(JSON.parse(out.trimEnd().split("\n").at(-1) ?? "")).toEqual({ asked: 2, steps: 2, same: true, alone: true });
    expect(existsSync(join(cwd, "mine/learning_curves.png"))).toBe(true);
    expect(existsSync(join(cwd, "saved/model.safetensors"))).toBe(true);
    expect(JSON.parse(readFileSync(join(cwd, "mine/run.json"), "utf8")).method).toBe("mine");
  },
  LIMIT_MS,
);

describe("Ctrl-C", () => {
  test(
    "ends at once with 130 and a message; files are whole and the run can go on",
    async () => {
      const cwd = emptyDirectory();
      const args = [...QUICK, "--num_steps_per_task", "500", "--save_interval", "1", "--log_dir", "a"];
      const child = startCli(args, { cwd });
      let out = "";
      let interruptedAt = 0;
      const decoder = new TextDecoder();
      for await (const chunk of child.stdout) {
        out += decoder.decode(chunk, { stream: true });
        if (interruptedAt === 0 && out.includes("Step 2:")) {
          interruptedAt = Date.now();
          child.kill("SIGINT");
        }
      }
      expect(await child.exited).toBe(130);
      expect(Date.now() - interruptedAt).toBeLessThan(5000);
      expect(await new Response(child.stderr).text()).toContain("Interrupted");
      const rows = readJsonl(join(cwd, "a/metrics.jsonl")) as { kind: string }[];
      expect(rows.filter(({ kind }) => kind === "train").length).toBeGreaterThanOrEqual(3);
      JSON.parse(readFileSync(join(cwd, "a/metrics.json"), "utf8"));

      const more = await runCli(["train", "--resume_from", "a", "--num_steps_per_task", "6"], { cwd });
      expect(more.out).toContain("Going on at step ");
      expect(more.exitCode).toBe(0);
    },
    LIMIT_MS,
  );
});
