/** `--domain_dir`: several, under names of their own, in every command; and what is wrong with one is told by file and field. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { emptyDirectory, removeDirectories, runCli } from "./run-cli.ts";

afterAll(removeDirectories);

const cwd = emptyDirectory();

const TOOL =
  '{ name: "ring", kind: "write", description: "Ring.", parameters: {}, run: (state) => { state.setValue("rung", true); return "rung"; } }';
const TOOLS = `import { replayUser } from "grpo-cl";\nexport const tools = [${TOOL}];\n`;
const SCRIPT = 'export const scriptedUser = () => replayUser([{ content: "Ring!", tool_calls: null }], "scripted");\n';
const TASK = {
  id: "one",
  user_scenario: { instructions: "Ring!" },
  evaluation_criteria: { actions: [{ action_id: "1", name: "ring", arguments: {} }] },
};
const FILES = {
  "policy.md": "Ring the bell.",
  "db.json": '{ "rung": false }',
  "tasks.json": JSON.stringify([TASK]),
  "tools.ts": TOOLS + SCRIPT,
};

/** A directory with these files; null: without it. */
function directory(name: string, changes: Readonly<Record<string, string | null>> = {}): string {
  mkdirSync(join(cwd, name), { recursive: true });
  for (const [file, text] of Object.entries({ ...FILES, ...changes }))
    if (text !== null) writeFileSync(join(cwd, name, file), text);
  return name;
}

const check = (...directories: string[]) =>
  runCli(["data", "check", ...directories.flatMap((path) => ["--domain_dir", path])], { cwd });

test("two directories, one with a name in its tools.ts; the same one twice is one", async () => {
  const named = directory("b", { "tools.ts": `${FILES["tools.ts"]}export const name = "doorbell";\n` });
  const { out, err, exitCode } = await check(directory("bell"), named, "bell");
  expect(err).toBe("");
  expect(out).toContain("bell: train 1");
  expect(out).toContain("doorbell: train 1");
  expect(exitCode).toBe(0);
});

test("in a config file, with a plan", async () => {
  directory("bell");
  const config = {
    model_name_or_path: "builtin:quickstart",
    task_order: ["bell"],
    domain_dir: ["bell"],
    train_split: 1,
  };
  writeFileSync(join(cwd, "c.json"), JSON.stringify(config));
  const { out, exitCode } = await runCli(["train", "--config", "c.json", "--dry_run"], { cwd });
  expect(out).toContain("task 0: bell");
  expect(exitCode).toBe(0);
});

test("from a script: the config, and a domain registered in code", async () => {
  directory("bell");
  const script = `import { AgentEnv, GRPOConfig, registerDomain, registerDomainDirectories, replayUser } from "grpo-cl";
    const config = new GRPOConfig({ model_name_or_path: "m", task_order: ["bell"], domain_dir: ["bell"] });
    console.log(config.domain_dir, await registerDomainDirectories(config.domain_dir));
    const tools = [${TOOL}];
    const scriptedUser = () => replayUser([{ content: "Ring!", tool_calls: null }]);
    registerDomain({ name: "gong", policy: "", db: { rung: false }, tasks: [${JSON.stringify(TASK)}], tools, scriptedUser });
    for (const domain of ["bell", "gong"]) {
      const env = new AgentEnv({ domain, task_id: "one" });
      await env.reset();
      await env.step("ring()");
      console.log(domain, (await env.step("Done.")).reward);
    }`;
  writeFileSync(join(cwd, "s.ts"), script);
  const { out, err } = await runCli(["run", "s.ts"], { cwd });
  expect(err).toBe("");
  expect(out).toBe('[ "bell" ] [ "bell" ]\nbell 1\ngong 1\n');
});

test("without a scripted user a person plays both sides", async () => {
  directory("quiet", { "tools.ts": TOOLS });
  const typed = ["Ring the bell", "ring()", "I did.", "/stop"].map((line) => `${line}\n`).join("");
  const { out, exitCode } = await runCli(["play", "quiet", "one", "--domain_dir", "quiet"], { cwd, stdin: typed });
  expect(out).toContain("You play the user, too");
  expect(out).toContain(
    "user> Ring the bell\nuser: Ring the bell\nagent> ring()\ntool: rung\nagent> I did.\nassistant: I did.\nuser> /stop",
  );
  expect(out).toContain("Reward: 1");
  expect(exitCode).toBe(0);
});

describe("bad input", () => {
  const tool = (change: string) =>
    `export const tools = [{ name: "ring", kind: "write", description: "", parameters: {}, run: () => 1, ${change} }];`;
  test.each([
    ["gone", null, "domain_dir: gone: no such directory"],
    [
      "no_tools",
      { "tools.ts": null },
      "no_tools/tools.ts: is missing; a domain directory holds policy.md, db.json, tasks.json and tools.ts",
    ],
    ["no_policy", { "policy.md": null }, "no_policy/policy.md: is missing"],
    ["not_exported", { "tools.ts": "export const x = 1;" }, "not_exported/tools.ts: tools: is not exported"],
    [
      "unknown",
      { "tools.ts": `${FILES["tools.ts"]}export const toolz = 1;` },
      "unknown/tools.ts: toolz: is no export that a domain has",
    ],
    ["wrong", { "tools.ts": "export const tools = 1;" }, "wrong/tools.ts: tools: a list of tools is expected"],
    ["nameless", { "tools.ts": tool("name: 1") }, "nameless/tools.ts: tools[0].name: a text is expected"],
    [
      "kindless",
      { "tools.ts": tool('kind: "odd"') },
      "kindless/tools.ts: tools[0].kind: one of read, write, think, generic is expected",
    ],
    ["runless", { "tools.ts": tool("run: 1") }, "runless/tools.ts: tools[0].run: a function is expected"],
    [
      "untyped",
      { "tools.ts": tool('parameters: { id: "str" }') },
      "untyped/tools.ts: tools[0].parameters.id: parameter(type, description) is expected",
    ],
    ["syntax", { "tools.ts": "export const tools = [" }, "syntax/tools.ts: cannot be loaded:"],
    [
      "script",
      { "tools.ts": `${TOOLS}export const scriptedUser = 1;` },
      "script/tools.ts: scriptedUser: a function is expected",
    ],
    ["json", { "db.json": "{" }, "db.json:1: not valid JSON"],
    ["task", { "tasks.json": '[{ "id": "x" }]' }, "task/tasks.json: task x: user_scenario: Field required"],
    ["shop", {}, 'shop/tools.ts: name: a domain "shop" comes with the program; choose another name'],
    ["split", { "split_tasks.json": '{ "train": ["two"] }' }, "split_tasks.json: train: task two is not in tasks.json"],
  ])("%s", async (name, changes, sentence) => {
    if (changes !== null) directory(name, changes);
    const { err, exitCode } = await check(name);
    expect(err).toContain(sentence);
    expect(err.trimEnd().split("\n")).toHaveLength(1);
    expect(exitCode).toBe(2);
  });
});
