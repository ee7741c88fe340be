/** The command line against paid endpoints: what stops a run before it begins, what ends it, and with which code. */
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openaiServer, type Script } from "../support/openai-server.ts";
import { runCli } from "./run-cli.ts";

const LIMIT_MS = 60_000;
const KEY = "sk-very-secret-0123456789";
const cwd = mkdtempSync(join(tmpdir(), "grpo-cl-paid-"));
afterAll(() => rmSync(cwd, { recursive: true }));

const brief: Script = (messages) => (messages.length < 4 ? "Please help me." : "###STOP###");
const PRICES = "--user.price_per_million_input_tokens 1000 --user.price_per_million_output_tokens 1000";

const run = (line: string) => runCli(line.split(" "), { cwd, env: { SIM_KEY: KEY } });
const paid = (base_url: string, rest: string) =>
  `--config quick_test --user.kind openai --user.model sim --user.api_key_env SIM_KEY --user.base_url ${base_url} ${rest}`;

describe("told before a model is loaded, exit code 2", () => {
  // Loading this one would fail with another sentence.
  const train = (base_url: string) =>
    run(`train ${paid(base_url, "--log_dir none --model_name_or_path builtin:quickstart")}`);

  test("nobody listens", async () => {
    const { exitCode, err } = await train("http://127.0.0.1:9/v1");
    expect(err).toMatch(/^error: user\.base_url: http:\/\/127\.0\.0\.1:9 cannot be reached \(network error /);
    expect(exitCode).toBe(2);
    expect(existsSync(join(cwd, "none"))).toBe(false);
  });

  test("a wrong key, by the name of its variable", async () => {
    using server = openaiServer(brief, { key: "sk-another" });
    const { exitCode, err } = await train(server.url);
    expect(err).toMatch(
      /^error: user\.api_key_env: .* refuses the key in SIM_KEY \(401\)\. Set SIM_KEY to a valid key\n$/,
    );
    expect(exitCode).toBe(2);
    expect(existsSync(join(cwd, "none"))).toBe(false);
    expect(server.requests.map(({ path }) => path)).toEqual(["/v1/models"]);
  });
});

test(
  "an unknown model ends the run at its first request",
  async () => {
    using server = openaiServer(() => ({ kind: "status", status: 404, error: "no model sim" }));
    const { exitCode, err } = await run(`train ${paid(server.url, "--log_dir unknown")}`);
    expect(err).toMatch(/^error: user\.model: .* knows no model "sim" .*\(404: no model sim\)/);
    expect(exitCode).toBe(2);
  },
  LIMIT_MS,
);

test(
  "the cost limit ends a run with 3 and says how to go on",
  async () => {
    using server = openaiServer(brief);
    const plan = await run(`train ${paid(server.url, `--log_dir limited ${PRICES} --dry_run`)}`);
    expect(plan.out).toMatch(
      /Expected calls of sim \(user\): about \d+ for \d+ conversations, if each takes 10; about \$/,
    );
    expect(server.requests).toHaveLength(0);

    const log_dir = "--log_dir limited";
    const limit = (usd: number) => `${PRICES} --user.max_cost_usd ${usd}`;
    const first = await run(`train ${paid(server.url, `${log_dir} ${limit(1e-6)}`)}`);
    expect(first.err).toContain("Stopped: user and judge have cost $");
    expect(first.err).toContain("There is no checkpoint yet. Start again with a higher --user.max_cost_usd");
    expect(first.exitCode).toBe(3);

    const evaluated = await run(`eval ${paid(server.url, limit(1e-6))}`);
    expect(evaluated.err).toContain("Expected calls of sim (user)");
    expect(evaluated.err).toContain("Calls (user, openai:sim): ");
    expect(evaluated.out).toBe("");
    expect(evaluated.exitCode).toBe(3);
  },
  LIMIT_MS,
);

test(
  "a run that was stopped goes on",
  async () => {
    using server = openaiServer(brief);
    const args = (log_dir: string, usd: number) =>
      paid(
        server.url,
        `--log_dir ${log_dir} ${PRICES} --num_steps_per_task 4 --eval_interval 0 --user.max_cost_usd ${usd}`,
      );
    const whole = await run(`train ${args("whole", 1e6)}`);
    expect(whole.exitCode).toBe(0);
    const cost = Number(/Cost of the whole run: \$([\d.]+)/.exec(whole.out)?.[1]);
    const stopped = await run(`train ${args("stopped", cost * 0.6)}`);
    expect(stopped.err).toMatch(/Go on from stopped\/checkpoint_latest with --resume_from stopped and a higher/);
    expect(stopped.exitCode).toBe(3);
    const resumed = await run(`train --resume_from stopped --user.max_cost_usd ${cost * 3}`);
    expect(resumed.err).toBe("");
    expect(resumed.out).toContain("Going on at step ");
    expect(resumed.exitCode).toBe(0);
    const text = (log_dir: string) => Bun.file(join(cwd, log_dir, "metrics.jsonl")).text();
    expect(await text("stopped")).toBe(await text("whole"));
  },
  2 * LIMIT_MS,
);
