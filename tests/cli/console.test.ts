/** The console: plain lines in a pipe, one rewritten line with the time left on a terminal. */
import { describe, expect, test } from "bun:test";
import { duration, runConsole } from "../../src/cli/console.ts";

function recorded({ terminal }: { readonly terminal: boolean }) {
  const written: string[] = [];
  let ms = 0;
  const reporter = runConsole({
    print: (text) => written.push(`out ${text}`),
    note: (text) => written.push(`err ${text}`),
    terminal,
    now: () => ms,
  });
  return { written, reporter, advance: (by: number) => (ms += by) };
}

test("in a pipe: lines only, without control characters", () => {
  const { written, reporter, advance } = recorded({ terminal: false });
  for (let done = 1; done <= 3; done++) {
    advance(1000);
    reporter.progress({ label: "rollouts", done, total: 3 });
  }
  reporter.line("Task 0, Step 0");
  expect(written).toEqual(["out Task 0, Step 0\n"]);
});

describe("on a terminal", () => {
  test("progress is rewritten, at most ten times a second, and gone before the next line", () => {
    const { written, reporter, advance } = recorded({ terminal: true });
    reporter.progress({ label: "rollouts", done: 1, total: 4 });
    advance(10);
    reporter.progress({ label: "rollouts", done: 2, total: 4 }); // too soon
    advance(1990);
    reporter.progress({ label: "rollouts", done: 2, total: 4 });
    reporter.line("Task 0, Step 0");
    expect(written).toEqual([
      "err \r\u001b[2Krollouts 1/4",
      "err \r\u001b[2Krollouts 2/4, 2s left",
      "err \r\u001b[2K",
      "out Task 0, Step 0\n",
    ]);
  });

  test("the last one removes the line", () => {
    const { written, reporter, advance } = recorded({ terminal: true });
    reporter.progress({ label: "rollouts", done: 1, total: 2 });
    advance(1);
    reporter.progress({ label: "rollouts", done: 2, total: 2 });
    expect(written.at(-1)).toBe("err \r\u001b[2K");
  });
});

test.each([
  [400, "0s"],
  [80_000, "1m 20s"],
  [3_600_000, "1h 0m"],
] as const)("%d ms is %s", (ms, text) => {
  expect(duration(ms)).toBe(text);
});
