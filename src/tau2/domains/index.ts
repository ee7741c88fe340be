/** All domains by name: tau2's, read from its data files, and the built-in ones. */
import { UserError } from "../../base/errors.ts";
import { dataRoot } from "../data-directory.ts";
import type { DataDomainOptions } from "../domain.ts";
import type { Domain } from "../types.ts";
import { airline } from "./airline/index.ts";
import { type CustomDomainOptions, customDomain, type DomainSource, type PartName } from "./custom.ts";
import { mock } from "./mock/index.ts";
import { quickstartDomains } from "./quickstart/index.ts";
import { retail } from "./retail/index.ts";
import { telecom, telecomWorkflow } from "./telecom/index.ts";

export interface DomainOptions {
  /** A tau2-bench checkout, its data directory, or the tau2 folder inside; null: only built-in domains can be loaded. */
  readonly tau2_data_dir: string | null;
  /** Fraction of tasks to train on where a domain has no split file. */
  readonly train_split: number;
  /** The agent works alone, with the user's tools in its hands. Default: false. */
  readonly solo_mode?: boolean;
}

const FROM_DATA: Readonly<Record<string, (options: DataDomainOptions) => Domain>> = {
  airline,
  retail,
  telecom,
  "telecom-workflow": telecomWorkflow,
  mock,
};

/** Where a domain reads another one's data. */
const DATA_FOLDERS: Readonly<Record<string, string>> = { "telecom-workflow": "telecom" };

/** Those that need tau2-bench's data. */
export const dataDomains = (): string[] => Object.keys(FROM_DATA);

/** Those that come with the program. */
const builtInDomains = (): string[] => [...Object.keys(FROM_DATA), ...Object.keys(quickstartDomains)];

/** Of `registerDomain`. */
const custom = new Map<string, (options: CustomDomainOptions) => Domain>();

/** Names that `loadDomain` takes. */
export function knownDomains(): string[] {
  return [...builtInDomains(), ...custom.keys()];
}

/** Those that were registered. */
export const customDomains = (): string[] => [...custom.keys()];

/**
 * Makes a domain of one's own known, so that `task_order` may name it. Throws UserError for a name that is taken, and for
 * parts that do not fit together; `where` names those.
 */
export function registerDomain(
  source: DomainSource,
  where: PartName = (part) => `registerDomain(${source.name}): ${part}`,
): void {
  const { name } = source;
  const field = `${where("tools")}: name`;
  if (!/^[\w-]+$/.test(name)) throw new UserError(field, `"${name}" has other signs than letters, digits, _ and -`);
  if (knownDomains().includes(name)) {
    const owner = custom.has(name) ? "is registered already" : "comes with the program";
    throw new UserError(field, `a domain "${name}" ${owner}; choose another name`);
  }
  const make = (options: CustomDomainOptions) => customDomain(source, options, where);
  make({ train_split: 1, solo_mode: false }); // for its checks
  custom.set(name, make);
}

/** A domain, ready to run. Throws UserError for an unknown name, and for data that is missing or malformed. */
export function loadDomain(name: string, { tau2_data_dir, train_split, solo_mode = false }: DomainOptions): Domain {
  const builtIn: Readonly<Record<string, () => Domain>> = quickstartDomains;
  if (Object.hasOwn(builtIn, name)) {
    if (solo_mode) throw new UserError("solo_mode", `${name} does not support solo mode`);
    return (builtIn[name] as () => Domain)();
  }
  const own = custom.get(name);
  if (own !== undefined) return own({ train_split, solo_mode });
  if (!Object.hasOwn(FROM_DATA, name))
    throw new UserError("task_order", `there is no domain "${name}"; known are ${knownDomains().join(", ")}`);
  const load = FROM_DATA[name] as (typeof FROM_DATA)[string];
  return load({ root: dataRoot(tau2_data_dir, DATA_FOLDERS[name] ?? name), train_split, solo_mode });
}

/** null where the domain or its data is not there, for callers that can do without. */
export function loadDomainOrNull(name: string, options: DomainOptions): Domain | null {
  try {
    return loadDomain(name, options);
  } catch (error) {
    if (error instanceof UserError) return null;
    throw error;
  }
}
