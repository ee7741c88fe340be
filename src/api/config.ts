/** `new GRPOConfig({ model_name_or_path: …, … })`: checked and complete, or an error that names the option. */
import { type ConfigFile, readConfigFile } from "../config/files.ts";
import { resolveConfig } from "../config/load.ts";
import type { RunConfig, RunConfigInput } from "../config/schema.ts";
import { holdsRun } from "../run/directory.ts";
import { directoryName } from "../tau2/domains/directory.ts";
import { knownDomains } from "../tau2/domains/index.ts";
import { currentHost } from "./host.ts";

class ResolvedConfig {
  constructor(options: RunConfigInput) {
    Object.assign(this, resolved({ where: "GRPOConfig", stem: "default", values: { ...options } }));
    Object.freeze(this);
  }

  /** A config file, or one inside the binary (`quickstart`), with changes. */
  static async load(pathOrName: string, changes: Partial<RunConfigInput> = {}): Promise<RunConfig> {
    const file = await readConfigFile(pathOrName);
    const user = { ...(file.values.user as object | undefined), ...changes.user };
    return resolved({ ...file, values: { ...file.values, ...changes, user } });
  }
}

interface GRPOConfigClass {
  new (options: RunConfigInput): RunConfig;
  load(pathOrName: string, changes?: Partial<RunConfigInput>): Promise<RunConfig>;
}

/** Has the config's fields themselves (`config.learning_rate`), frozen. */
export const GRPOConfig = ResolvedConfig as unknown as GRPOConfigClass;
export type GRPOConfig = RunConfig;

function resolved(file: ConfigFile): RunConfig {
  const { env } = currentHost().edge;
  return resolveConfig({
    command: "train",
    file,
    flags: {},
    env,
    knownDomains: [...knownDomains(), ...namesIn(file.values.domain_dir)],
    isTaken: holdsRun,
  });
}

/** Directories are read when a run opens them; until then a domain is known by its directory's name. */
function namesIn(domain_dir: unknown): string[] {
  return Array.isArray(domain_dir) ? domain_dir.filter((path) => typeof path === "string").map(directoryName) : [];
}
