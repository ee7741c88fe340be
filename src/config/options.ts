/** What the schema says, option by option: flags, files, messages, the JSON Schema and the option table read this list. */
import { toJsonSchema } from "@valibot/to-json-schema";
import * as v from "valibot";
import { RunConfigSchema, SECTIONS } from "./schema.ts";

export interface Option {
  /** Dotted for nested options: `user.max_retries`. */
  readonly name: string;
  readonly section: string;
  readonly kind: "boolean" | "integer" | "number" | "text" | "choice" | "list";
  /** What a value must be, in words: "a number ≥ 0". */
  readonly expects: string;
  readonly nullable: boolean;
  readonly required: boolean;
  readonly byDefault: unknown;
  readonly description: string;
  readonly schema: v.GenericSchema;
}

/** Valibot's bounds as signs. */
const BOUNDS: Readonly<Record<string, string>> = { min_value: "≥", gt_value: ">", max_value: "≤", lt_value: "<" };

/** Sections whose options are written with a dot. */
export const DOTTED = ["user", "judge"] as const;

/** All options in the order of the schema, the dotted ones last. */
export const OPTIONS: readonly Option[] = [
  ...Object.entries(SECTIONS).flatMap(([section, entries]) =>
    Object.entries(entries).map(([name, schema]) => describe({ section, name, schema })),
  ),
  ...DOTTED.flatMap((section) =>
    Object.entries(RunConfigSchema.entries[section].wrapped.entries).map(([name, schema]) =>
      describe({ section, name: `${section}.${name}`, schema }),
    ),
  ),
];

export const OPTION_NAMES: readonly string[] = OPTIONS.map(({ name }) => name);

const BY_NAME: ReadonlyMap<string, Option> = new Map(OPTIONS.map((option) => [option.name, option]));

export const optionNamed = (name: string): Option | undefined => BY_NAME.get(name);

/** The config file's JSON Schema, for editors. */
export const runConfigJsonSchema = () => toJsonSchema(RunConfigSchema, { typeMode: "input", errorMode: "ignore" });

/** The option table of the README. */
export function optionTable(): string {
  const row = ({ name, byDefault, expects, description, required }: Option) =>
    `| \`${name}\` | ${required ? "required" : `\`${shown(byDefault)}\``} | ${expects} | ${description.replaceAll("|", "\\|")} |`;
  return ["| option | default | value | meaning |", "|---|---|---|---|", ...OPTIONS.map(row)].join("\n");
}

/** A default as a person would write it on the command line. */
export const shown = (value: unknown): string => (Array.isArray(value) ? value.join(" ") : String(value));

interface Peeled {
  readonly core: v.GenericSchema;
  readonly nullable: boolean;
}

function describe({ section, name, schema }: { section: string; name: string; schema: v.GenericSchema }): Option {
  const { core, nullable } = peel(schema);
  const kind = kindOf(core);
  return {
    name,
    section,
    kind,
    expects: expectation(core, kind) + (nullable ? ", or null" : ""),
    nullable,
    required: schema.type !== "optional",
    byDefault: v.getDefault(schema),
    description: v.getDescription(core) ?? "",
    schema,
  };
}

/** The schema inside `optional` and `nullable`. */
function peel(schema: v.GenericSchema): Peeled {
  if (schema.type !== "optional" && schema.type !== "nullable") return { core: schema, nullable: false };
  const inner = peel((schema as v.GenericSchema & { readonly wrapped: v.GenericSchema }).wrapped);
  return { core: inner.core, nullable: inner.nullable || schema.type === "nullable" };
}

function kindOf(core: v.GenericSchema): Option["kind"] {
  switch (core.type) {
    case "boolean":
      return "boolean";
    case "number":
      return actionsOf(core).has("safe_integer") ? "integer" : "number";
    case "picklist":
      return "choice";
    case "array":
      return "list";
    case "string":
      return "text";
    default:
      throw new Error(`the schema has an option of a type without a flag: ${core.type}`);
  }
}

function expectation(core: v.GenericSchema, kind: Option["kind"]): string {
  switch (kind) {
    case "boolean":
      return "true or false";
    case "choice":
      return `one of ${(core as unknown as { readonly options: readonly string[] }).options.join(", ")}`;
    case "list":
      return "one name or more";
    case "text":
      return "text";
    case "integer":
    case "number": {
      const bounds = [...actionsOf(core)].flatMap(([type, requirement]) =>
        BOUNDS[type] === undefined ? [] : [`${BOUNDS[type]} ${requirement}`],
      );
      return [kind === "integer" ? "a whole number" : "a number", bounds.join(" and ")].filter(Boolean).join(" ");
    }
  }
}

/** The validations of a pipe: `min_value` → 0, … */
function actionsOf(core: v.GenericSchema): Map<string, unknown> {
  const pipe =
    "pipe" in core ? (core.pipe as readonly { readonly type: string; readonly requirement?: unknown }[]) : [];
  return new Map(pipe.map(({ type, requirement }) => [type, requirement]));
}
