/** Many rollouts at once share their domain's data: each holds only what it changed. Measured in a process of its own. */
import { describe, expect, test } from "bun:test";
import { resolve } from "node:path";
import { dataDomains } from "../../src/tau2/domains/index.ts";
import { dataDirectory, hasFixtures, WITHOUT_FIXTURES } from "./fixtures.ts";

const SCRIPT = resolve(import.meta.dir, "../support/rollout-memory.ts");
const ROLLOUTS = 256;
/** Where this was written 2 to 13; a copy of the airline's data for each would be gigabytes. */
const LIMIT_MIB = 200;
const TIME_LIMIT_MS = 60_000;

describe.skipIf(!hasFixtures)(`memory ${hasFixtures ? "" : WITHOUT_FIXTURES}`, () => {
  test.each(dataDomains())(
    `%s: ${ROLLOUTS} environments after their golden runs take less than ${LIMIT_MIB} MiB beyond the data`,
    async (domain) => {
      const child = Bun.spawn([process.execPath, SCRIPT, domain, dataDirectory, String(ROLLOUTS)], {
        stdout: "pipe",
        stderr: "inherit",
        timeout: TIME_LIMIT_MS,
      });
      const { environments, heap_mib, resident_mib } = JSON.parse(await new Response(child.stdout).text());
      expect(environments).toBe(ROLLOUTS);
      expect(heap_mib).toBeLessThan(LIMIT_MIB);
      expect(resident_mib).toBeLessThan(LIMIT_MIB);
    },
    TIME_LIMIT_MS,
  );
});
