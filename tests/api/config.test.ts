/** GRPOConfig is the run's config: checked, complete, frozen. */
import { expect, test } from "bun:test";
import { GRPOConfig, GRPOTrainer, UserError } from "../../src/api/index.ts";

const MINIMAL = { model_name_or_path: "m", task_order: ["phone"] };

test("fields have the config's defaults, and cannot be changed", () => {
  const config = new GRPOConfig({ ...MINIMAL, kl_coef: 0.2, user: { kind: "local" } });
  expect(config).toMatchObject({ kl_coef: 0.2, learning_rate: 1e-6, user: { kind: "local", max_retries: 5 } });
  expect(() => Object.assign(config, { kl_coef: 0 })).toThrow();
  expect(JSON.parse(JSON.stringify(config))).toEqual({ ...config });
});

test("the trainer takes a config or its options", () => {
  const config = new GRPOConfig(MINIMAL);
  expect(new GRPOTrainer(config).config).toEqual(config);
  expect(new GRPOTrainer(MINIMAL).config).toEqual(config);
});

test("embedded configs, with changes", async () => {
  const config = await GRPOConfig.load("quickstart", { seed: 5, user: { temperature: 0.5 } });
  expect(config).toMatchObject({ seed: 5, log_dir: "runs/quickstart", user: { temperature: 0.5, kind: "auto" } });
});

test.each([
  [{ ...MINIMAL, kl_cof: 1 }, "GRPOConfig: kl_cof: unknown option (did you mean kl_coef?)"],
  [{ ...MINIMAL, seed: "1" }, 'GRPOConfig: seed: expected a whole number ≥ 0, got "1"'],
  [{ ...MINIMAL, top_p: 0.5 }, "GRPOConfig: top_p: must be off in training"],
  [{ task_order: ["phone"] }, "GRPOConfig: model_name_or_path: is required"],
] as const)("%j is refused", (options, sentence) => {
  expect(() => new GRPOConfig(options as never)).toThrow(UserError);
  expect(() => new GRPOConfig(options as never)).toThrow(sentence);
});
