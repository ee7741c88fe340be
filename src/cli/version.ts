/** `grpo-cl version` */
import { type ArgsDef, defineCommand } from "citty";
import { name, version } from "../../package.json";
import { parseOwnFlags } from "./arguments.ts";
import type { Host } from "./host.ts";

export const VERSION: string = version;

export const versionCommand = ({ print }: Host) =>
  defineCommand({
    meta: { name: "version", description: "Print the version." },
    run: ({ rawArgs }) => {
      parseOwnFlags(rawArgs, {} satisfies ArgsDef);
      print(`${name} ${version} (Bun ${Bun.version}, ${process.platform}-${process.arch})\n`);
    },
  });
