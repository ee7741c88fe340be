/**
 * Exact JSON values, as Python's `json` module sees them: int and float stay apart (`2` and `2.0` print, store and hash
 * differently, but compare equal), integers have any size, objects keep the order of their keys.
 *
 * The parser is our own because no JSON library keeps the lexical kind of a number *and* the order of integer-like keys
 * (`{"7": …, "10": …, "2": …}`) at JSON.parse's order of speed: JSON.parse with a source-text reviver loses the order and
 * calls back for every value of a seven-megabyte database.
 */

/** A Python float. Plain numbers are Python ints (safe integers only, bigint beyond). */
export class Float {
  constructor(readonly value: number) {}
}

export type ExactValue = null | boolean | string | number | bigint | Float | readonly ExactValue[] | ExactObject;

export interface ExactObject {
  readonly [key: string]: ExactValue;
}

/**
 * Order of the keys of an object that has integer-like keys, which JavaScript would move to the front. Enumerable, so that
 * `{ ...object }` carries it along; keys it does not name come last.
 */
const KEY_ORDER = Symbol("key order");
type Ordered = ExactObject & { readonly [KEY_ORDER]?: readonly string[] };

const INTEGER_LIKE = /^(0|[1-9][0-9]{0,9})$/;

/** The keys in the order of insertion, as a Python dict would list them. */
export function keysOf(object: ExactObject): readonly string[] {
  const order = (object as Ordered)[KEY_ORDER];
  if (order === undefined) return Object.keys(object);
  const named = new Set(order);
  return [
    ...order.filter((key) => Object.hasOwn(object, key)),
    ...Object.keys(object).filter((key) => !named.has(key)),
  ];
}

export function entriesOf(object: ExactObject): [string, ExactValue][] {
  return keysOf(object).map((key) => [key, object[key] as ExactValue]);
}

/** Builds an object whose keys keep the given order, whatever they look like. A repeated key keeps its first place and last value. */
export function objectOf(entries: Iterable<readonly [string, ExactValue]>): ExactObject {
  const object: Record<string, ExactValue> = {};
  const order: string[] = [];
  let needsOrder = false;
  for (const [key, value] of entries) {
    if (!Object.hasOwn(object, key)) order.push(key);
    if (INTEGER_LIKE.test(key)) needsOrder = true;
    // A plain assignment to `__proto__` would change the prototype instead of adding a key.
    if (key === "__proto__")
      Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true });
    else object[key] = value;
  }
  if (needsOrder) (object as { [KEY_ORDER]?: readonly string[] })[KEY_ORDER] = order;
  return object;
}

export function isObject(value: unknown): value is ExactObject {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Float);
}

export function isArray(value: ExactValue | undefined): value is readonly ExactValue[] {
  return Array.isArray(value);
}

export function isInt(value: ExactValue): value is number | bigint {
  return typeof value === "number" || typeof value === "bigint";
}

/** A number or bigint as the canonical form of a Python int. */
export function intOf(value: number | bigint): number | bigint {
  if (typeof value === "number") return value === 0 ? 0 : value;
  return value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value;
}

/**
 * Turns what JavaScript code hands over (numbers of unknown kind, undefined fields) into an exact value: integers become
 * ints, other numbers floats. Where the kind matters, parse text with `parseExact` instead.
 */
export function exactOf(value: unknown): ExactValue {
  if (value === null || value === undefined) return null;
  if (typeof value === "number") return Number.isSafeInteger(value) ? intOf(value) : new Float(value);
  if (typeof value === "bigint") return intOf(value);
  if (typeof value === "string" || typeof value === "boolean" || value instanceof Float) return value;
  if (Array.isArray(value)) return value.map(exactOf);
  const object = value as ExactObject;
  return objectOf(
    keysOf(object)
      .filter((key) => object[key] !== undefined)
      .map((key) => [key, exactOf(object[key])]),
  );
}

/** The plain JavaScript value, for readers to whom int and float are one. */
export function plainOf(value: ExactValue): unknown {
  if (value instanceof Float) return value.value;
  if (typeof value === "bigint") return Number(value);
  if (isArray(value)) return value.map(plainOf);
  if (isObject(value)) return Object.fromEntries(entriesOf(value).map(([key, item]) => [key, plainOf(item)]));
  return value;
}

// ---------------------------------------------------------------------------------------------------------------------
// Parsing

/** The text is not JSON; `position` counts UTF-16 units from its start. */
export class JsonError extends Error {
  constructor(
    readonly reason: string,
    readonly position: number,
    readonly line: number,
  ) {
    super(`${reason} at line ${line} (position ${position})`);
  }
}

/** Parses JSON as Python's `json.loads` does: also `NaN`, `Infinity` and `-Infinity`, and the last of repeated keys wins. */
export function parseExact(text: string): ExactValue {
  return new Parser(text).document();
}

/** `parseExact`, or `undefined` where the text is no JSON. */
export function tryParseExact(text: string): ExactValue | undefined {
  try {
    return parseExact(text);
  } catch (error) {
    if (error instanceof JsonError) return undefined;
    throw error;
  }
}

// Python's recursion limit stops json.loads near a thousand levels; ours only guards the JavaScript stack.
const MAX_DEPTH = 900;
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?/y;
const CONSTANTS: readonly [string, ExactValue][] = [
  ["null", null],
  ["true", true],
  ["false", false],
  ["NaN", new Float(Number.NaN)],
  ["Infinity", new Float(Number.POSITIVE_INFINITY)],
  ["-Infinity", new Float(Number.NEGATIVE_INFINITY)],
];
const PLAIN_STRING = /[ !#-[\]-\uffff]*/y;

class Parser {
  #at = 0;
  #depth = 0;

  constructor(readonly text: string) {}

  document(): ExactValue {
    this.#space();
    const value = this.#value();
    this.#space();
    if (this.#at < this.text.length) this.#fail("extra text after the JSON value");
    return value;
  }

  #value(): ExactValue {
    switch (this.text.charCodeAt(this.#at)) {
      case 0x22:
        return this.#string();
      case 0x7b:
        return this.#nested(() => this.#object());
      case 0x5b:
        return this.#nested(() => this.#array());
      default: {
        const constant = this.#constant();
        return constant === undefined ? this.#number() : constant;
      }
    }
  }

  #nested<T>(parse: () => T): T {
    if (++this.#depth > MAX_DEPTH) this.#fail(`more than ${MAX_DEPTH} levels of nesting`);
    const value = parse();
    this.#depth--;
    return value;
  }

  #object(): ExactObject {
    const entries: [string, ExactValue][] = [];
    this.#at++;
    this.#space();
    if (this.#take(0x7d)) return {};
    do {
      this.#space();
      if (this.text.charCodeAt(this.#at) !== 0x22) this.#fail("expected a key in double quotes");
      const key = this.#string();
      this.#space();
      if (!this.#take(0x3a)) this.#fail("expected ':'");
      this.#space();
      entries.push([key, this.#value()]);
      this.#space();
    } while (this.#take(0x2c));
    if (!this.#take(0x7d)) this.#fail("expected ',' or '}'");
    return objectOf(entries);
  }

  #array(): ExactValue[] {
    const items: ExactValue[] = [];
    this.#at++;
    this.#space();
    if (this.#take(0x5d)) return items;
    do {
      this.#space();
      items.push(this.#value());
      this.#space();
    } while (this.#take(0x2c));
    if (!this.#take(0x5d)) this.#fail("expected ',' or ']'");
    return items;
  }

  #string(): string {
    const start = this.#at;
    PLAIN_STRING.lastIndex = start + 1;
    PLAIN_STRING.test(this.text);
    let end = PLAIN_STRING.lastIndex;
    if (this.text.charCodeAt(end) === 0x22) {
      this.#at = end + 1;
      return this.text.slice(start + 1, end);
    }
    while (end < this.text.length && this.text.charCodeAt(end) !== 0x22)
      end += this.text.charCodeAt(end) === 0x5c ? 2 : 1;
    if (end >= this.text.length) this.#fail("unterminated string");
    this.#at = end + 1;
    try {
      return JSON.parse(this.text.slice(start, end + 1)) as string;
    } catch {
      this.#at = start;
      return this.#fail("invalid escape or control character in a string");
    }
  }

  #constant(): ExactValue | undefined {
    for (const [word, value] of CONSTANTS) {
      if (this.text.startsWith(word, this.#at)) {
        this.#at += word.length;
        return value;
      }
    }
    return undefined;
  }

  #number(): ExactValue {
    NUMBER.lastIndex = this.#at;
    const match = NUMBER.exec(this.text);
    if (match === null) return this.#fail("expected a JSON value");
    this.#at = NUMBER.lastIndex;
    const [token, fraction, exponent] = match;
    if (fraction !== undefined || exponent !== undefined) return new Float(Number(token));
    const value = Number(token);
    return Number.isSafeInteger(value) ? intOf(value) : BigInt(token);
  }

  #space(): void {
    for (;;) {
      const code = this.text.charCodeAt(this.#at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
      this.#at++;
    }
  }

  #take(code: number): boolean {
    if (this.text.charCodeAt(this.#at) !== code) return false;
    this.#at++;
    return true;
  }

  #fail(reason: string): never {
    throw new JsonError(reason, this.#at, this.text.slice(0, this.#at).split("\n").length);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Python's texts of values

/** `repr(float)`: the shortest digits that read back, decimal while 1e-4 <= |x| < 1e16. */
export function floatRepr(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (value === 0) return Object.is(value, -0) ? "-0.0" : "0.0";
  const size = Math.abs(value);
  // JavaScript's own text has the same digits, and is decimal in this range too.
  if (size >= 1e-4 && size < 1e16) return Number.isInteger(value) ? `${value}.0` : String(value);
  const [mantissa, exponent = ""] = value.toExponential().split("e");
  return `${mantissa}e${exponent.charAt(0)}${exponent.slice(1).padStart(2, "0")}`;
}

/** `format(x, ".2f")`: correctly rounded from the binary value, ties (odd eighths) to even, where toFixed takes them up. */
export function formatTwoDecimals(value: number): string {
  if (!Number.isFinite(value)) return floatRepr(value);
  const sign = value < 0 || Object.is(value, -0) ? "-" : "";
  const size = Math.abs(value);
  const eighths = size * 8;
  if (Number.isInteger(eighths) && eighths % 2 === 1) {
    const doubled = BigInt(eighths) * 25n; // twice the cents, odd: exactly between two cents
    const below = doubled / 2n;
    const cents = String(below % 2n === 0n ? below : below + 1n).padStart(3, "0");
    return `${sign}${cents.slice(0, -2)}.${cents.slice(-2)}`;
  }
  return `${sign}${size >= 1e21 ? `${BigInt(size)}.00` : size.toFixed(2)}`;
}

/** `round(x, 2)` of a float: half to even on the exact binary value, sign of zero kept. */
export function roundTwoDecimals(value: number): number {
  return Number.isFinite(value) ? Number(formatTwoDecimals(value)) : value;
}

export interface DumpOptions {
  /** Keys of every object sorted by code point, as `sort_keys=True`. */
  readonly sorted?: boolean;
  /** Spaces per level, as `indent=2`; absent: one line. */
  readonly indent?: number;
  /** Escape everything outside ASCII (Python's default); pydantic's own JSON does not. */
  readonly ascii?: boolean;
}

/** `json.dumps`: separators `", "` and `": "`, ASCII only. */
export function dumps(value: ExactValue, options: DumpOptions = {}): string {
  return options.indent === undefined ? dumpLine(value, options) : dumpIndented(value, options, options.indent, "\n");
}

function dumpLine(value: ExactValue, options: DumpOptions): string {
  if (typeof value === "string") return quote(value, options);
  if (isArray(value)) return `[${value.map((item) => dumpLine(item, options)).join(", ")}]`;
  if (!isObject(value)) return dumpScalar(value, options);
  const pairs = keysIn(value, options).map(
    (key) => `${quote(key, options)}: ${dumpLine(value[key] as ExactValue, options)}`,
  );
  return `{${pairs.join(", ")}}`;
}

function dumpIndented(value: ExactValue, options: DumpOptions, indent: number, newline: string): string {
  const inner = newline + " ".repeat(indent);
  if (isArray(value)) {
    if (value.length === 0) return "[]";
    return `[${value.map((item) => inner + dumpIndented(item, options, indent, inner)).join(",")}${newline}]`;
  }
  if (!isObject(value)) return dumpScalar(value, options);
  const keys = keysIn(value, options);
  if (keys.length === 0) return "{}";
  const pairs = keys.map(
    (key) => `${inner}${quote(key, options)}: ${dumpIndented(value[key] as ExactValue, options, indent, inner)}`,
  );
  return `{${pairs.join(",")}${newline}}`;
}

function dumpScalar(value: null | boolean | string | number | bigint | Float, options: DumpOptions): string {
  if (typeof value === "string") return quote(value, options);
  if (value instanceof Float) return jsonFloat(value.value);
  return String(value);
}

function jsonFloat(value: number): string {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "Infinity" : "-Infinity";
  return floatRepr(value);
}

function keysIn(object: ExactObject, options: DumpOptions): readonly string[] {
  return options.sorted ? sortedKeys(object) : keysOf(object);
}

/** The keys by code point, as `sort_keys=True`. */
export function sortedKeys(object: ExactObject): string[] {
  const keys = Object.keys(object);
  return keys.some((key) => SURROGATES.test(key)) ? keys.sort(compareCodePoints) : keys.sort();
}

// Without surrogates the native order, by UTF-16 unit, is the order by code point.
const SURROGATES = /[\ud800-\udfff]/;

const SHORT_ESCAPES: Readonly<Record<string, string>> = {
  "\b": "\\b",
  "\t": "\\t",
  "\n": "\\n",
  "\f": "\\f",
  "\r": "\\r",
  '"': '\\"',
  "\\": "\\\\",
};

function quote(text: string, { ascii = true }: DumpOptions): string {
  if (/^[ !#-[\]-~]*$/.test(text)) return `"${text}"`;
  // Without the `u` flag an astral character is two units, hence a surrogate pair, as in Python.
  const pattern = ascii ? /[^ !#-[\]-~]/g : /[^ !#-[\]-\uffff]/g;
  return `"${text.replace(pattern, (unit) => SHORT_ESCAPES[unit] ?? `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`)}"`;
}

/** Order by code point, as Python compares strings; JavaScript's `<` puts astral characters before U+E000. */
export function compareCodePoints(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x !== y) return surrogatesLast(x) - surrogatesLast(y);
  }
  return a.length - b.length;
}

const surrogatesLast = (unit: number): number => (unit >= 0xd800 && unit <= 0xdfff ? unit + 0x10000 : unit);

/** Python's `str(value)`. */
export function pythonStr(value: ExactValue): string {
  return typeof value === "string" ? value : pythonRepr(value);
}

/** Python's `repr(value)`. */
export function pythonRepr(value: ExactValue): string {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value === "string") return stringRepr(value);
  if (value instanceof Float) return floatRepr(value.value);
  if (isArray(value)) return `[${value.map(pythonRepr).join(", ")}]`;
  if (isObject(value))
    return `{${entriesOf(value)
      .map(([key, item]) => `${stringRepr(key)}: ${pythonRepr(item)}`)
      .join(", ")}}`;
  return String(value);
}

const REPR_ESCAPES: Readonly<Record<string, string>> = { "\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\" };

function stringRepr(text: string): string {
  const quoteMark = text.includes("'") && !text.includes('"') ? '"' : "'";
  const body = text.replace(/[\\']|[\p{C}\p{Z}]/gu, (char) => {
    if (char === " ") return char;
    if (char === "'") return quoteMark === "'" ? "\\'" : "'";
    return REPR_ESCAPES[char] ?? codePointEscape(char.codePointAt(0) ?? 0);
  });
  return quoteMark + body + quoteMark;
}

function codePointEscape(code: number): string {
  const hex = code.toString(16);
  if (code < 0x100) return `\\x${hex.padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
}

/** The name of the value's Python type, as error texts print it. */
export function pythonType(value: ExactValue): string {
  if (value === null) return "NoneType";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "string") return "str";
  if (value instanceof Float) return "float";
  if (isArray(value)) return "list";
  return isObject(value) ? "dict" : "int";
}

/** Python's `==`: kinds of number are ignored and booleans are numbers (`1 == 1.0 == True`); key order is ignored. */
export function pythonEquals(a: ExactValue, b: ExactValue): boolean {
  const x = numberOf(a);
  const y = numberOf(b);
  // biome-ignore lint/suspicious/noDoubleEquals: between bigint and number only `==` compares the mathematical values.
  if (x !== undefined || y !== undefined) return x !== undefined && y !== undefined && x == y;
  if (isArray(a))
    return isArray(b) && a.length === b.length && a.every((item, i) => pythonEquals(item, b[i] as ExactValue));
  if (isObject(a)) {
    if (!isObject(b)) return false;
    const keys = Object.keys(a);
    return (
      keys.length === Object.keys(b).length &&
      keys.every((key) => Object.hasOwn(b, key) && pythonEquals(a[key] as ExactValue, b[key] as ExactValue))
    );
  }
  return a === b;
}

/** The number a value counts as in Python's arithmetic and comparisons (booleans included), or undefined. */
export function numberOf(value: ExactValue): number | bigint | undefined {
  if (typeof value === "boolean") return value ? 1 : 0;
  if (value instanceof Float) return value.value;
  return isInt(value) ? value : undefined;
}

/** The object with one entry set: in its place if the key exists, else last. */
export function withEntry(object: ExactObject, key: string, value: ExactValue): ExactObject {
  if (!INTEGER_LIKE.test(key) && key !== "__proto__") return { ...object, [key]: value };
  return objectOf([...entriesOf(object), [key, value]]);
}

/** The object without one key. */
export function withoutEntry(object: ExactObject, key: string): ExactObject {
  return objectOf(entriesOf(object).filter(([name]) => name !== key));
}
