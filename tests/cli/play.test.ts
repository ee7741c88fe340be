/** `grpo-cl play` with what is typed coming by a pipe. */
import { afterAll, describe, expect, test } from "bun:test";
import { openaiServer } from "../support/openai-server.ts";
import { emptyDirectory, removeDirectories, runCli } from "./run-cli.ts";

afterAll(removeDirectories);

const cwd = emptyDirectory();

const play = (args: readonly string[], lines: readonly string[]) =>
  runCli(["play", ...args], { cwd, stdin: lines.map((line) => `${line}\n`).join(""), env: { OPENAI_API_KEY: "k" } });

test("as the agent: commands, calls in both notations, a blank line, the reward by check", async () => {
  const lines = [
    "/policy",
    "/task",
    "/help",
    "/undo",
    "",
    "hold(id='#9454')",
    '{"name": "cancel", "arguments": {"id": "#9454"}}',
    "/stop",
  ];
  const { out, err, exitCode } = await play(["rail", "test_verb_0"], lines);
  expect(err).toBe("");
  expect(exitCode).toBe(0);
  expect(out).toContain("You are the agent of rail, task test_verb_0. The user is scripted.");
  expect(out).toContain("agent> /policy\nYou are the agent of a rail office.");
  expect(out).toContain("agent> /task\nInstructions:\n\tDomain: rail");
  expect(out).toContain("agent> /undo\nThere is no /undo.");
  expect(out).toContain(
    "The conversation ended (agent_stop).\nReward: 1 = DB 1\n  yes  the database is as it should be\n",
  );
  expect(out).toContain("  yes  called hold(id='#9454') (does not count)");
});

test("leaving, and the end of input, give no reward", async () => {
  const left = await play(["rail", "test_verb_0"], ["/quit"]);
  expect([left.out.includes("You left before the end: no reward."), left.exitCode]).toEqual([true, 0]);
  const cut = await play(["rail", "test_verb_0"], ["get(id='#9454')"]);
  expect([cut.out.includes("You left before the end: no reward."), cut.exitCode]).toEqual([true, 1]);
});

test("as the agent against an endpoint", async () => {
  using server = openaiServer((messages) => (messages.length > 3 ? "###STOP###" : "Where is my order?"));
  const { out, err } = await play(
    ["rail", "test_verb_0", "--user.kind", "openai", "--user.model", "m", "--user.base_url", server.url],
    ["Which one?"],
  );
  expect(err).toBe("");
  expect(out).toContain("The user is openai:m.");
  expect(out).toContain("user: Where is my order?\nagent> Which one?\nuser: ###STOP###");
});

test("as the user, against a model", async () => {
  const model = ["--model_name_or_path", "builtin:quickstart", "--max_new_tokens", "32", "--num_threads", "2"];
  const { out, err, exitCode } = await play(
    ["shop", "test_verb_0", "--role", "user", ...model],
    ["/tools", "Hello.", "/stop"],
  );
  expect(err).toBe("");
  expect(exitCode).toBe(0);
  expect(out).toContain("You are the user of shop, task test_verb_0. The agent is builtin:quickstart.");
  expect(out).toContain("assistant: Hi! How can I help you today?\nuser> /tools\nconfirm(id: string)");
  expect(out).toContain("The conversation ended (");
}, 60_000);

describe("bad input", () => {
  test.each([
    [[], "grpo-cl play: needs a domain and a task"],
    [["rail"], "needs a domain and a task"],
    [["rail", "nine"], 'task_id: rail has no task "nine"'],
    [["bank", "1"], 'unknown domain "bank"'],
    [["rail", "test_verb_0", "--role", "judge"], '--role: expected agent or user, got "judge"'],
    [["rail", "test_verb_0", "--role", "user"], "--model_name_or_path: is required for --role user"],
    [["rail", "test_verb_0", "--user.kind", "local"], "--user.kind: local needs a model"],
  ])("%j", async (args, sentence) => {
    const { err, exitCode } = await play(args, []);
    expect(err).toContain(sentence);
    expect(exitCode).toBe(2);
  });
});
