import { describe, expect, test } from "bun:test";
import { Rng } from "../../src/base/rng.ts";
import { Curriculum, type CurriculumOptions } from "../../src/curriculum/curriculum.ts";
import { experiencesOf } from "../../src/curriculum/experience.ts";
import { type SplitOptions, splitDomain, tasksOfSplit } from "../../src/curriculum/split.ts";
import type { Domain, RewardType, Task } from "../../src/tau2/types.ts";
import { lampDomain } from "../support/lamp-domain.ts";

const LAMPS = [..."ABCDEFGHIJ"];
const options = {
  train_split: 0.8,
  max_tasks_per_domain: null,
  eval_max_tasks: null,
  noop_tasks: "keep",
  nl_assertions: "exclude",
  solvedByNothing: () => false,
} as const;
const withSplits = (splits: Domain["splits"]): Domain => ({ ...lampDomain({ lamps: LAMPS }), splits });
const ids = (tasks: readonly { readonly id: string }[]) => tasks.map(({ id }) => id).join("");

test("experiences know the other domains trained before them; repeats are allowed", () => {
  const experiences = experiencesOf({ task_order: ["a", "b", "a", "c"], num_steps_per_task: 5 });
  expect(experiences.map(({ domain, earlier, steps }) => `${domain} after ${earlier.join("+")} ${steps}`)).toEqual([
    "a after  5",
    "b after a 5",
    "a after b 5",
    "c after a+b 5",
  ]);
});

interface SplitCase {
  readonly name: string;
  readonly splits: Domain["splits"];
  readonly change?: Partial<SplitOptions>;
  readonly train: string;
  readonly test: string;
  readonly contaminated: boolean;
}

describe("splitDomain", () => {
  test.each<SplitCase>([
    {
      name: "a domain's own splits, in the order of its tasks",
      splits: { train: ["C", "A"], test: ["J", "I"] },
      train: "AC",
      test: "IJ",
      contaminated: false,
    },
    {
      name: "no splits: the first 80 % are trained on",
      splits: {},
      train: "ABCDEFGH",
      test: "IJ",
      contaminated: false,
    },
    {
      name: "no splits and train_split 1",
      splits: {},
      change: { train_split: 1 },
      train: "ABCDEFGHIJ",
      test: "ABCDEFGHIJ",
      contaminated: true,
    },
    {
      name: "no test split: evaluation on trained tasks",
      splits: { train: ["A", "B"] },
      train: "AB",
      test: "AB",
      contaminated: true,
    },
    {
      name: "overlapping splits",
      splits: { train: ["A", "B"], test: ["B", "C"] },
      train: "AB",
      test: "BC",
      contaminated: true,
    },
    {
      name: "max_tasks_per_domain limits training only",
      splits: { train: ["A", "B", "C"], test: ["D", "E", "F"] },
      change: { max_tasks_per_domain: 2 },
      train: "AB",
      test: "DEF",
      contaminated: false,
    },
    {
      name: "eval_max_tasks limits evaluation only",
      splits: { train: ["A", "B"], test: ["D", "E", "F"] },
      change: { eval_max_tasks: 1 },
      train: "AB",
      test: "D",
      contaminated: false,
    },
    {
      name: "noop tasks stay in evaluation",
      splits: { train: ["A", "B", "C"], test: ["A", "D"] },
      change: { noop_tasks: "drop_from_train" },
      train: "BC",
      test: "AD",
      contaminated: false,
    },
  ])("$name", ({ splits, change = {}, train, test, contaminated }) => {
    const split = splitDomain(withSplits(splits), {
      ...options,
      solvedByNothing: (_, { id }) => id === "A",
      ...change,
    });
    expect({ train: ids(split.train), test: ids(split.test), contaminated: split.contaminated }).toEqual({
      train,
      test,
      contaminated,
    });
  });

  test("a split by name: the domain's own, in the order of its tasks, or all", () => {
    const domain = withSplits({ train: ["A"], test: [], small: ["C", "B"] });
    expect(ids(tasksOfSplit(domain, "small"))).toBe("BC");
    expect(ids(tasksOfSplit(domain, "all"))).toBe("ABCDEFGHIJ");
    expect(() => tasksOfSplit(domain, "full")).toThrow(
      `--split: ${domain.name} has no split "full"; known are train, test, small, all`,
    );
  });

  describe("natural-language assertions", () => {
    const basis = (reward_basis: readonly RewardType[], nl_assertions: readonly string[]) => (task: Task) => ({
      ...task,
      evaluation_criteria: { ...task.evaluation_criteria!, reward_basis, nl_assertions },
    });
    const changes: Readonly<Record<string, (task: Task) => Task>> = {
      A: basis(["DB", "NL_ASSERTION"], ["polite"]),
      B: basis(["NL_ASSERTION"], ["polite"]),
      C: basis(["DB", "NL_ASSERTION"], []), // nothing to judge
      I: basis(["DB", "NL_ASSERTION"], ["polite"]),
    };
    const plain = withSplits({});
    const domain = { ...plain, tasks: plain.tasks.map((task) => changes[task.id]?.(task) ?? task) };

    test.each([
      { nl_assertions: "exclude", train: "CDEFGH", test: "J", excluded: { train: ["A", "B"], test: ["I"] } },
      { nl_assertions: "drop", train: "ACDEFGH", test: "IJ", excluded: { train: ["B"], test: [] } },
      { nl_assertions: "judge", train: "ABCDEFGH", test: "IJ", excluded: { train: [], test: [] } },
    ] as const)("$nl_assertions", ({ nl_assertions, train, test, excluded }) => {
      const split = splitDomain(domain, { ...options, nl_assertions });
      expect({ ...split, train: ids(split.train), test: ids(split.test) }).toMatchObject({
        nl_assertions,
        train,
        test,
        excluded,
      });
    });

    test("drop strikes them from the reward and leaves the rest", () => {
      const { train } = splitDomain(domain, { ...options, nl_assertions: "drop" });
      const bases = train.slice(0, 2).map(({ evaluation_criteria }) => evaluation_criteria?.reward_basis);
      expect(bases).toEqual([["DB"], ["DB"]]);
    });

    test("a domain of nothing else is refused", () => {
      const tasks = plain.tasks.map(basis(["NL_ASSERTION"], ["polite"]));
      expect(() => splitDomain({ ...plain, tasks }, options)).toThrow("Set nl_assertions to judge, and judge.model");
    });
  });

  test("a domain without anything to train on is refused, with the reason", () => {
    const dropAll: SplitOptions = { ...options, noop_tasks: "drop_from_train", solvedByNothing: () => true };
    expect(() => splitDomain(withSplits({}), dropAll)).toThrow(
      "task_order: lamps: every training task is solved by doing nothing",
    );
    expect(() => splitDomain(withSplits({ test: ["A"] }), options)).toThrow("it has no training tasks");
  });
});

describe("Curriculum", () => {
  const make = (fields: Partial<CurriculumOptions> = {}) =>
    new Curriculum({
      ...options,
      task_order: ["lamps"],
      num_steps_per_task: 1,
      domains: [withSplits({})],
      rng: Rng.from(1),
      ...fields,
    });
  const drawn = (curriculum: Curriculum, count: number): string => {
    const [experience] = curriculum.experiences;
    const planned = curriculum.next(experience!.domain, count);
    return ids(curriculum.take(planned).map(({ task }) => task));
  };

  test("every epoch holds each task once, in an order of its own", () => {
    const curriculum = make();
    const [first, second] = [drawn(curriculum, 8), drawn(curriculum, 8)];
    for (const epoch of [first, second]) expect([...epoch].toSorted().join("")).toBe("ABCDEFGH");
    expect(first).not.toBe(second);
    expect(drawn(make(), 8)).toBe(first);
    expect(drawn(make({ rng: Rng.from(2) }), 8)).not.toBe(first);
  });

  test("goes on where its state says, also within an epoch", () => {
    const whole = make();
    const expected = [drawn(whole, 3), drawn(whole, 7), drawn(whole, 3)];
    const before = make();
    drawn(before, 3);
    const after = make();
    after.restore(JSON.parse(JSON.stringify(before.state())));
    expect([drawn(after, 7), drawn(after, 3)]).toEqual(expected.slice(1));
  });

  test("tasks that replay displaced stay next", () => {
    const curriculum = make();
    const [experience] = curriculum.experiences;
    const offered = curriculum.next(experience!.domain, 4);
    curriculum.take(offered.slice(0, 3));
    expect(curriculum.next(experience!.domain, 1)).toEqual(offered.slice(3));
  });

  test("a plan with an evaluation task is refused", () => {
    const curriculum = make();
    const plan = [{ domain: "lamps", task_id: "J", replayed: false }];
    expect(() => curriculum.take(plan)).toThrow("J is no training task of lamps");
  });
});
