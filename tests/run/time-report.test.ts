import { expect, test } from "bun:test";
import { timeLines } from "../../src/run/time-report.ts";

test("training steps as shares of their time, with their parts; other phases apart", () => {
  const phases = new Map([
    ["evaluation/decode", 900],
    ["evaluation", 1000],
    ["rollout/environment", 10],
    ["rollout/decode", 1500],
    ["rollout", 3000],
    ["update/backward", 700],
    ["update/optimizer", 0],
    ["update", 1000],
    ["checkpoint", 250],
  ]);
  expect(timeLines(phases)).toEqual([
    "Time:",
    "  training steps 4.0 s: rollout 75 % (environment 0 %, decode 38 %), update 25 % (backward 18 %)",
    "  evaluation 1.0 s: decode 90 %",
    "  checkpoint 0.3 s",
  ]);
  expect(timeLines(new Map())).toEqual(["Time:"]);
});
