/**
 * Adds up what scripts/test left in a directory: NAME.log, NAME.rc and bun-test.xml → `N passed, N failed`.
 * An exit code that no counted failure explains (a file that does not load, a crash) is a failure of its own.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

const [directory = "."] = process.argv.slice(2);
const ESCAPES = new RegExp(`${String.fromCharCode(27)}\\[[0-9;]*m`, "g");
const read = (file: string) => readFileSync(join(directory, file), "utf8").replaceAll(ESCAPES, "");

const steps = readdirSync(directory)
  .filter((file) => file.endsWith(".rc"))
  .map((file) => {
    const name = file.slice(0, -".rc".length);
    const exitCode = Number(read(file).trim());
    const counts = countsOf(name, exitCode);
    const unexplained = exitCode !== 0 && counts.failed === 0;
    return { name, exitCode, counts: unexplained ? { ...counts, failed: 1 } : counts };
  });

for (const { name, counts, exitCode } of steps) {
  if (counts.failed > 0) console.log(`${name}: ${counts.failed} failed (exit code ${exitCode})`);
}
const total = steps.reduce((sum, { counts }) => add(sum, counts), { passed: 0, failed: 0, skipped: 0 });
const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : "";
console.log(`${total.passed} passed, ${total.failed} failed${skipped}`);
process.exit(total.failed > 0 || total.passed === 0 ? 1 : 0);

function countsOf(name: string, exitCode: number): Counts {
  const log = read(`${name}.log`);
  switch (name) {
    case "nextest":
      return nextest(log);
    case "cargo-test":
      return cargoTest(log);
    case "bun-test":
      return bunTest(log);
    default:
      return exitCode === 0 ? { passed: 1, failed: 0, skipped: 0 } : { passed: 0, failed: 1, skipped: 0 };
  }
}

/** `Summary [ 1.2s] 40 tests run: 38 passed (1 slow), 1 failed, 1 timed out, 3 skipped` */
function nextest(log: string): Counts {
  const summary = log.split("\n").findLast((line) => line.trimStart().startsWith("Summary [")) ?? "";
  const count = (word: string) => Number(new RegExp(`(\\d+) ${word}`).exec(summary)?.[1] ?? 0);
  return {
    passed: count("passed"),
    failed: count("failed") + count("timed out") + count("exec failed"),
    skipped: count("skipped"),
  };
}

/** One line for each test binary: `test result: ok. 12 passed; 0 failed; 1 ignored; …` */
function cargoTest(log: string): Counts {
  const results = [...log.matchAll(/^test result: .*?(\d+) passed; (\d+) failed; (\d+) ignored/gm)];
  return results
    .map(([, passed, failed, skipped]) => ({
      passed: Number(passed),
      failed: Number(failed),
      skipped: Number(skipped),
    }))
    .reduce(add, { passed: 0, failed: 0, skipped: 0 });
}

/** JUnit knows the tests; files that fail to load stand only in bun's own ` 2 errors`. */
function bunTest(log: string): Counts {
  const xml = existsSync(join(directory, "bun-test.xml")) ? read("bun-test.xml") : "";
  const totals = /<testsuites\b[^>]*>/.exec(xml)?.[0] ?? "";
  const count = (attribute: string) => Number(new RegExp(`\\b${attribute}="(\\d+)"`).exec(totals)?.[1] ?? 0);
  const errors = Number([...log.matchAll(/^\s*(\d+) errors?$/gm)].at(-1)?.[1] ?? 0);
  const [tests, failures, skipped] = [count("tests"), count("failures"), count("skipped")];
  return { passed: tests - failures - skipped, failed: failures + errors, skipped };
}

function add(a: Counts, b: Counts): Counts {
  return { passed: a.passed + b.passed, failed: a.failed + b.failed, skipped: a.skipped + b.skipped };
}
