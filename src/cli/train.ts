/** `grpo-cl train` */
import { type ArgsDef, defineCommand } from "citty";
import { openSession } from "../run/open-session.ts";
import { planText } from "../run/plan.ts";
import { train } from "../run/train.ts";
import { knownDomains } from "../tau2/domains/index.ts";
import { CONFIG_ARGS, parseRunArguments } from "./arguments.ts";
import { edgeOf } from "./console.ts";
import type { Host } from "./host.ts";

const ARGS = {
  dry_run: { type: "boolean", description: "Print the resolved config and what the run would do, then stop." },
  ...CONFIG_ARGS,
} satisfies ArgsDef;

export const trainCommand = (host: Host) =>
  defineCommand({
    meta: { name: "train", description: "Train a model on one domain after the other, evaluating all of them." },
    args: ARGS,
    run: async ({ rawArgs }) => {
      const given = { command: "train", rawArgs, args: ARGS, knownDomains: knownDomains() } as const;
      const { config, own } = await parseRunArguments(host, given);
      const edge = edgeOf(host);
      if (own.dry_run === true) return host.print(await planText(config, edge));
      const session = await openSession(config, { edge, library: host.assets.coreLibrary, purpose: "train" });
      using _core = session.policy;
      await train(config, session);
    },
  });
