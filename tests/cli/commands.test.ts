/** Commands that need no model: what they print, and that help is complete. */
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import pkg from "../../package.json";
import { OPTION_NAMES } from "../../src/config/options.ts";
import { writeMockData } from "../support/mock-data.ts";
import { SHARED } from "../support/shared.ts";
import { emptyDirectory, removeDirectories, runCli } from "./run-cli.ts";

afterAll(removeDirectories);

test("help names every command, and train's help every option", async () => {
  const { out, exitCode } = await runCli(["--help"]);
  expect(exitCode).toBe(0);
  for (const command of ["train", "eval", "sft", "plan", "run", "data", "doctor", "version", "licenses"])
    expect(out).toContain(`\n  ${command} `);
  const train = await runCli(["train", "--help"]);
  expect(train.exitCode).toBe(0);
  for (const name of OPTION_NAMES) expect(train.out).toContain(`--${name}`);
  expect(Math.max(...train.out.split("\n").map((line: string) => line.length))).toBeLessThanOrEqual(110);
  expect((await runCli(["help", "data", "check"])).out).toContain("--tau2_data_dir DIR");
});

test("version", async () => {
  expect((await runCli(["version"])).out).toStartWith(`grpo-cl ${pkg.version} (Bun `);
  expect((await runCli(["--version"])).out).toBe(`${pkg.version}\n`);
});

test("licenses name what is needed at run time, and not the tools of development", async () => {
  const { out } = await runCli(["licenses", "--json"]);
  const licences = JSON.parse(out) as { name: string; licence: string }[];
  const names = licences.map(({ name }) => name);
  for (const name of [...Object.keys(pkg.dependencies), "grpo-cl", "bun"]) expect(names).toContain(name);
  expect(names).not.toContain("knip");
  expect(names).not.toContain("typescript");
  expect(licences.filter(({ licence }) => licence === "?")).toEqual([]);
});

describe("data check", () => {
  test("without data: what is missing and how to get it", async () => {
    const { out, exitCode } = await runCli(["data", "check"]);
    expect(exitCode).toBe(1);
    expect(out).toContain("missing  domains/airline/db.json");
    expect(out).toContain("git clone https://github.com/sierra-research/tau2-bench");
  });
  test.skipIf(!existsSync(join(SHARED, "tau2/data")))("the reference data (in ../shared) is complete", async () => {
    const { out, exitCode } = await runCli(["data", "check", "--json"], {
      env: { TAU2_DATA_DIR: join(SHARED, "tau2/data") },
    });
    const { files, domains } = JSON.parse(out) as { files: { state: string }[]; domains: { problem: string | null }[] };
    expect(files.filter(({ state }) => state !== "ok")).toEqual([]);
    expect(domains.filter(({ problem }) => problem !== null)).toEqual([]);
    expect(exitCode).toBe(0);
  });

  test("what is in the data, what differs, and what is wrong with it", async () => {
    const cwd = emptyDirectory();
    writeMockData(join(cwd, "data"));
    writeMockData(join(cwd, "bad"), { task: { user_tools: ["fly"] } });
    const check = async (directory: string) =>
      (await runCli(["data", "check", "--tau2_data_dir", directory], { cwd })).out;
    const sound = await check("data");
    expect(sound).toContain("version: unknown, not wholly tau2-bench 1.0.1");
    expect(sound).toContain("differs  domains/mock/tasks.json  sha256 ");
    expect(sound).toContain("  mock: base 2, small 1, all 3\n    need a judge: base 0, small 0, all 0\n");
    expect(sound).toContain("data holds no domains/airline");
    expect(await check("bad")).toContain(
      '  mock: bad/domains/mock/tasks.json: task greet: user_tools.0: there is no user tool "fly"',
    );
  });
});

test("dry run: the resolved config, which is a config file again, and the plan", async () => {
  const cwd = emptyDirectory();
  const { out, exitCode } = await runCli(["train", "--config", "quick_test", "--seed", "7", "--dry_run"], { cwd });
  expect(exitCode).toBe(0);
  expect(out).toContain("in all: 2 updates, 8 training rollouts");
  expect(out).toContain("user scripted");
  const config = /^Config:\n([\s\S]*?\n)\n/.exec(out)?.[1] ?? "";
  expect(JSON.parse(config)).toMatchObject({ seed: 7, task_order: ["phone"], log_dir: "runs/quick_test" });
  writeFileSync(join(cwd, "again.json"), config);
  expect((await runCli(["train", "--config", "again.json", "--dry_run"], { cwd })).out).toBe(out);
  expect(existsSync(join(cwd, "runs"))).toBe(false);
});

test("a script gets the API, its arguments, and TypeScript", async () => {
  const cwd = emptyDirectory();
  const script = [
    'import { CLAlgorithm, GRPOConfig, GRPOTrainer, MetricsTracker, TrajectoryBuffer, knownDomains, loadDomain } from "grpo-cl";',
    "class Mine extends CLAlgorithm { readonly name: string = 'mine'; }",
    "const config = await GRPOConfig.load('quickstart', { seed: 3, user: { kind: 'scripted' } });",
    "const trainer = new GRPOTrainer(config, { clAlgorithm: new Mine() });",
    "const domain = loadDomain(knownDomains().at(-1)!, { tau2_data_dir: null, train_split: 0.8 });",
    "console.log(JSON.stringify([trainer.config.seed, trainer.clAlgorithm?.name, domain.tasks.length > 0, typeof MetricsTracker, typeof TrajectoryBuffer, process.argv.slice(2)]));",
  ].join("\n");
  writeFileSync(join(cwd, "my.ts"), script);
  const { out, err, exitCode } = await runCli(["run", "my.ts", "--help", "x"], { cwd });
  expect(err).toBe("");
  expect(JSON.parse(out)).toEqual([3, "mine", true, "function", "function", ["--help", "x"]]);
  expect(exitCode).toBe(0);
});
