/** What a domain shows to models: policy, prompts, tool schemas, tasks with their defaults; and what it says of bad data. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UserError } from "../../src/base/errors.ts";
import { dumps, type ExactObject, type ExactValue, exactOf } from "../../src/base/exact.ts";
import { agentPrompt, isSoloTask } from "../../src/tau2/agent.ts";
import { knownDomains, loadDomain } from "../../src/tau2/domains/index.ts";
import { mutates, type ToolEnvironment } from "../../src/tau2/environment.ts";
import { taskWrites } from "../../src/tau2/evaluator.ts";
import { scenarioText, taskText } from "../../src/tau2/task.ts";
import { toolSchema, toolsDescription } from "../../src/tau2/tool.ts";
import type { Domain, ToolSchema } from "../../src/tau2/types.ts";
import { userToolsOf } from "../../src/tau2/user.ts";
import { dataDirectory, domainOf, fixtures, hasFixtures, taskOf, testRecords, WITHOUT_FIXTURES } from "./fixtures.ts";

/** Of "ValueError: text". */
const afterColon = (raised: ExactValue): string => String(raised).replace(/^\w+: /, "");

/** Texts compare whole: order of keys is part of what a chat template prints. */
const text = (value: unknown): string => dumps(value as ExactValue);

const byKind = (tools: readonly ToolSchema[] | null, of: (name: string) => unknown): unknown =>
  tools === null ? null : Object.fromEntries(tools.map(({ function: { name } }) => [name, of(name)]));

describe.skipIf(!hasFixtures)(`domains ${hasFixtures ? "" : WITHOUT_FIXTURES}`, () => {
  testRecords("schemas", fixtures("schemas"), (record) => {
    if (record.raises !== undefined)
      return expect(() => domainOf(record.domain, record.solo_mode)).toThrow(afterColon(record.raises));
    const domain = domainOf(record.domain, record.solo_mode);
    const environment = domain.createEnvironment() as ToolEnvironment;
    const { agent, user } = environment.options;
    const task = record.solo_example_task_id === undefined ? null : taskOf(domain, record.solo_example_task_id);
    expect(domain.policy).toBe(record.policy as string);
    expect(task === null ? domain.systemPrompt : agentPrompt(domain, task)).toBe(record.agent_system_prompt as string);
    expect(text(domain.tools)).toBe(text(record.solo_agent_tools ?? record.agent_tools));
    expect(text(domain.userTools)).toBe(text(record.user_tools));
    for (const [tools, types, changing, description] of [
      [agent.toolkit.tools, record.agent_tool_types, record.agent_tool_mutates, record.agent_tools_description],
      [user?.toolkit.tools ?? null, record.user_tool_types, record.user_tool_mutates, record.user_tools_description],
    ] as const) {
      const schemas = tools?.map(toolSchema) ?? null;
      expect(byKind(schemas, domain.toolKind)).toEqual(types as never);
      expect(byKind(schemas, (name) => mutates(domain.toolKind(name)))).toEqual(changing as never);
      expect(tools && toolsDescription(tools)).toEqual(description as string | null);
    }
    const { agent_db_hash, user_db_hash } = record.initial as ExactObject;
    expect([environment.agentDbHash(), environment.userDbHash()]).toEqual([agent_db_hash, user_db_hash] as never);
  });

  testRecords("tasks_parsed", fixtures("tasks_parsed"), ({ domain, task_id, task: expected, str }) => {
    const task = taskOf(domainOf(domain), task_id ?? null);
    expect(text(task)).toBe(text(expected));
    // Not recorded where it holds the time of the recording.
    if (str !== undefined) expect(taskText(task)).toBe(str as string);
  });

  testRecords("user_prompts (the ground-truth agent's are not ours)", fixtures("user_prompts"), (record) => {
    const domain = domainOf(record.domain);
    const task = taskOf(domain, record.task_id ?? null);
    expect(scenarioText(task.user_scenario)).toBe(record.instructions as string);
    expect(domain.userSystemPrompt(task)).toBe(record.system_prompt as string);
    expect(userToolsOf(domain, task)?.map(({ function: { name } }) => name) ?? null).toEqual(
      record.user_tool_names as never,
    );
    expect(isSoloTask(task)).toBe(record.valid_for_solo as boolean);
    if (record.solo_agent_prompt_sha256 === undefined) return;
    const prompt = agentPrompt(domainOf(record.domain, true), task);
    expect(new Bun.CryptoHasher("sha256").update(prompt).digest("hex")).toBe(record.solo_agent_prompt_sha256 as string);
  });

  testRecords("taskWrites says whether the golden run changes a hash", fixtures("golden"), (record) => {
    const domain = domainOf(record.domain);
    expect(taskWrites(domain, taskOf(domain, record.task_id ?? null))).toBe(
      text(record.initial) !== text(record.final_evaluator_gold),
    );
  });
});

describe.skipIf(!hasFixtures)(`splits and data directories ${hasFixtures ? "" : WITHOUT_FIXTURES}`, () => {
  const scratch = mkdtempSync(join(tmpdir(), "tau2-data-"));
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  test("a split keeps the order of tasks.json", () => {
    const { tasks, splits } = domainOf("airline");
    const ids = tasks.map(({ id }) => id);
    for (const split of Object.values(splits)) expect(split).toEqual(ids.filter((id) => split.includes(id)));
    expect(Object.keys(splits)).toEqual(expect.arrayContaining(["train", "test", "base"]));
    expect(splits.train?.filter((id) => splits.test?.includes(id))).toEqual([]);
  });

  test.each([
    ["a checkout", "repository"],
    ["its data directory", "repository/data"],
    ["the tau2 folder", "repository/data/tau2"],
  ])("%s is found", (_, path) => {
    mkdirSync(join(scratch, "repository"), { recursive: true });
    try {
      symlinkSync(dataDirectory, join(scratch, "repository/data"));
    } catch {
      // made by an earlier row
    }
    expect(loadDomain("airline", { tau2_data_dir: join(scratch, path), train_split: 0.8 }).tasks.length).toBe(
      domainOf("airline").tasks.length,
    );
  });

  /** Loads a domain's data with one file edited; null: it is missing. */
  function loadEdited(
    place: string,
    { domain, file, edit }: { domain: string; file: string; edit: (content: string) => string | null },
  ): () => Domain {
    const root = join(scratch, place);
    const folder = join(root, "domains", domain);
    mkdirSync(folder, { recursive: true });
    symlinkSync(join(dataDirectory, "tau2/user_simulator"), join(root, "user_simulator"));
    const original = join(dataDirectory, "tau2/domains", domain);
    for (const name of readdirSync(original).filter((name) => name !== file))
      symlinkSync(join(original, name), join(folder, name));
    const content = edit(readFileSync(join(original, file), "utf8"));
    if (content !== null) writeFileSync(join(folder, file), content);
    return () => loadDomain(domain, { tau2_data_dir: root, train_split: 0.5 });
  }

  test("without a split file, the first part of the tasks is for training", () => {
    const domain = loadEdited("no-split", { domain: "airline", file: "split_tasks.json", edit: () => null })();
    const ids = domain.tasks.map(({ id }) => id);
    expect(domain.splits).toEqual({ train: ids.slice(0, 25), test: ids.slice(25), base: ids });
  });

  test.each([
    ["no policy", "policy.md", () => null, "policy.md: cannot be read: ENOENT"],
    ["broken JSON", "tasks.json", (content: string) => content.slice(0, 2000), "tasks.json:"],
    [
      "task without scenario",
      "tasks.json",
      (content: string) => content.replaceAll('"user_scenario"', '"scenario"'),
      "tasks.json: task 0: user_scenario: Field required",
    ],
    [
      "wrong requestor",
      "tasks.json",
      (content: string) => content.replace('"action_id": "1_0",', '"action_id": "1_0", "requestor": "nobody",'),
      "tasks.json: task 1: evaluation_criteria.actions.0.requestor: Input should be 'assistant' or 'user', found \"nobody\"",
    ],
    [
      "twice the same id",
      "tasks.json",
      (content: string) => content.replace('"id": "1",', '"id": "0",'),
      "tasks.json: task 0: the id appears twice",
    ],
    [
      "text for a number",
      "db.json",
      (content: string) => content.replace(/"price": \d+/, '"price": "cheap"'),
      "db.json: reservations.",
    ],
    [
      "unknown table",
      "db.json",
      (content: string) => content.replace("{", '{"hotels": {},'),
      "db.json: hotels: Extra inputs are not permitted",
    ],
    [
      "unknown task in a split",
      "split_tasks.json",
      (content: string) => content.replace('"0"', '"99"'),
      "split_tasks.json: train: task 99 is not in tasks.json",
    ],
  ] as const)("%s is refused by name", (name, file, edit, message) => {
    const load = loadEdited(name.replaceAll(" ", "-"), { domain: "airline", file, edit });
    expect(load).toThrow(UserError);
    expect(load).toThrow(message);
  });

  test.each([
    ["broken TOML", "db.toml", "[[plans]]", "[[plans", "db.toml:1: not valid TOML: "],
    [
      "text for a TOML number",
      "db.toml",
      "data_limit_gb = 5.0",
      'data_limit_gb = "much"',
      "db.toml: plans.0.data_limit_gb: ",
    ],
    ["no date", "db.toml", '"2026-12-31"', '"2026-13-31"', "db.toml: lines.0.contract_end_date: "],
    ["unknown setting", "user_db.toml", "airplane_mode", "space_mode", "user_db.toml: device.space_mode: Extra inputs"],
    [
      "unknown state",
      "user_db.toml",
      '"connected"',
      '"lost"',
      "user_db.toml: device.network_connection_status: Input should",
    ],
  ])("telecom with %s is refused by name", (name, file, from, to, message) => {
    const edit = (content: string): string => content.replace(from, to);
    const load = loadEdited(name.replaceAll(" ", "-"), { domain: "telecom", file, edit });
    expect(load).toThrow(UserError);
    expect(load).toThrow(message);
  });
});

describe("names", () => {
  test("an unknown domain is refused with the known ones", () => {
    const load = () => loadDomain("airlin", { tau2_data_dir: null, train_split: 0.8 });
    expect(load).toThrow(UserError);
    for (const name of knownDomains()) expect(load).toThrow(name);
  });

  test("a domain that needs data says where to get it", () => {
    expect(() => loadDomain("airline", { tau2_data_dir: null, train_split: 0.8 })).toThrow("TAU2_DATA_DIR");
    expect(() => loadDomain("airline", { tau2_data_dir: "/nowhere", train_split: 0.8 })).toThrow(
      "/nowhere holds no domains/airline",
    );
  });

  test("exactOf keeps order and drops what is undefined", () => {
    expect(dumps(exactOf({ b: 1.5, "10": undefined, "2": [true, null] }))).toBe('{"2": [true, null], "b": 1.5}');
  });
});
