import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { RunConfigInput } from "../../src/config/schema.ts";
import type { ScoresRow } from "../../src/metrics/rows.ts";
import { type LampRunOptions, lampConfig, lampDomains, lampRun, luckyScript } from "../support/lamp-run.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-users-"));
afterAll(() => rmSync(root, { recursive: true }));

let runs = 0;
const run = (user: RunConfigInput["user"], options: LampRunOptions = {}) =>
  lampRun(
    lampConfig(join(root, `run-${runs++}`), { num_steps_per_task: 1, kl_coef: 0, eval_interval: 0, user }),
    options,
  );

const unscripted = lampDomains().map((domain) => ({ ...domain, scriptedUser: undefined }));
const talking: typeof luckyScript = (tokens, context) => {
  if (context.request.model === "policy") return luckyScript(tokens, context);
  return context.text.includes("Done.") ? "###STOP###" : "Lamp A, please.";
};
/** Any look at it is a failure. */
const untouchable = new Proxy(
  {},
  { get: (_, name) => expect.unreachable(`the environment's ${String(name)} was read`) },
);

describe("who plays the user", () => {
  test.each([
    { what: "auto takes the script", user: { kind: "auto" as const }, options: {}, identity: "scripted" },
    {
      what: "auto without a script takes the base model",
      user: { kind: "auto" as const },
      options: { domains: unscripted, script: talking },
      identity: "local:base",
    },
    {
      what: "local takes the base model, script or not",
      user: { kind: "local" as const },
      options: { script: talking },
      identity: "local:base",
    },
    {
      what: "local with a model takes that",
      user: { kind: "local" as const, model: "models/talker" },
      options: { script: talking, user_model_directory: "models/talker" },
      identity: "local:talker",
    },
  ])("$what; no key of the environment is looked at", async ({ user, options, identity }) => {
    const { rows, lines, log_dir } = await run(user, { ...options, env: untouchable });
    const scores = rows.find((row) => row.kind === "scores") as ScoresRow;
    expect(Object.values(scores.scores).map(({ user_identity }) => user_identity)).toEqual(Array(3).fill(identity));
    expect(lines.join("\n")).toContain(`User simulator: ${identity} (hall, attic, cellar)`);
    expect(JSON.parse(readFileSync(join(log_dir, "run.json"), "utf8")).users.hall).toBe(identity);
    const { kind } = JSON.parse(readFileSync(join(log_dir, "config.json"), "utf8")).user;
    expect(kind).toBe(identity.split(":")[0]);
  });

  test("another model is loaded as a frozen one and speaks, the base model is not needed", async () => {
    const user = { kind: "local" as const, model: "models/talker" };
    const { policy, lines } = await run(user, { script: talking, user_model_directory: "models/talker" });
    expect(policy.models).toEqual(["user"]);
    expect(policy.weightOps.filter(({ op }) => op === "snapshot")).toEqual([]);
    expect(policy.samples.some(({ model }) => model === "user")).toBe(true);
    expect(lines.filter((line) => line.startsWith("Warning: the frozen step-0 policy"))).toEqual([]);
  });

  test.each([
    {
      what: "scripted where there is no script",
      user: { kind: "scripted" as const },
      message: "user.kind: hall brings no scripted user",
    },
    { what: "openai without a model", user: { kind: "openai" as const }, message: "user.model: " },
  ])("$what is refused", async ({ user, message }) => {
    await expect(run(user, { domains: unscripted })).rejects.toThrow(message);
  });
});
