/** The recordings of the original Python program, found by pattern: another folder of the same format may take their place. */
import { test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type ExactObject, type ExactValue, parseExact } from "../../src/base/exact.ts";
import { loadDomain } from "../../src/tau2/domains/index.ts";
import type { Domain, Message, Task } from "../../src/tau2/types.ts";

const shared = process.env.GRPO_CL_SHARED ?? join(import.meta.dir, "../../../shared");
const directory = join(shared, "tau2/fixtures");

export const dataDirectory = join(shared, "tau2/data");
export const hasFixtures = existsSync(directory) && existsSync(dataDirectory);
/** What a skipped test says. */
export const WITHOUT_FIXTURES = `(skipped: no tau2 fixtures under ${shared}; set GRPO_CL_SHARED)`;

export type FixtureRecord = ExactObject & {
  readonly id: string;
  readonly domain: string;
  readonly task_id?: string | null;
};

const files = (): string[] =>
  hasFixtures
    ? readdirSync(directory)
        .filter((name) => name.endsWith(".jsonl.gz"))
        .sort()
    : [];

const records = (file: string): FixtureRecord[] => {
  const text = new TextDecoder().decode(Bun.gunzipSync(readFileSync(join(directory, file))));
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => parseExact(line) as FixtureRecord);
};

/** The records of every file whose name begins with a kind: `walks_airline.jsonl.gz`, `schemas.jsonl.gz`. */
export function fixtures(...kinds: readonly string[]): FixtureRecord[] {
  const wanted = (file: string): boolean =>
    kinds.some((kind) => file === `${kind}.jsonl.gz` || file.startsWith(`${kind}_`));
  return files().filter(wanted).flatMap(records);
}

/** A test over the records of some kinds, one by one; without any it is skipped and says so. */
export function testRecords(
  title: string,
  records: readonly FixtureRecord[],
  check: (record: FixtureRecord) => void | Promise<void>,
): void {
  const run = async () => {
    for (const record of records) await inContext(record.id, () => check(record));
  };
  test.skipIf(records.length === 0)(`${title}: ${records.length} records`, run, TIMEOUT_MS);
}

/** Thousands of records, on a machine that may be busy. */
const TIMEOUT_MS = 120_000;

/** Runs a check and names its record when it fails. */
async function inContext(id: string, check: () => void | Promise<void>): Promise<void> {
  try {
    await check();
  } catch (error) {
    throw new Error(id, { cause: error });
  }
}

const loaded = new Map<string, Domain>();

/** Loaded once. `solo_mode`: as records spell it, absent where there is no choice. */
export function domainOf(name: string, solo_mode: ExactValue = false): Domain {
  const key = solo_mode ? `${name}, solo` : name;
  const options = { tau2_data_dir: dataDirectory, train_split: 0.8, solo_mode: solo_mode === true };
  const domain = loaded.get(key) ?? loadDomain(name, options);
  loaded.set(key, domain);
  return domain;
}

export function taskOf(domain: Domain, id: ExactValue): Task {
  const task = domain.tasks.find((candidate) => candidate.id === id);
  if (task === undefined) throw new Error(`${domain.name} has no task ${String(id)}`);
  return task;
}

/** A recorded message with the fields that recordings leave out. */
export function messageOf(record: ExactObject): Message {
  const content = (record.content as string | undefined) ?? null;
  if (record.role === "tool") {
    return {
      role: "tool",
      id: record.id as string,
      content,
      requestor: (record.requestor ?? "assistant") as "assistant",
      error: (record.error ?? false) as boolean,
    };
  }
  const role = record.role as "assistant" | "user";
  const calls = (record.tool_calls as readonly ExactObject[] | null | undefined) ?? null;
  return {
    role,
    content,
    tool_calls: calls?.map((call) => ({ id: "", requestor: "assistant", ...call }) as never) ?? null,
  };
}
