/** The README's domain and its environment loop, taken out of it and run: from source, and in the binary where it is built. */
import { afterAll, describe, expect, test } from "bun:test";
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { emptyDirectory, removeDirectories, startCli } from "../cli/run-cli.ts";

afterAll(removeDirectories);

const README = readFileSync(resolve(import.meta.dir, "../../README.md"), "utf8");
const FILE = /^\*\*`(cafe\/[\w.]+)`\*\*\n\n```\w+\n([\s\S]*?)```$/gm;
const BINARY = resolve(import.meta.dir, "../../dist/grpo-cl");
const LIMIT_MS = 120_000;

const cwd = emptyDirectory();
mkdirSync(join(cwd, "cafe"));
const files = [...README.matchAll(FILE)].map(([, name = "", text = ""]) => ({ name, text }));
for (const { name, text } of files) writeFileSync(join(cwd, name), text);
writeFileSync(join(cwd, "loop.ts"), /```ts\n(import \{ AgentEnv \}[\s\S]*?)```/.exec(README)?.[1] ?? "");

const MODEL = ["--model_name_or_path", "builtin:quickstart", "--max_new_tokens", "64", "--num_threads", "2"];
const CAFE = ["--domain_dir", "cafe", "--task_order", "cafe", "--train_split", "0.5", ...MODEL];

type Run = (args: readonly string[], stdin?: string) => Promise<{ out: string; err: string; exitCode: number }>;

const fromSource: Run = async (args, stdin = "") => finished(startCli(args, { cwd, stdin }));

/** Alone, without anything of this clone around it. */
const inBinary: Run = async (args, stdin = "") => {
  const alone = join(cwd, "grpo-cl");
  if (!existsSync(alone)) copyFileSync(BINARY, alone);
  const env = { HOME: cwd, PATH: "/nonexistent" };
  return finished(
    Bun.spawn([alone, ...args], {
      cwd,
      env,
      stdin: new Blob([stdin]),
      stdout: "pipe",
      stderr: "pipe",
      timeout: LIMIT_MS,
    }),
  );
};

async function finished(child: Bun.Subprocess<Blob, "pipe", "pipe">) {
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { out, err, exitCode: await child.exited };
}

test("the README shows every file that a domain needs", () => {
  expect(files.map(({ name }) => name).sort()).toEqual([
    "cafe/db.json",
    "cafe/policy.md",
    "cafe/tasks.json",
    "cafe/tools.ts",
  ]);
});

/** A binary of an older clone does not know domains yet: scripts/build makes it anew. */
const binaryKnows =
  existsSync(BINARY) && Bun.spawnSync([BINARY, "play", "--help"]).stdout.toString().includes("--role");
if (!binaryKnows) console.log("skipped: the README's domain in the binary; scripts/build makes dist/grpo-cl");

describe.each([
  ["from source", fromSource, false],
  ["in the binary", inBinary, !binaryKnows],
] as const)("%s", (_, run, isSkipped) => {
  test.skipIf(isSkipped)(
    "the domain is checked, listed and evaluated, and one tiny step is trained",
    async () => {
      const check = await run(["data", "check", "--domain_dir", "cafe"]);
      expect(check.err).toBe("");
      expect(check.out).toContain("cafe: train 4");
      expect(check.exitCode).toBe(0);
      const evaluated = await run(["eval", ...CAFE, "--split", "all", "--eval_trials", "1", "--json"]);
      expect(evaluated.err.split("\n").filter((line) => line.startsWith("error"))).toEqual([]);
      expect(JSON.parse(evaluated.out).scores.cafe).toMatchObject({ n_tasks: 4, user_identity: "scripted" });
      const tiny =
        "--num_steps_per_task 1 --batch_size_per_gpu 1 --gradient_accumulation_steps 1 --num_samples_per_prompt 2 --eval_trials 1 --eval_interval 0 --log_dir run";
      const trained = await run(["train", ...CAFE, ...tiny.split(" ")]);
      expect(trained.err).toBe("");
      expect(trained.exitCode).toBe(0);
      expect(JSON.parse(readFileSync(join(cwd, "run/config.json"), "utf8")).domain_dir).toEqual(["cafe"]);
      rmSync(join(cwd, "run"), { recursive: true });
    },
    LIMIT_MS,
  );

  test.skipIf(isSkipped)("a person plays it", async () => {
    const lines = [
      "/tools",
      "get_order(id='C1')",
      "change_size(id='C1', size='huge')",
      "change_size(id='C1', size='large')",
      "Large it is.",
    ];
    const { out, err, exitCode } = await run(
      ["play", "cafe", "large", "--domain_dir", "cafe"],
      lines.map((line) => `${line}\n`).join(""),
    );
    expect(err).toBe("");
    expect(out).toContain("change_size(id: string, size: 'small' | 'large')");
    expect(out).toContain('tool: {"drink": "espresso", "size": "small", "status": "waiting"}');
    expect(out).toContain("tool: Error: size: Input should be 'small' or 'large'");
    expect(out).toContain("Reward: 1 = DB 1 × COMMUNICATE 1");
    expect(exitCode).toBe(0);
  });

  test.skipIf(isSkipped)("the environment's loop", async () => {
    const { out, err } = await run(["run", "loop.ts"]);
    expect(err).toBe("");
    expect(out).toMatch(/^user: .*#\d+.* \| get hold cancel credit change transfer done$/m);
    expect(out).toEndWith("1 true\n");
  });
});
