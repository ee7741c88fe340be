import { expect, test } from "bun:test";
import { PhaseTimes } from "../../src/rollout/phase-times.ts";

test("work adds up; of waits that overlap a moment counts once; what is taken is gone", async () => {
  let clock = 0;
  const times = new PhaseTimes(() => clock);
  expect(
    times.measure("environment", () => {
      clock += 3;
      return "done";
    }),
  ).toBe("done");
  const [first, second] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const waits = [times.waiting("user", () => first.promise)];
  clock += 10;
  waits.push(times.waiting("user", () => second.promise));
  clock += 10;
  first.resolve();
  await waits[0];
  clock += 5;
  expect(times.take()).toEqual({ environment: 3 }); // the user is still awaited
  second.reject(new Error("no answer"));
  await expect(waits[1] as Promise<void>).rejects.toThrow("no answer");
  clock += 100;
  times.measure("environment", () => {
    clock += 1;
  });
  expect(times.take()).toEqual({ user: 25, environment: 1 });
  expect(times.take()).toEqual({});
});
