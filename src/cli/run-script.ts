/** `grpo-cl run my.ts`: runs a script whose `import … from "grpo-cl"` is this very program. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { type ArgsDef, defineCommand } from "citty";
import { UserError } from "../base/errors.ts";
import type { Host } from "./host.ts";

const ARGS = {
  script: { type: "positional", description: "A TypeScript or JavaScript file.", required: false },
} satisfies ArgsDef;

export const runScriptCommand = ({ setArguments }: Host) =>
  defineCommand({
    meta: { name: "run", description: 'Run a script that says `import { GRPOTrainer } from "grpo-cl"`.' },
    args: ARGS,
    run: async ({ rawArgs: [script, ...rest] }) => {
      if (script === undefined || script.startsWith("-"))
        throw new UserError("grpo-cl run", "needs a script: grpo-cl run my.ts");
      if (!existsSync(script)) throw new UserError(`grpo-cl run ${script}`, "no such file");
      const path = resolve(script);
      setArguments([path, ...rest]);
      await import(pathToFileURL(path).href);
    },
  });
