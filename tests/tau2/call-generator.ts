/** Random tool calls for any domain, made from its schemas: valid ids among garbage of every JSON type. */
import fc from "fast-check";
import { type ExactObject, type ExactValue, Float, isArray, isObject, objectOf } from "../../src/base/exact.ts";
import { ToolEnvironment } from "../../src/tau2/environment.ts";
import type { Domain, Requestor, ToolCall, ToolSchema } from "../../src/tau2/types.ts";

const ODD: readonly ExactValue[] = [
  null,
  true,
  false,
  0,
  -1,
  10n ** 30n,
  new Float(2.5),
  new Float(3),
  new Float(-0),
  new Float(1e300),
  new Float(Number.NaN),
  "",
  " 7 ",
  "12",
  "yes",
  "__proto__",
  "constructor",
  "İ\ud800",
  [],
  [null],
  [[]],
  {},
  { a: 1 },
  objectOf([["__proto__", 1]]),
];

const garbage: fc.Arbitrary<ExactValue> = fc.oneof(
  fc.constantFrom(...ODD),
  fc.integer(),
  fc.double().map((value) => new Float(value)),
  fc.string({ unit: "binary", maxLength: 8 }),
  fc.array(fc.constantFrom(...ODD), { maxLength: 3 }),
  fc
    .dictionary(fc.string({ maxLength: 4 }), fc.constantFrom(...ODD), { maxKeys: 3 })
    .map((object) => objectOf(Object.entries(object))),
);

/** Calls by agent and user; now and then by the wrong one, of a tool that does not exist, or with arguments of another. */
export function callsOf(domain: Domain): fc.Arbitrary<ToolCall> {
  const values = new ValuePool(domain);
  const golden = domain.tasks.flatMap(({ evaluation_criteria }) => evaluation_criteria?.actions ?? []);
  const schemas = [
    ...domain.tools.map((schema) => ({ schema, requestor: "assistant" as const })),
    ...(domain.userTools ?? []).map((schema) => ({ schema, requestor: "user" as const })),
  ];
  const fromSchema = fc
    .constantFrom(...schemas)
    .chain(({ schema, requestor }) => callOf(schema.function.name, argumentsOf(schema, values), requestor));
  const unknown = callOf("no_such_tool", fc.constant({}), "assistant");
  if (golden.length === 0) return fc.oneof({ weight: 20, arbitrary: fromSchema }, unknown);
  const fromTask = fc
    .constantFrom(...golden)
    .chain(({ name, arguments: args, requestor }) => callOf(name, edited(args), requestor));
  return fc.oneof({ weight: 12, arbitrary: fromSchema }, { weight: 8, arbitrary: fromTask }, unknown);
}

function callOf(name: string, args: fc.Arbitrary<ExactObject>, requestor: Requestor): fc.Arbitrary<ToolCall> {
  const other = requestor === "user" ? "assistant" : "user";
  return fc.record({
    id: fc.constant("c"),
    name: fc.constant(name),
    arguments: args,
    requestor: fc.oneof({ weight: 9, arbitrary: fc.constant(requestor) }, fc.constant<Requestor>(other)),
  });
}

function argumentsOf({ function: { parameters } }: ToolSchema, values: ValuePool): fc.Arbitrary<ExactObject> {
  const properties = Object.entries((parameters.properties ?? {}) as Record<string, ExactObject>);
  const fields = properties.map(([name, schema]) =>
    fc.oneof(
      { weight: 24, arbitrary: values.fitting(name, schema, parameters).map((value) => [[name, value]] as Entries) },
      { weight: 2, arbitrary: garbage.map((value) => [[name, value]] as Entries) },
      fc.constant<Entries>([]),
    ),
  );
  const extra = fc.oneof(
    { weight: 20, arbitrary: fc.constant<Entries>([]) },
    fc.constantFrom("extra", "self", "requestor", "tool_name").map((name) => [[name, 1]] as Entries),
  );
  return fc.tuple(...fields, extra).map((entries) => objectOf(entries.flat()));
}

type Entries = readonly (readonly [string, ExactValue])[];

/** Golden arguments as they are, or with one replaced, also deep inside. */
function edited(args: ExactObject): fc.Arbitrary<ExactObject> {
  const names = Object.keys(args);
  if (names.length === 0) return fc.constant(args);
  const replaced = fc.tuple(fc.constantFrom(...names), garbage, fc.boolean()).map(([name, value, deep]) => {
    const old = args[name] as ExactValue;
    const inner = isArray(old) && deep ? old.map((item) => (isObject(item) ? withFirst(item, value) : value)) : value;
    return { ...args, [name]: inner };
  });
  return fc.oneof({ weight: 2, arbitrary: fc.constant(args) }, replaced);
}

function withFirst(object: ExactObject, value: ExactValue): ExactObject {
  const [first = "a"] = Object.keys(object);
  return { ...object, [first]: value };
}

/** Values that occur in the domain: arguments of golden actions by name, and every key and id of the databases. */
class ValuePool {
  readonly #byName = new Map<string, ExactValue[]>();
  readonly #ids: readonly string[];

  constructor(domain: Domain) {
    for (const { evaluation_criteria } of domain.tasks)
      for (const { arguments: args } of evaluation_criteria?.actions ?? [])
        for (const [name, value] of Object.entries(args)) this.#add(name, value);
    const environment = domain.createEnvironment();
    const found = new Set<string>();
    if (environment instanceof ToolEnvironment) {
      for (const database of [environment.agentDb, environment.userDb])
        if (database !== null) this.#collect("", database.dump(), found);
    }
    this.#ids = [...found];
  }

  /** A value that the schema allows; names in an `items` schema are those of its own fields. */
  fitting(name: string, schema: ExactObject, root: ExactObject): fc.Arbitrary<ExactValue> {
    const known = this.#byName.get(name) ?? [];
    const bySchema = this.#bySchema(name, schema, root);
    return known.length === 0 ? bySchema : fc.oneof({ weight: 5, arbitrary: fc.constantFrom(...known) }, bySchema);
  }

  #bySchema(name: string, schema: ExactObject, root: ExactObject): fc.Arbitrary<ExactValue> {
    if (isArray(schema.enum)) return fc.constantFrom(...schema.enum);
    if (isArray(schema.anyOf))
      return fc.oneof(...(schema.anyOf as readonly ExactObject[]).map((member) => this.#bySchema(name, member, root)));
    if (typeof schema.$ref === "string") return this.#record(definition(root, schema.$ref), root);
    switch (schema.type) {
      case "array":
        return fc.array(this.#bySchema(name.replace(/s$/, ""), schema.items as ExactObject, root), { maxLength: 3 });
      case "integer":
        return fc.integer({ min: -2, max: 60 });
      case "number":
        return fc.oneof(
          fc.integer({ min: -2, max: 60 }),
          fc.constantFrom(new Float(0.5), new Float(2), new Float(1e9)),
        );
      case "boolean":
        return fc.boolean();
      case "object":
        return fc.constantFrom<ExactValue>({}, { a: 1 });
      default:
        return this.#text(name);
    }
  }

  #record(schema: ExactObject, root: ExactObject): fc.Arbitrary<ExactValue> {
    const fields = Object.entries((schema.properties ?? {}) as Record<string, ExactObject>);
    return fc
      .tuple(...fields.map(([name, field]) => this.fitting(name, field, root).map((value) => [name, value] as const)))
      .map(objectOf);
  }

  #text(name: string): fc.Arbitrary<ExactValue> {
    const known = this.#byName.get(name)?.filter((value) => typeof value === "string") ?? [];
    const ids = this.#ids.length === 0 ? fc.string() : fc.constantFrom<ExactValue>(...this.#ids);
    return known.length === 0 ? ids : fc.oneof({ weight: 4, arbitrary: fc.constantFrom(...known) }, ids);
  }

  #add(name: string, value: ExactValue): void {
    const known = this.#byName.get(name);
    if (known === undefined) this.#byName.set(name, [value]);
    else if (known.length < 500) known.push(value);
  }

  /** Keys of objects and what fields named `…_id` hold; and texts by the name of their field. */
  #collect(name: string, value: ExactValue, ids: Set<string>): void {
    if (isArray(value)) for (const item of value) this.#collect(name, item, ids);
    else if (isObject(value)) {
      for (const [key, item] of Object.entries(value)) {
        if (ids.size < 3000) ids.add(key);
        this.#collect(key, item, ids);
      }
    } else if (typeof value === "string" && name !== "") {
      this.#add(name, value);
      if (name.endsWith("_id")) ids.add(value);
    }
  }
}

function definition(root: ExactObject, reference: string): ExactObject {
  const name = reference.split("/").at(-1) as string;
  return (root.$defs as Readonly<Record<string, ExactObject>>)[name] as ExactObject;
}
