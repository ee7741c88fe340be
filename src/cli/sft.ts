/** `grpo-cl sft` */
import { type ArgsDef, defineCommand } from "citty";
import { sft } from "../run/sft.ts";
import { knownDomains } from "../tau2/domains/index.ts";
import { CONFIG_ARGS, parseRunArguments } from "./arguments.ts";
import { edgeOf } from "./console.ts";
import type { Host } from "./host.ts";

const ARGS = { ...CONFIG_ARGS } satisfies ArgsDef;

export const sftCommand = (host: Host) =>
  defineCommand({
    meta: {
      name: "sft",
      description: "Warm-start a model on recorded conversations: --data FILE …, --min_reward, --sft_epochs …",
    },
    args: ARGS,
    run: async ({ rawArgs }) => {
      const given = { command: "sft", rawArgs, args: ARGS, knownDomains: knownDomains() } as const;
      const { config } = await parseRunArguments(host, given);
      await sft(config, { edge: edgeOf(host), library: host.assets.coreLibrary });
    },
  });
