/** `grpo-cl data check`: which of tau2-bench's files are there, whether they are the version we reproduce, and what is in them. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type ArgsDef, defineCommand } from "citty";
import { UserError } from "../base/errors.ts";
import { dataRoot } from "../tau2/data-directory.ts";
import { customDomains, dataDomains, knownDomains } from "../tau2/domains/index.ts";
import { parseDomainFlags } from "./arguments.ts";
import { type CheckedDomain, checkDomain, domainLines } from "./data-domain.ts";
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

export const DOMAIN_DIR_ARG = {
  domain_dir: {
    type: "string",
    description: "A domain of your own: a directory with policy.md, db.json, tasks.json and tools.ts. May be repeated.",
    valueHint: "DIR",
  },
} satisfies ArgsDef;

const CHECK_ARGS = { ...DATA_ARGS, ...DOMAIN_DIR_ARG } satisfies ArgsDef;

export const dataCommand = (host: Host) =>
  defineCommand({
    meta: { name: "data", description: "Look at tau2-bench's data." },
    subCommands: { check: checkCommand(host) },
  });

const checkCommand = ({ env, print, fail }: Host) =>
  defineCommand({
    meta: {
      name: "check",
      description:
        "Say which of tau2-bench's files are there, with their SHA-256, what tasks they hold, and how to get what is missing.",
    },
    args: CHECK_ARGS,
    run: async ({ rawArgs }) => {
      const { own, registered } = await parseDomainFlags(rawArgs, CHECK_ARGS);
      const { tau2_data_dir, json } = own;
      const directory = typeof tau2_data_dir === "string" ? tau2_data_dir : (env.TAU2_DATA_DIR ?? null);
      const files = await checkTau2Data(directory);
      const data: CheckedData = {
        directory,
        version: versionOf(directory, files),
        files,
        domains: [
          ...(directory === null ? [] : dataDomains().map((name) => checkDomain(name, directory))),
          ...registered.map((name) => checkDomain(name, directory)),
        ],
      };
      print(json === true ? `${JSON.stringify(data)}\n` : report(data));
      if (lacksData(data) || data.domains.some(({ problem }) => problem !== null)) fail(1);
    },
  });

/** Whoever looks at domains of his own alone need not have tau2's data. */
function lacksData({ directory, files }: CheckedData): boolean {
  return (directory !== null || customDomains().length === 0) && files.some(({ state }) => state !== "ok");
}

interface CheckedData {
  readonly directory: string | null;
  readonly version: string;
  readonly files: readonly CheckedFile[];
  readonly domains: readonly CheckedDomain[];
}

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

/** As far as it can be told: the files' hashes say whether it is the reference, a checkout names its own. */
function versionOf(directory: string | null, files: readonly CheckedFile[]): string {
  if (files.every(({ state }) => state === "ok")) return TAU2_VERSION;
  const root = directory === null ? null : rootOf(directory);
  const project = root === null ? null : join(root, "..", "..", "pyproject.toml");
  const named = project !== null && existsSync(project) ? readFileSync(project, "utf8") : "";
  const version = /^version *= *"([^"]+)"/m.exec(named)?.[1];
  return `${version === undefined ? "unknown" : `tau2-bench ${version}`}, not wholly ${TAU2_VERSION}`;
}

function report(data: CheckedData): string {
  const { directory, version, files, domains } = data;
  const builtIn = knownDomains().filter((name) => ![...dataDomains(), ...customDomains()].includes(name));
  const lines = [
    `built in, nothing to get: ${builtIn.join(", ")}`,
    `tau2 data: ${directory ?? "no directory given (--tau2_data_dir, or TAU2_DATA_DIR)"}`,
    `version: ${version}`,
  ];
  for (const folder of Object.keys(TAU2_FILES)) {
    const own = files.filter(({ domain }) => domain === folder);
    lines.push("", `${folder}: ${verdict(own)}`);
    for (const { path, state, sha256 } of own)
      lines.push(`  ${state.padEnd(8)} ${path}${sha256 === null ? "" : `  sha256 ${sha256}`}`);
  }
  if (domains.length > 0) lines.push("", "tasks");
  for (const domain of domains) lines.push(...domainLines(domain).map((line) => `  ${line}`));
  if (lacksData(data)) lines.push("", `To get the missing files: ${HOW_TO_GET_TAU2}`);
  return `${lines.join("\n")}\n`;
}

function verdict(files: readonly CheckedFile[]): string {
  const count = (wanted: CheckedFile["state"]) => files.filter(({ state }) => state === wanted).length;
  if (count("missing") > 0) return `${count("missing")} of ${files.length} files are missing`;
  if (count("differs") > 0)
    return `${count("differs")} of ${files.length} files differ from the reference, so rewards may, too`;
  return `complete (${files.length} files)`;
}
