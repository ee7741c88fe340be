/** EWC and its kin, SI, MAS, LwF, O-LoRA: which operations they ask for, and when. */
import { describe, expect, test } from "bun:test";
import { ewc } from "../../src/cl/ewc.ts";
import { ewcPp } from "../../src/cl/ewc-pp.ts";
import { lwf } from "../../src/cl/lwf.ts";
import { mas } from "../../src/cl/mas.ts";
import type { MethodOp } from "../../src/cl/method.ts";
import { oLora } from "../../src/cl/o-lora.ts";
import { onlineEwc } from "../../src/cl/online-ewc.ts";
import { si } from "../../src/cl/si.ts";
import { at, drive, FIRST, SECOND, THIRD } from "../support/plans.ts";

const importanceOf = (domain: string, tasks_max: number, into = "ewc_fisher"): MethodOp => ({
  op: "importance",
  of: "log_probability",
  into,
  domains: [domain],
  tasks_max,
});
const penalty = (strength: number, name = "ewc"): MethodOp => ({
  op: "add_quadratic_penalty",
  importance: `${name}_importance`,
  anchor: `${name}_anchor`,
  strength,
});

describe("ewc", () => {
  const method = ewc({ ewc_lambda: 4, fisher_tasks: 7 });

  test("keeps one quadratic and a constant for all experiences", () => {
    expect(drive(method.beforeUpdate(at(FIRST)))).toEqual({ ops: [], returned: undefined });
    const consolidated = (value: number) => (op: MethodOp) => (op.op === "importance" ? { value } : {});
    expect(drive(method.afterExperience(at(FIRST)), consolidated(0)).ops).toEqual([
      { ...importanceOf("a", 7, "ewc_importance"), anchor: "ewc_anchor" } as MethodOp,
    ]);
    drive(method.afterExperience(at(SECOND)), consolidated(3));
    drive(method.afterExperience(at(THIRD)), consolidated(2));
    const measured = drive(method.beforeUpdate(at(THIRD)), () => ({ value: 10 }));
    expect(measured).toEqual({ ops: [penalty(4)], returned: 10 + (4 / 2) * 5 });
  });

  test("its state survives", () => {
    const other = ewc({ ewc_lambda: 4, fisher_tasks: 7 });
    other.restore(JSON.parse(JSON.stringify(method.state())));
    expect(drive(other.beforeUpdate(at(THIRD)))).toEqual(drive(method.beforeUpdate(at(THIRD))));
  });
});

test("online_ewc lets the old Fisher fade and has one anchor", () => {
  const method = onlineEwc({ ewc_lambda: 1, ewc_gamma: 0.8, fisher_tasks: 5 });
  const combined = (one: typeof FIRST) => drive(method.afterExperience(at(one))).ops[1];
  const fresh = { vector: "ewc_fisher", factor: 1 };
  expect(combined(FIRST)).toEqual({ op: "combine", into: "ewc_importance", terms: [fresh] });
  const faded = { vector: "ewc_importance", factor: 0.8 };
  expect(combined(SECOND)).toEqual({ op: "combine", into: "ewc_importance", terms: [faded, fresh] });
  expect(drive(method.beforeUpdate(at(SECOND))).ops).toEqual([penalty(1)]);
});

test("ewc_pp measures every few steps and freezes a copy", () => {
  const method = ewcPp({ ewc_lambda: 2, ewc_pp_decay: 0.9, ewc_pp_interval: 10, ewc_pp_tasks: 4 });
  const measuredAt = Array.from({ length: 25 }, (_, step) => step).filter(
    (step) => drive(method.afterStep(at(FIRST, { step }))).ops.length > 0,
  );
  expect(measuredAt).toEqual([9, 19]);
  const { ops } = drive(method.afterStep(at(FIRST, { step: 29 })));
  expect(ops.slice(0, 2)).toEqual([
    importanceOf("a", 4, "ewc_pp_fisher"),
    {
      op: "combine",
      into: "ewc_pp_running",
      terms: [
        { vector: "ewc_pp_running", factor: 0.9 },
        { vector: "ewc_pp_fisher", factor: 1 - 0.9 },
      ],
    },
  ]);
  expect(drive(method.beforeUpdate(at(FIRST))).ops).toEqual([]);
  drive(method.afterExperience(at(FIRST)));
  expect(drive(method.beforeUpdate(at(SECOND))).ops).toEqual([penalty(2)]);
});

test("si follows the way of every step that moved the weights", () => {
  const method = si({ si_lambda: 3, si_damping: 0.1 });
  expect(drive(method.afterStep(at(FIRST, { updated: false }))).ops).toEqual([]);
  expect(drive(method.afterStep(at(FIRST))).ops.at(-1)).toEqual({
    op: "add_product",
    into: "si_path",
    a: "si_gradient",
    b: "si_move",
    factor: -1,
  });
  const { ops } = drive(method.beforeUpdate(at(SECOND)));
  // The gradient is copied before the penalty joins it.
  expect(ops.map(({ op }) => op)).toEqual(["combine", "combine", "add_quadratic_penalty"]);
  expect(ops[2]).toEqual(penalty(3, "si"));
});

test("mas sums importances of outputs", () => {
  const method = mas({ mas_lambda: 5, fisher_tasks: 3 });
  const { ops } = drive(method.afterExperience(at(SECOND)));
  expect(ops[0]).toEqual({ op: "importance", of: "output_norm", into: "mas_fresh", domains: ["b"], tasks_max: 3 });
  expect(ops[1]).toMatchObject({ terms: [{ vector: "mas_importance" }, { vector: "mas_fresh" }] });
});

test("lwf distills from the policy at the end of the experience before", () => {
  const method = lwf({ lwf_alpha: 0.7 });
  expect(drive(method.beforeUpdate(at(FIRST))).ops).toEqual([]);
  expect(drive(method.afterExperience(at(FIRST))).ops).toEqual([{ op: "snapshot", name: "lwf_previous" }]);
  expect(drive(method.beforeUpdate(at(SECOND)), () => ({ value: 0.2 }))).toEqual({
    ops: [{ op: "backward", loss: { kind: "distill", model: "lwf_previous" }, strength: 0.7 }],
    returned: 0.2,
  });
});

test("o_lora: an adapter for every experience, orthogonal to those before", () => {
  const method = oLora({ lora_r: 4, lora_alpha: 8, lora_target_modules: ["q_proj"], o_lora_lambda: 0.5 });
  const [adapter] = drive(method.beforeExperience(at(SECOND))).ops;
  expect(adapter).toMatchObject({ op: "add_adapter", name: "task_1", rank: 4, alpha: 8, gates: false });
  expect(drive(method.beforeUpdate(at(FIRST))).ops).toEqual([]);
  expect(drive(method.beforeUpdate(at(SECOND)), () => ({ value: 3 }))).toEqual({
    ops: [{ op: "add_orthogonal_penalty", strength: 0.5 }],
    returned: 1.5,
  });
});
