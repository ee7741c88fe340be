/** `grpo-cl data check`: which of tau2-bench's files are there, and whether they are the version we reproduce. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type ArgsDef, defineCommand } from "citty";
import { UserError } from "../base/errors.ts";
import { dataRoot } from "../tau2/data-directory.ts";
import { knownDomains } from "../tau2/domains/index.ts";
import { parseOwnFlags } from "./arguments.ts";
import type { Host } from "./host.ts";
import { HOW_TO_GET_TAU2, TAU2_FILES, TAU2_VERSION } from "./tau2-files.ts";

/** Of the commands that look at the data. */
export const DATA_ARGS = {
  tau2_data_dir: {
    type: "string",
    description: "tau2-bench's data directory; by default that of TAU2_DATA_DIR.",
    valueHint: "DIR",
  },
  json: { type: "boolean", description: "Print JSON." },
} satisfies ArgsDef;

export const dataCommand = (host: Host) =>
  defineCommand({
    meta: { name: "data", description: "Look at tau2-bench's data." },
    subCommands: { check: checkCommand(host) },
  });

const checkCommand = ({ env, print, fail }: Host) =>
  defineCommand({
    meta: {
      name: "check",
      description: "Say which of tau2-bench's files are there, with their SHA-256, and how to get what is missing.",
    },
    args: DATA_ARGS,
    run: async ({ rawArgs }) => {
      const { tau2_data_dir, json } = parseOwnFlags(rawArgs, DATA_ARGS);
      const directory = typeof tau2_data_dir === "string" ? tau2_data_dir : (env.TAU2_DATA_DIR ?? null);
      const found = await checkTau2Data(directory);
      print(json === true ? `${JSON.stringify({ directory, files: found })}\n` : report(directory, found));
      if (found.some(({ state, domain }) => state !== "ok" && isUsable(domain))) fail(1);
    },
  });

export interface CheckedFile {
  readonly domain: string;
  readonly path: string;
  readonly state: "ok" | "missing" | "differs";
  readonly sha256: string | null;
}

/** `directory`: a tau2-bench checkout, its data directory, or the tau2 folder inside; null: nothing is there. */
export async function checkTau2Data(directory: string | null): Promise<CheckedFile[]> {
  const root = directory === null ? null : rootOf(directory);
  const files = Object.entries(TAU2_FILES).flatMap(([domain, hashes]) =>
    Object.entries(hashes).map(([path, expected]) => ({ domain, path, expected })),
  );
  return Promise.all(
    files.map(async ({ domain, path, expected }) => {
      const sha256 = root === null ? null : await sha256Of(join(root, path));
      return {
        domain,
        path,
        sha256,
        state: sha256 === null ? "missing" : sha256 === expected ? "ok" : "differs",
      } as const;
    }),
  );
}

/** Where any domain is found; null where none is. */
function rootOf(directory: string): string | null {
  for (const domain of Object.keys(TAU2_FILES)) {
    try {
      return dataRoot(directory, domain);
    } catch (error) {
      if (!(error instanceof UserError)) throw error; // not there: the next one may be
    }
  }
  return null;
}

async function sha256Of(file: string): Promise<string | null> {
  if (!existsSync(file)) return null;
  return new Bun.CryptoHasher("sha256").update(await Bun.file(file).arrayBuffer()).digest("hex");
}

function report(directory: string | null, files: readonly CheckedFile[]): string {
  const tau2Domains = Object.keys(TAU2_FILES);
  const builtIn = knownDomains().filter((name) => !tau2Domains.includes(name));
  const lines = [
    `built in, nothing to get: ${builtIn.join(", ")}`,
    `tau2 data: ${directory ?? "no directory given (--tau2_data_dir, or TAU2_DATA_DIR)"}`,
    `compared with ${TAU2_VERSION}`,
  ];
  for (const domain of tau2Domains) {
    lines.push(
      "",
      `${domain}: ${verdict(
        domain,
        files.filter((file) => file.domain === domain),
      )}`,
    );
    for (const { path, state, sha256 } of files.filter((file) => file.domain === domain)) {
      lines.push(`  ${state.padEnd(8)} ${path}${sha256 === null ? "" : `  sha256 ${sha256}`}`);
    }
  }
  if (files.some(({ state }) => state !== "ok")) lines.push("", `To get the missing files: ${HOW_TO_GET_TAU2}`);
  return `${lines.join("\n")}\n`;
}

function verdict(domain: string, files: readonly CheckedFile[]): string {
  const count = (wanted: CheckedFile["state"]) => files.filter(({ state }) => state === wanted).length;
  const data =
    count("missing") > 0
      ? `${count("missing")} of ${files.length} files are missing`
      : count("differs") > 0
        ? `${count("differs")} of ${files.length} files differ from the reference, so rewards may, too`
        : `complete (${files.length} files)`;
  return isUsable(domain) ? data : `${data}; the domain is not in this release`;
}

const isUsable = (domain: string) => domain === "user_simulator" || knownDomains().includes(domain);
