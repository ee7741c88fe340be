/** scripts/test's last line: what is counted, and that nothing that failed is forgotten. */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const SCRIPT = resolve(import.meta.dir, "../../scripts/count-tests.ts");

type Step = readonly [name: string, exitCode: number, log: string];

function counted(steps: readonly Step[], junit?: string) {
  const directory = mkdtempSync(join(tmpdir(), "count-tests-"));
  for (const [name, exitCode, log] of steps) {
    writeFileSync(join(directory, `${name}.rc`), `${exitCode}\n`);
    writeFileSync(join(directory, `${name}.log`), log);
  }
  if (junit !== undefined) writeFileSync(join(directory, "bun-test.xml"), junit);
  const { stdout, exitCode } = Bun.spawnSync([process.execPath, SCRIPT, directory], { timeout: 20_000 });
  rmSync(directory, { recursive: true });
  return [stdout.toString().trimEnd().split("\n").at(-1), exitCode];
}

const NEXTEST =
  "────\n     Summary [   1.234s] 12 tests run: 11 passed (2 slow), 1 failed, 3 skipped\n        FAIL x\n";
const CARGO =
  "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured\ntest result: FAILED. 2 passed; 3 failed; 0 ignored;\n";
const junit = (tests: number, failures: number, skipped: number) =>
  `<?xml version="1.0"?>\n<testsuites name="bun test" tests="${tests}" assertions="9" failures="${failures}" skipped="${skipped}" time="1">`;

test.each<readonly [Step[], string | undefined, string, number]>([
  [[["check-types", 0, ""]], undefined, "1 passed, 0 failed", 0],
  [[["check-types", 2, "error TS1"]], undefined, "0 passed, 1 failed", 1],
  [[["nextest", 100, NEXTEST]], undefined, "11 passed, 1 failed, 3 skipped", 1],
  [[["nextest", 101, "error: could not compile"]], undefined, "0 passed, 1 failed", 1],
  [[["cargo-test", 101, CARGO]], undefined, "7 passed, 3 failed, 1 skipped", 1],
  [[["bun-test", 0, " 5 pass\n"]], junit(6, 0, 1), "5 passed, 0 failed, 1 skipped", 0],
  [[["bun-test", 1, " 4 pass\n 2 fail\n 1 error\n"]], junit(5, 1, 0), "4 passed, 2 failed", 1],
  [[["bun-test", 139, "crashed"]], undefined, "0 passed, 1 failed", 1],
  [[["bun-test", 1, " 5 pass\n"]], junit(5, 0, 0), "5 passed, 1 failed", 1],
  [
    [
      ["check-types", 0, ""],
      ["nextest", 0, "Summary [ 0.1s] 2 tests run: 2 passed, 0 skipped"],
    ],
    undefined,
    "3 passed, 0 failed",
    0,
  ],
])("%j", (steps, xml, line, exitCode) => {
  expect(counted(steps, xml)).toEqual([line, exitCode]);
});
