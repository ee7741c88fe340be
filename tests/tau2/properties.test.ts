/** Laws of environments: whatever a model sends, nothing crashes, nothing leaks, and hashes mean states. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { dumps, type ExactObject, objectOf } from "../../src/base/exact.ts";
import { isSoloTask } from "../../src/tau2/agent.ts";
import { Database, DatabaseImage } from "../../src/tau2/database.ts";
import { dataDomains, knownDomains } from "../../src/tau2/domains/index.ts";
import { mutates, prepareEnvironment, ToolEnvironment } from "../../src/tau2/environment.ts";
import type { Domain, Environment, Task, ToolCall } from "../../src/tau2/types.ts";
import { callsOf } from "./call-generator.ts";
import { domainOf, hasFixtures, WITHOUT_FIXTURES } from "./fixtures.ts";

/** The hash by its definition, without spans and checkpoints. */
const plainHash = (state: ExactObject): string =>
  new Bun.CryptoHasher("sha256").update(dumps(state, { sorted: true })).digest("hex");

describe("databases", () => {
  const key = fc.constantFrom("a", "b", "c", "aa", "z", "é", "😀", "￿", "10", "9", "");
  const entity = fc.record({ n: fc.integer(), text: fc.string({ unit: "binary", maxLength: 40 }) });
  const table = fc.uniqueArray(fc.tuple(key, entity), { selector: ([name]) => name }).map(objectOf);
  const change = fc.oneof(
    fc.record({ op: fc.constant("set" as const), table: fc.constantFrom("t", "u"), key, entity }),
    fc.record({ op: fc.constant("delete" as const), table: fc.constantFrom("t", "u"), key }),
    fc.record({ op: fc.constant("value" as const), entity }),
  );

  test("the hash is that of the whole text, after any changes", () => {
    fc.assert(
      fc.property(table, table, entity, fc.array(change), (t, u, value, changes) => {
        const image = new DatabaseImage({ u, m: value, t }, ["t", "u"]);
        const database = new Database(image);
        for (const change of changes) {
          if (change.op === "set") database.table(change.table).set(change.key, change.entity);
          else if (change.op === "delete") database.table(change.table).delete(change.key);
          else database.setValue("m", change.entity);
          expect(database.hash()).toBe(plainHash(database.dump()));
          for (const name of ["t", "u"])
            expect(database.table(name).size).toBe([...database.table(name).values()].length);
        }
        expect(new Database(image).hash()).toBe(plainHash({ u, m: value, t }));
      }),
    );
  });

  test("also across checkpoints, in texts of many kilobytes", () => {
    const big = (n: number): ExactObject =>
      objectOf(Array.from({ length: n }, (_, i) => [`k${i}`, { text: "x".repeat(500), i }]));
    const image = new DatabaseImage({ t: big(300), u: big(50) }, ["t", "u"]);
    for (const i of [0, 1, 63, 64, 65, 150, 298, 299, 300]) {
      const database = new Database(image);
      database.table("t").set(`k${i}`, { text: "y" });
      expect(database.hash()).toBe(plainHash(database.dump()));
    }
  });
});

const names = hasFixtures ? knownDomains() : knownDomains().filter((name) => !dataDomains().includes(name));
const domains: readonly (readonly [string, () => Domain])[] = [
  ...names.map((name) => [name, () => domainOf(name)] as const),
  ...names
    .filter((name) => ["mock", "telecom"].includes(name))
    .map((name) => [`${name}, solo`, () => domainOf(name, true)] as const),
];

type Hashes = readonly [agent: string, user: string | null];

const hashes = (environment: Environment): Hashes => [environment.agentDbHash(), environment.userDbHash()];

/** A conversation: a task, and what is called in it. Nobody works alone on a task with a user's words in its history. */
function scriptsOf(domain: Domain): fc.Arbitrary<[Task, readonly ToolCall[]]> {
  const tasks = domain.solo_mode ? domain.tasks.filter(isSoloTask) : domain.tasks;
  return fc.tuple(fc.constantFrom(...tasks), fc.array(callsOf(domain), { maxLength: 12 }));
}

/** The hash of each side is that of its whole state. */
function checkHashes(environment: Environment): void {
  if (!(environment instanceof ToolEnvironment)) return;
  const { agentDb, userDb } = environment;
  expect(hashes(environment)).toEqual([plainHash(agentDb.dump()), userDb && plainHash(userDb.dump())]);
}

// Python's complaint about arguments comes before the tool has begun.
const SIGNATURE =
  /^Error: (\w+\.)+\w+\(\) (got (an unexpected|multiple values)|missing \d+ required)|^Error: Tool '.*' not found\.$/;

describe(`environments ${hasFixtures ? "" : WITHOUT_FIXTURES}`, () => {
  for (const [name, load] of domains) {
    test(`${name}: any call is answered, kinds keep their word, and nobody else notices`, () => {
      const domain = load();
      const bystander = domain.createEnvironment();
      const before = hashes(bystander);
      fc.assert(
        fc.property(scriptsOf(domain), ([task, calls]) => {
          const environment = prepareEnvironment(domain, task);
          const twin = prepareEnvironment(domain, task);
          const replay = prepareEnvironment(domain, task);
          for (const call of calls) {
            const state = hashes(environment);
            const answer = environment.getResponse(call);
            expect(answer.content?.startsWith("Error: ") ?? false).toBe(answer.error);
            expect(twin.getResponse(call)).toEqual(answer);
            if (mutates(domain.toolKind(call.name))) expect(replay.getResponse(call)).toEqual(answer);
            else expect(hashes(environment)).toEqual(state);
            if (SIGNATURE.test(answer.content ?? "")) expect(hashes(environment)).toEqual(state);
          }
          expect(hashes(twin)).toEqual(hashes(environment));
          // What does not write has left no trace, so the evaluator may leave it out.
          expect(hashes(replay)).toEqual(hashes(environment));
        }),
        { numRuns: 100 },
      );
      expect(hashes(bystander)).toEqual(before);
      expect(hashes(domain.createEnvironment())).toEqual(before);
    });
  }

  // Few runs: the definition of the hash reads megabytes.
  test.each(domains)("%s: hashes are those of the whole state", (_, load) => {
    const domain = load();
    fc.assert(
      fc.property(scriptsOf(domain), ([task, calls]) => {
        const environment = prepareEnvironment(domain, task);
        for (const call of calls) environment.getResponse(call);
        checkHashes(environment);
      }),
      { numRuns: 8 },
    );
  });

  test.each(names)("%s: the calls reach every tool, and both answers and errors", (name) => {
    const domain = domainOf(name);
    const outcomes = new Set<string>();
    for (const [task, calls] of fc.sample(scriptsOf(domain), { numRuns: 1000, seed: 1 })) {
      const environment = prepareEnvironment(domain, task);
      for (const call of calls) outcomes.add(`${call.name} ${environment.getResponse(call).error ? "fails" : "works"}`);
    }
    const tools = [...domain.tools, ...(domain.userTools ?? [])].map((tool) => tool.function.name);
    const missing = tools.flatMap((tool) => [`${tool} works`, `${tool} fails`]).filter((what) => !outcomes.has(what));
    expect(missing).toEqual([]);
  });
});
