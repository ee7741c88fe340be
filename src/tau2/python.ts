/**
 * What tool bodies need of Python's semantics: arguments reach them unchecked (SPEC section 3), so a wrong type surfaces
 * as the interpreter's own exception, whose text the agent sees.
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
  numberOf,
  pythonRepr,
  pythonType,
} from "../base/exact.ts";

/** An exception of the original: `type` is its Python class, the message what `str(exception)` gives. */
export class PythonError extends Error {
  constructor(
    readonly type: string,
    message: string,
  ) {
    super(message);
  }
}

export const valueError = (message: string): PythonError => new PythonError("ValueError", message);
export const typeError = (message: string): PythonError => new PythonError("TypeError", message);
/** `str(KeyError(key))` is the key's repr. */
export const keyError = (key: ExactValue): PythonError => new PythonError("KeyError", pythonRepr(key));

/** Looks a value up as a dict with string keys would: unhashable values raise, other types are never found. */
export function dictKey(value: ExactValue): string | null {
  if (isArray(value) || isObject(value)) throw typeError(`unhashable type: '${pythonType(value)}'`);
  return typeof value === "string" ? value : null;
}

/** `dict[key]`, raising KeyError. */
export function itemOf(dict: ExactObject, key: ExactValue): ExactValue {
  const name = dictKey(key);
  if (name === null || !Object.hasOwn(dict, name)) throw keyError(key);
  return dict[name] as ExactValue;
}

/** `key in dict`. */
export function hasKey(dict: ExactObject, key: ExactValue): boolean {
  const name = dictKey(key);
  return name !== null && Object.hasOwn(dict, name);
}

/** What a `for` loop sees: items of a list, characters of a string, keys of a dict. */
export function iterate(value: ExactValue): readonly ExactValue[] {
  if (isArray(value)) return value;
  if (typeof value === "string") return [...value];
  if (isObject(value)) return keysOf(value);
  throw typeError(`'${pythonType(value)}' object is not iterable`);
}

export function lengthOf(value: ExactValue): number {
  if (isArray(value) || typeof value === "string" || isObject(value)) return iterate(value).length;
  throw typeError(`object of type '${pythonType(value)}' has no len()`);
}

/** The error of reading an attribute from something that is no model. */
export function noAttribute(value: ExactValue, name: string): PythonError {
  return new PythonError("AttributeError", `'${pythonType(value)}' object has no attribute '${name}'`);
}

type Num = number | bigint;

/** Applies an operator to two numbers: exactly if both are ints, in double precision otherwise. */
function arithmetic(
  a: ExactValue,
  b: ExactValue,
  sign: string,
  ints: (x: bigint, y: bigint) => bigint,
  floats: (x: number, y: number) => number,
): ExactValue {
  const x = numberOf(a);
  const y = numberOf(b);
  if (x === undefined || y === undefined)
    throw typeError(`unsupported operand type(s) for ${sign}: '${pythonType(a)}' and '${pythonType(b)}'`);
  if (a instanceof Float || b instanceof Float) return new Float(floats(floatOf(x), floatOf(y)));
  return intOf(ints(BigInt(x), BigInt(y)));
}

/** An int as a float; OverflowError beyond the range. */
export function floatOf(value: Num): number {
  const converted = Number(value);
  if (typeof value === "bigint" && !Number.isFinite(converted))
    throw new PythonError("OverflowError", "int too large to convert to float");
  return converted;
}

export function add(a: ExactValue, b: ExactValue, sign = "+"): ExactValue {
  return arithmetic(
    a,
    b,
    sign,
    (x, y) => x + y,
    (x, y) => x + y,
  );
}

export function subtract(a: ExactValue, b: ExactValue, sign = "-"): ExactValue {
  return arithmetic(
    a,
    b,
    sign,
    (x, y) => x - y,
    (x, y) => x - y,
  );
}

/** `a * b`, sequences repeated by an int included. */
export function multiply(a: ExactValue, b: ExactValue): ExactValue {
  const count = isInt(a) || typeof a === "boolean" ? numberOf(a) : undefined;
  if (count !== undefined && typeof b === "string") return b.repeat(Math.max(0, Number(count)));
  if (count !== undefined && isArray(b)) return Array.from({ length: Math.max(0, Number(count)) }, () => b).flat();
  return arithmetic(
    a,
    b,
    "*",
    (x, y) => x * y,
    (x, y) => x * y,
  );
}

export function negate(value: ExactValue): ExactValue {
  if (value instanceof Float) return new Float(-value.value);
  const number = numberOf(value);
  if (number === undefined) throw typeError(`bad operand type for unary -: '${pythonType(value)}'`);
  return intOf(-number);
}

/** `a < b` and its like, of numbers, or of two strings: by code unit, as good as by code point for the texts compared here. */
export function compare(a: ExactValue, sign: "<" | "<=" | ">=", b: ExactValue): boolean {
  const x = numberOf(a) ?? (typeof b === "string" ? a : null);
  const y = numberOf(b) ?? (typeof a === "string" ? b : null);
  if (!isComparable(x) || !isComparable(y))
    throw typeError(`'${sign}' not supported between instances of '${pythonType(a)}' and '${pythonType(b)}'`);
  return sign === "<" ? x < y : sign === "<=" ? x <= y : x >= y;
}

const isComparable = (value: ExactValue): value is number | bigint | string =>
  typeof value === "number" || typeof value === "bigint" || typeof value === "string";

export const lessThan = (a: ExactValue, b: ExactValue): boolean => compare(a, "<", b);

/** What an `if` makes of a value. */
export function isTruthy(value: ExactValue): boolean {
  if (value === null || typeof value === "boolean" || typeof value === "string") return Boolean(value);
  const number = numberOf(value);
  return number === undefined ? iterate(value).length > 0 : Number(number) !== 0;
}

/** `max(0, value)`. */
export function atLeastZero(value: ExactValue): ExactValue {
  const number = numberOf(value);
  if (number === undefined) throw typeError(`'>' not supported between instances of '${pythonType(value)}' and 'int'`);
  return number > 0 ? value : 0;
}

/** `sum(values)`. */
export const sum = (values: readonly ExactValue[]): ExactValue => values.reduce((total, value) => add(total, value), 0);
