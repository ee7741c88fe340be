/** dist/grpo-cl (scripts/build makes it) alone in an empty directory, without PATH, beside files that must not be read. */
import { afterAll, describe, expect, test } from "bun:test";
import { copyFileSync, existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { emptyDirectory, removeDirectories } from "./run-cli.ts";

afterAll(removeDirectories);

const BINARY = resolve(import.meta.dir, "../../dist/grpo-cl");
const LIMIT_MS = 120_000;

if (!existsSync(BINARY)) console.log("skipped: tests of the binary; scripts/build makes dist/grpo-cl");

describe.skipIf(!existsSync(BINARY))("the binary alone", () => {
  const cwd = emptyDirectory();
  const home = join(cwd, "home");
  mkdirSync(home);
  writeFileSync(join(cwd, "bunfig.toml"), 'preload = ["./preload.ts"]\n');
  writeFileSync(join(cwd, "preload.ts"), 'console.log("PRELOADED");\n');
  writeFileSync(join(cwd, ".env"), "TAU2_DATA_DIR=/from-dot-env\n");
  if (existsSync(BINARY)) copyFileSync(BINARY, join(cwd, "grpo-cl"));

  const run = async (...args: string[]) => {
    const child = Bun.spawn([join(cwd, "grpo-cl"), ...args], {
      cwd,
      env: { HOME: home, PATH: "/nonexistent" },
      stdout: "pipe",
      stderr: "pipe",
      timeout: LIMIT_MS,
    });
    const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    return { out, err, exitCode: await child.exited };
  };

  test("version, without .env and bunfig.toml of the directory", async () => {
    const { out, exitCode } = await run("version");
    expect(out).toStartWith("grpo-cl ");
    expect(exitCode).toBe(0);
    expect((await run("data", "check")).out).not.toContain("from-dot-env");
  });

  test("doctor is content", async () => {
    const { out, exitCode } = await run("doctor");
    expect(out).not.toContain("problem");
    expect(out).toContain("ok       self-test");
    expect(exitCode).toBe(0);
  });

  test("licenses name crates and packages, each with a licence", async () => {
    const licences = JSON.parse((await run("licenses", "--json")).out) as { from: string; licence: string }[];
    expect(new Set(licences.map(({ from }) => from))).toEqual(new Set(["own", "runtime", "npm", "crate"]));
    expect(licences.filter(({ licence }) => licence === "?")).toEqual([]);
  });

  test(
    "trains with what it carries, and a script",
    async () => {
      const { out, err, exitCode } = await run("train", "--config", "quick_test");
      expect(err).toBe("");
      expect(out).toContain("Task 0, Step 1: ");
      expect(exitCode).toBe(0);
      expect(readdirSync(join(cwd, "runs/quick_test"))).toContain("metrics.json");
      writeFileSync(
        join(cwd, "my.ts"),
        'import { MetricsTracker } from "grpo-cl";\nconst steps: number = MetricsTracker.load("runs/quick_test").steps().length;\nconsole.log(steps);\n',
      );
      expect((await run("run", "my.ts")).out).toBe("2\n");
    },
    LIMIT_MS,
  );
});
