/** `grpo-cl licenses`: the licences of what is inside the binary. */
import { type ArgsDef, defineCommand } from "citty";
import { parseOwnFlags } from "./arguments.ts";
import type { Host } from "./host.ts";

export interface Licence {
  readonly name: string;
  readonly version: string;
  /** SPDX expression as the package states it. */
  readonly licence: string;
  readonly from: "npm" | "crate" | "runtime" | "own";
  /** The licence's own words, where the package brings them. */
  readonly text: string | null;
}

const ARGS = {
  text: { type: "boolean", description: "Print the full texts, too." },
  json: { type: "boolean", description: "Print JSON." },
} satisfies ArgsDef;

export const licensesCommand = ({ print, assets }: Host) =>
  defineCommand({
    meta: { name: "licenses", description: "Print the licences of what is inside this program." },
    args: ARGS,
    run: async ({ rawArgs }) => {
      const own = parseOwnFlags(rawArgs, ARGS);
      const licences = await assets.licences();
      print(own.json === true ? `${JSON.stringify(licences)}\n` : listing(licences, own.text === true));
    },
  });

function listing(licences: readonly Licence[], withTexts: boolean): string {
  const lines = licences.map(
    ({ name, version, licence, from }) => `${`${name} ${version}`.padEnd(44)} ${licence} (${from})`,
  );
  const texts = licences.flatMap(({ name, version, text }) =>
    text === null ? [] : [`\n${"=".repeat(80)}\n${name} ${version}\n${"=".repeat(80)}\n${text.trim()}`],
  );
  return `${[...lines, ...(withTexts ? texts : ["", "grpo-cl licenses --text prints the full texts."])].join("\n")}\n`;
}
