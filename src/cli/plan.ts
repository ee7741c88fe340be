/** `grpo-cl plan` */
import { availableParallelism, totalmem } from "node:os";
import { type ArgsDef, defineCommand } from "citty";
import { UserError } from "../base/errors.ts";
import { bytesOf, memoryReport } from "../run/memory-report.ts";
import { knownDomains } from "../tau2/domains/index.ts";
import { CONFIG_ARGS, parseRunArguments } from "./arguments.ts";
import type { Host } from "./host.ts";

const ARGS = {
  device_memory: {
    type: "string",
    description: "Plan for a device with this memory (80GiB); by default for this machine's.",
    valueHint: "SIZE",
  },
  conversation_tokens: {
    type: "string",
    description: "The longest conversation; by default what max_context_tokens and the model allow.",
    valueHint: "TOKENS",
  },
  prompt_tokens: {
    type: "string",
    description: "Tokens of policy text and tool schemas, which a domain's conversations share; by default estimated.",
    valueHint: "TOKENS",
  },
  ...CONFIG_ARGS,
} satisfies ArgsDef;

const EXIT_DOES_NOT_FIT = 1;

export const planCommand = (host: Host) =>
  defineCommand({
    meta: {
      name: "plan",
      description:
        "Say what a training would need in memory, and what to change when it does not fit. Reads no weights.",
    },
    args: ARGS,
    run: async ({ rawArgs }) => {
      const given = { command: "train", rawArgs, args: ARGS, knownDomains: knownDomains() } as const;
      const { config, own } = await parseRunArguments(host, given);
      const text = (name: string) => (typeof own[name] === "string" ? own[name] : null);
      const tokens = (name: string) => (text(name) === null ? null : tokensOf(text(name) ?? "", `--${name}`));
      const device = text("device_memory");
      const report = await memoryReport(config, {
        device_memory: device === null ? null : bytesOf(device, "--device_memory"),
        host_memory: machineMemory(),
        processors: availableParallelism(),
        conversation_tokens: tokens("conversation_tokens"),
        prompt_tokens: tokens("prompt_tokens"),
        env: host.env,
      });
      host.print(report.text);
      if (!report.fits) host.fail(EXIT_DOES_NOT_FIT);
    },
  });

/** A container may have less than the machine. */
function machineMemory(): number {
  const limit = process.constrainedMemory?.() ?? 0;
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}

function tokensOf(text: string, where: string): number {
  const tokens = Number(text);
  if (Number.isSafeInteger(tokens) && tokens > 0) return tokens;
  throw new UserError(where, `expected a whole number above 0, got "${text}"`);
}
