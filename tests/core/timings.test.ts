/** Where the core says that its time went. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CORE_PHASES } from "../../src/core/policy.ts";
import { ADAMW, MODELS, openModel, request } from "./opened.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-timings-"));
afterAll(() => rmSync(root, { recursive: true }));

test.skipIf(MODELS.length === 0)("every phase takes time where it happens, and is told once", async () => {
  using policy = await openModel(MODELS[0] ?? "");
  await policy.timings();
  const batch = {
    tokens_N: Uint32Array.of(1, 2, 3, 4),
    offsets: Uint32Array.of(0, 4),
    weights_N: Float32Array.of(0, 1, 1, 1),
    advantages_N: new Float32Array(4),
    old_logprobs_N: new Float32Array(4),
  };
  const began = performance.now();
  await policy.sample(request({ tokens: Uint32Array.from({ length: 300 }, (_, t) => t) }));
  await policy.forwardBackward(batch, { kind: "nll", temperature: 1 });
  await policy.optimizerStep(ADAMW);
  await policy.save(join(root, "model"));
  const told = await policy.timings();
  const elapsed = performance.now() - began;
  for (const phase of CORE_PHASES) expect(told[phase], phase).toBeGreaterThan(0);
  expect(Object.values(told).reduce((sum, ms) => sum + ms, 0)).toBeLessThanOrEqual(elapsed);
  expect(Object.values(await policy.timings())).toEqual(CORE_PHASES.map(() => 0));
});
