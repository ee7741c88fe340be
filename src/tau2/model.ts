/**
 * Typed records as the original declares them (pydantic in lax mode): coercions, defaults, order of fields, error texts,
 * and the JSON schema of those that appear in tool parameters. SPEC section 2.1.
 */
import {
  type ExactObject,
  type ExactValue,
  Float,
  intOf,
  isArray,
  isInt,
  isObject,
  keysOf,
  objectOf,
  pythonRepr,
  pythonType,
} from "../base/exact.ts";
import { PythonError } from "./python.ts";

export type FieldType =
  | { readonly kind: "str" | "int" | "float" | "bool" | "any" | "date" | "datetime" }
  | { readonly kind: "literal"; readonly values: readonly string[] }
  | EnumType
  | { readonly kind: "optional"; readonly of: FieldType }
  | { readonly kind: "list"; readonly of: FieldType }
  | { readonly kind: "dict"; readonly of: FieldType; readonly keys?: readonly string[] }
  | { readonly kind: "union"; readonly of: readonly FieldType[] }
  | { readonly kind: "model"; readonly model: Model };

/** A class of named texts: in schemas it stands under its name. */
export interface EnumType {
  readonly kind: "enum";
  readonly name: string;
  readonly values: readonly string[];
}

export interface Field {
  readonly type: FieldType;
  readonly description?: string;
  /** Present: the field may be missing. */
  readonly default?: ExactValue;
}

export interface Model {
  readonly name: string;
  /** In the order of declaration, which is the order of output. */
  readonly fields: Readonly<Record<string, Field>>;
  readonly extra: "ignore" | "forbid";
  /** Stands in schemas that mention the model. */
  readonly description?: string;
}

export const str: FieldType = { kind: "str" };
export const int: FieldType = { kind: "int" };
export const float: FieldType = { kind: "float" };
export const bool: FieldType = { kind: "bool" };
/** Held as the text that the original prints: `2025-02-25`, and `2025-02-25 12:08:00` with a space. */
export const date: FieldType = { kind: "date" };
export const datetime: FieldType = { kind: "datetime" };
export const enumeration = (name: string, ...values: readonly string[]): EnumType => ({ kind: "enum", name, values });
export const literal = (...values: readonly string[]): FieldType => ({ kind: "literal", values });
export const optional = (of: FieldType): FieldType => ({ kind: "optional", of });
export const list = (of: FieldType): FieldType => ({ kind: "list", of });
export const dict = (of: FieldType, keys?: readonly string[]): FieldType => ({ kind: "dict", of, keys });
export const union = (...of: readonly FieldType[]): FieldType => ({ kind: "union", of });
export const record = (model: Model): FieldType => ({ kind: "model", model });

/** Declares a model; a bare type is a required field without description. */
export function model(
  name: string,
  fields: Readonly<Record<string, Field | FieldType>>,
  extra: Model["extra"] = "ignore",
  description?: string,
): Model {
  const declared = Object.entries(fields).map(([key, field]) => [key, "kind" in field ? { type: field } : field]);
  return { name, fields: Object.fromEntries(declared) as Record<string, Field>, extra, description };
}

/** One thing wrong with a value: where, and pydantic's words for it. */
export interface Issue {
  readonly path: readonly (string | number)[];
  readonly type: string;
  readonly message: string;
  readonly input: ExactValue;
}

/** A value that does not fit its model. */
export class ModelError extends PythonError {
  constructor(
    model: string,
    readonly issues: readonly Issue[],
  ) {
    super(
      "ValidationError",
      [
        `${issues.length} validation error${issues.length === 1 ? "" : "s"} for ${model}`,
        ...issues.map(issueText),
      ].join("\n"),
    );
  }
}

// The release that the original's lock file pins; it stands in the texts.
const DOCUMENTATION = "https://errors.pydantic.dev/2.12/v/";

function issueText({ path, type, message, input }: Issue): string {
  return `${path.join(".")}\n  ${message} [type=${type}, input_value=${shortened(pythonRepr(input))}, input_type=${pythonType(input)}]\n    For further information visit ${DOCUMENTATION}${type}`;
}

/** At most 50 bytes of UTF-8, the middle left out; a character that would be cut is left out, too. */
function shortened(text: string): string {
  const bytes = new TextEncoder().encode(text);
  if (bytes.length <= 50) return text;
  const continues = (at: number): boolean => ((bytes[at] ?? 0) & 0xc0) === 0x80;
  let [head, tail] = [25, bytes.length - 24];
  while (continues(head)) head--;
  while (continues(tail)) tail++;
  const textOf = (part: Uint8Array): string => new TextDecoder("utf-8", { ignoreBOM: true }).decode(part);
  return `${textOf(bytes.subarray(0, head))}...${textOf(bytes.subarray(tail))}`;
}

/** The value as the model stores it: coerced, defaults filled in, fields in declaration order. Throws ModelError. */
export function parseModel(model: Model, value: ExactValue): ExactObject {
  const parse = new Parse();
  const parsed = parse.record(model, value);
  if (parse.issues.length > 0) throw new ModelError(model.name, parse.issues);
  return parsed as ExactObject;
}

/** One walk through a value: where it is, and what it has found wrong. A wrong value stands as null and is never used. */
class Parse {
  issues: Issue[] = [];
  readonly #path: (string | number)[] = [];

  record(model: Model, value: ExactValue): ExactValue {
    if (!isObject(value))
      return this.#wrong("model_type", `Input should be a valid dictionary or instance of ${model.name}`, value);
    const parsed: Record<string, ExactValue> = {};
    for (const key in model.fields) {
      const field = model.fields[key] as Field;
      if (Object.hasOwn(value, key))
        parsed[key] = this.#at(key, () => this.#field(field.type, value[key] as ExactValue));
      else if (field.default !== undefined) parsed[key] = field.default;
      else this.#at(key, () => this.#wrong("missing", "Field required", value));
    }
    if (model.extra === "forbid") this.#forbidOthers(model, value);
    return parsed;
  }

  #forbidOthers(model: Model, value: ExactObject): void {
    for (const key of keysOf(value).filter((name) => !Object.hasOwn(model.fields, name))) {
      this.#at(key, () => this.#wrong("extra_forbidden", "Extra inputs are not permitted", value[key] as ExactValue));
    }
  }

  #at<T>(key: string | number, parse: () => T): T {
    this.#path.push(key);
    const parsed = parse();
    this.#path.pop();
    return parsed;
  }

  #wrong(type: string, message: string, input: ExactValue): null {
    this.issues.push({ path: [...this.#path], type, message, input });
    return null;
  }

  #field(type: FieldType, value: ExactValue): ExactValue {
    const wrong: Wrong = (code, message) => this.#wrong(code, message, value);
    switch (type.kind) {
      case "any":
        return value;
      case "str":
        return typeof value === "string" ? value : wrong("string_type", "Input should be a valid string");
      case "int":
        return parseInt64(value, wrong);
      case "float":
        return parseFloat64(value, wrong);
      case "bool":
        return parseBool(value, wrong);
      case "literal":
        return isOneOf(type.values, value)
          ? value
          : wrong("literal_error", `Input should be ${alternatives(type.values)}`);
      case "enum":
        return isOneOf(type.values, value) ? value : wrong("enum", `Input should be ${alternatives(type.values)}`);
      case "date":
        return parseDate(value, wrong);
      case "datetime":
        return parseDatetime(value, wrong);
      case "optional":
        return value === null ? null : this.#field(type.of, value);
      case "list":
        if (!isArray(value)) return wrong("list_type", "Input should be a valid list");
        return value.map((item, i) => this.#at(i, () => this.#field(type.of, item)));
      case "dict":
        if (!isObject(value)) return wrong("dict_type", "Input should be a valid dictionary");
        return objectOf(
          keysOf(value).map((key) => [key, this.#at(key, () => this.#entry(type, key, value[key] as ExactValue))]),
        );
      case "union":
        return this.#union(type.of, value);
      case "model":
        return this.record(type.model, value);
    }
  }

  #entry({ keys, of }: Extract<FieldType, { kind: "dict" }>, key: string, value: ExactValue): ExactValue {
    if (keys !== undefined && !keys.includes(key))
      this.#at("[key]", () => this.#wrong("literal_error", `Input should be ${alternatives(keys)}`, key));
    return this.#field(of, value);
  }

  /** The first member that fits; the members of our unions exclude each other. If none does, all say why. */
  #union(members: readonly FieldType[], value: ExactValue): ExactValue {
    const before = this.issues;
    for (const member of members.filter((candidate) => mayFit(candidate, value))) {
      this.issues = [];
      const parsed = this.#field(member, value);
      const fits = this.issues.length === 0;
      this.issues = before;
      if (fits) return parsed;
    }
    for (const member of members)
      this.#at(member.kind === "model" ? member.model.name : member.kind, () => this.#field(member, value));
    return null;
  }
}

/** False where a literal field already rules a model out: most members of our unions differ in one. */
function mayFit(type: FieldType, value: ExactValue): boolean {
  if (type.kind !== "model" || !isObject(value)) return true;
  for (const key in type.model.fields) {
    const field = (type.model.fields[key] as Field).type;
    if (field.kind === "literal" && Object.hasOwn(value, key) && !isOneOf(field.values, value[key] as ExactValue))
      return false;
  }
  return true;
}

const isOneOf = (values: readonly string[], value: ExactValue): boolean =>
  typeof value === "string" && values.includes(value);

type Wrong = (code: string, message: string) => null;

function parseInt64(value: ExactValue, wrong: Wrong): ExactValue {
  if (isInt(value)) return value;
  if (typeof value === "boolean") return value ? 1 : 0;
  if (value instanceof Float) {
    if (!Number.isFinite(value.value)) return wrong("finite_number", "Input should be a finite number");
    if (!Number.isInteger(value.value))
      return wrong("int_from_float", "Input should be a valid integer, got a number with a fractional part");
    if (Math.abs(value.value) >= 2 ** 63)
      return wrong("int_parsing_size", "Unable to parse input string as an integer, exceeded maximum size");
    return intOf(BigInt(value.value));
  }
  if (typeof value === "string") {
    const match = /^[+-]?\d+(_\d+)*(?=(\.0+)?$)/.exec(value.trim());
    if (match === null)
      return wrong("int_parsing", "Input should be a valid integer, unable to parse string as an integer");
    return intOf(BigInt(match[0].replaceAll("_", "").replace("+", "")));
  }
  return wrong("int_type", "Input should be a valid integer");
}

function parseFloat64(value: ExactValue, wrong: Wrong): ExactValue {
  if (value instanceof Float) return value;
  if (isInt(value) && Number.isFinite(Number(value))) return new Float(Number(value));
  if (typeof value === "boolean") return new Float(value ? 1 : 0);
  if (typeof value === "string") {
    const text = value.trim().replaceAll(/(?<=\d)_(?=\d)/g, "");
    if (/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text)) return new Float(Number(text));
    const named = /^([+-]?)(inf|infinity|nan)$/i.exec(text);
    if (named !== null)
      return new Float(named[2]?.toLowerCase() === "nan" ? Number.NaN : named[1] === "-" ? -Infinity : Infinity);
    return wrong("float_parsing", "Input should be a valid number, unable to parse string as a number");
  }
  return wrong("float_type", "Input should be a valid number");
}

const TRUE_WORDS = new Set(["1", "true", "t", "yes", "y", "on"]);
const FALSE_WORDS = new Set(["0", "false", "f", "no", "n", "off"]);

function parseBool(value: ExactValue, wrong: Wrong): ExactValue {
  if (typeof value === "boolean") return value;
  const number = value instanceof Float ? value.value : value;
  const word =
    typeof number === "string" ? number.toLowerCase() : Number.isSafeInteger(number) ? String(number) : undefined;
  if (word === undefined) return wrong("bool_type", "Input should be a valid boolean");
  if (TRUE_WORDS.has(word)) return true;
  if (FALSE_WORDS.has(word)) return false;
  return wrong("bool_parsing", "Input should be a valid boolean, unable to interpret input");
}

const DATE = /^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$/;
const TIME = /^([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,6})?)?$/;

function parseDate(value: ExactValue, wrong: Wrong): ExactValue {
  if (typeof value !== "string") return wrong("date_type", "Input should be a valid date");
  return isDate(value)
    ? value
    : wrong("date_from_datetime_parsing", "Input should be a valid date or datetime, invalid character in year");
}

/** With seconds, and microseconds only where there are some. Time zones are not in the original's data. */
function parseDatetime(value: ExactValue, wrong: Wrong): ExactValue {
  if (typeof value !== "string") return wrong("datetime_type", "Input should be a valid datetime");
  const [day = "", time = "00:00:00"] = value.split(/[T ]/, 2);
  if (!isDate(day) || !TIME.test(time))
    return wrong("datetime_from_date_parsing", "Input should be a valid datetime or date, invalid character in year");
  const [clock = "", fraction = ""] = time.split(".", 2);
  const micros = fraction.padEnd(6, "0");
  return `${day} ${clock.length === 5 ? `${clock}:00` : clock}${micros === "000000" ? "" : `.${micros}`}`;
}

/** A day that exists. */
function isDate(text: string): boolean {
  return DATE.test(text) && new Date(`${text}T00:00:00Z`).toISOString().startsWith(text);
}

function alternatives(values: readonly string[]): string {
  const quoted = values.map((value) => `'${value}'`);
  return quoted.length === 1 ? (quoted[0] as string) : `${quoted.slice(0, -1).join(", ")} or ${quoted.at(-1)}`;
}

// ---------------------------------------------------------------------------------------------------------------------
// JSON schema, in pydantic's form: keys in alphabetical order except those of `properties`

/** Schema of an object with the given fields, models it refers to under `$defs`. */
export function objectSchema(title: string, fields: Readonly<Record<string, Field>>): ExactObject {
  const definitions = new Map<string, ExactObject>();
  const schema = recordSchema(title, fields, definitions);
  if (definitions.size === 0) return schema;
  return { $defs: Object.fromEntries([...definitions].sort(([a], [b]) => (a < b ? -1 : 1))), ...schema };
}

function recordSchema(
  title: string,
  fields: Readonly<Record<string, Field>>,
  definitions: Map<string, ExactObject>,
): ExactObject {
  const entries = Object.entries(fields);
  const properties = objectOf(entries.map(([name, field]) => [name, fieldSchema(name, field, definitions)]));
  const required = entries.filter(([, field]) => field.default === undefined).map(([name]) => name);
  return { properties, ...(required.length > 0 ? { required } : {}), title, type: "object" };
}

function fieldSchema(name: string, field: Field, definitions: Map<string, ExactObject>): ExactObject {
  const described: ExactObject = field.description === undefined ? {} : { description: field.description };
  const byDefault: ExactObject = field.default === undefined ? {} : { default: field.default };
  const schema: Record<string, ExactValue> = {
    ...typeSchema(field.type, definitions),
    ...byDefault,
    ...described,
    ...(field.type.kind === "model" || field.type.kind === "enum" ? {} : { title: titleOf(name) }),
  };
  return sortedKeys(schema);
}

function typeSchema(type: FieldType, definitions: Map<string, ExactObject>): ExactObject {
  switch (type.kind) {
    case "any":
      return {};
    case "str":
      return { type: "string" };
    case "int":
      return { type: "integer" };
    case "float":
      return { type: "number" };
    case "bool":
      return { type: "boolean" };
    case "date":
      return { format: "date", type: "string" };
    case "datetime":
      return { format: "date-time", type: "string" };
    case "enum":
      return reference(type.name, definitions, () => ({ enum: [...type.values], title: type.name, type: "string" }));
    case "literal":
      return { enum: [...type.values], type: "string" };
    case "optional":
      return { anyOf: [typeSchema(type.of, definitions), { type: "null" }] };
    case "list":
      return { items: typeSchema(type.of, definitions), type: "array" };
    case "dict":
      return { additionalProperties: type.of.kind === "any" ? true : typeSchema(type.of, definitions), type: "object" };
    case "union":
      return { anyOf: type.of.map((member) => typeSchema(member, definitions)) };
    case "model":
      return reference(type.model.name, definitions, () => modelSchema(type.model, definitions));
  }
}

function reference(name: string, definitions: Map<string, ExactObject>, define: () => ExactObject): ExactObject {
  if (!definitions.has(name)) {
    definitions.set(name, {}); // so that a model may mention itself
    definitions.set(name, define());
  }
  return { $ref: `#/$defs/${name}` };
}

function modelSchema({ name, fields, extra, description }: Model, definitions: Map<string, ExactObject>): ExactObject {
  return {
    ...(extra === "forbid" ? { additionalProperties: false } : {}),
    ...(description === undefined ? {} : { description }),
    ...recordSchema(name, fields, definitions),
  };
}

const titleOf = (name: string): string =>
  name.replaceAll("_", " ").replace(/\b[a-z]/g, (letter) => letter.toUpperCase());

function sortedKeys(schema: ExactObject): ExactObject {
  return Object.fromEntries(Object.entries(schema).sort(([a], [b]) => (a < b ? -1 : 1)));
}
