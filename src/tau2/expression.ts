/**
 * The `calculate` tool: Python's `str(round(float(eval(expression)), 2))` over digits, `+ - * / // **`, points, parentheses
 * and spaces. Ints are exact and of any size until a division or a float makes them floats, as in Python.
 */
import { type ExactValue, Float, floatRepr, intOf, isInt, pythonType, roundTwoDecimals } from "../base/exact.ts";
import { add, floatOf, iterate, multiply, negate, PythonError, subtract, typeError, valueError } from "./python.ts";

const ALLOWED = "0123456789+-*/(). ";

/** The result's text, or the original's exception. The argument is whatever the model sent. */
export function calculate(expression: ExactValue): string {
  for (const item of iterate(expression)) {
    if (typeof item !== "string")
      throw typeError(`'in <string>' requires string as left operand, not ${pythonType(item)}`);
    if (!ALLOWED.includes(item)) throw valueError("Invalid characters in expression");
  }
  if (typeof expression !== "string") throw typeError("eval() arg 1 must be a string, bytes or code object");
  const value = new Expression(expression).value();
  return floatRepr(roundTwoDecimals(value instanceof Float ? value.value : floatOf(value)));
}

type Num = number | bigint | Float;
/** A parsed expression. Parsing comes first, as in Python: `1 / 0 +` is a syntax error. */
type Thunk = () => Num;

const syntaxError = (message: string, line = 1): PythonError =>
  new PythonError("SyntaxError", `${message} (<string>, line ${line})`);

// Python's tokenizer refuses deeper parentheses; the same bound keeps chains of ** off our stack.
const MAX_DEPTH = 200;

class Expression {
  readonly #tokens: readonly string[];
  #next = 0;
  #depth = 0;
  #open = 0;

  constructor(text: string) {
    if (text.trim() === "") throw syntaxError("invalid syntax", 0);
    this.#tokens = text.match(/\d+\.\d*|\.\d+|\d+|\*\*|\/\/|[-+*/().]/g) ?? [];
    checkTokens(this.#tokens);
  }

  value(): Num {
    const thunk = this.#sum();
    if (this.#peek() !== undefined) this.#invalid();
    return thunk();
  }

  #peek(): string | undefined {
    return this.#tokens[this.#next];
  }

  #take(...wanted: readonly string[]): string | undefined {
    const token = this.#peek();
    if (token === undefined || !wanted.includes(token)) return undefined;
    this.#next++;
    return token;
  }

  /** Nothing fits here: an open parenthesis is named only if the text ends before anything else is wrong. */
  #invalid(): never {
    throw syntaxError(this.#peek() === undefined && this.#open > 0 ? "'(' was never closed" : "invalid syntax");
  }

  #sum(): Thunk {
    return this.#chain(["+", "-"], () => this.#product());
  }

  #product(): Thunk {
    return this.#chain(["*", "/", "//"], () => this.#unary());
  }

  /** Operands joined from left to right; a loop, so that length costs no stack. */
  #chain(signs: readonly string[], operand: () => Thunk): Thunk {
    const first = operand();
    const rest: [string, Thunk][] = [];
    for (let sign = this.#take(...signs); sign !== undefined; sign = this.#take(...signs)) rest.push([sign, operand()]);
    return rest.length === 0 ? first : () => rest.reduce((left, [sign, right]) => binary(sign, left, right()), first());
  }

  #unary(): Thunk {
    let negative = false;
    for (let sign = this.#take("+", "-"); sign !== undefined; sign = this.#take("+", "-"))
      negative = negative !== (sign === "-");
    const value = this.#power();
    return negative ? () => negate(value()) as Num : value;
  }

  #power(): Thunk {
    const base = this.#atom();
    if (this.#take("**") === undefined) return base;
    const exponent = this.#deeper(() => this.#unary());
    return () => power(base(), exponent());
  }

  #atom(): Thunk {
    let value = this.#peek() === "(" ? this.#parenthesis() : this.#literal();
    while (this.#peek() === "(") {
      // `2(3)` is a call in Python's grammar, and a number is not callable.
      const callee = value;
      this.#parenthesis();
      value = () => {
        throw typeError(`'${pythonType(callee())}' object is not callable`);
      };
    }
    return value;
  }

  #parenthesis(): Thunk {
    this.#take("(");
    this.#open++;
    const value = this.#peek() === ")" ? emptyTuple : this.#deeper(() => this.#sum());
    if (this.#take(")") === undefined) this.#invalid();
    this.#open--;
    return value;
  }

  #literal(): Thunk {
    const token = this.#peek();
    if (token === undefined || !/^\.?\d/.test(token)) this.#invalid();
    this.#next++;
    const value = token.includes(".") ? new Float(Number(token)) : intOf(BigInt(token));
    return () => value;
  }

  #deeper<T>(parse: () => T): T {
    if (++this.#depth > MAX_DEPTH) throw syntaxError("too many nested parentheses");
    const value = parse();
    this.#depth--;
    return value;
  }
}

const emptyTuple: Thunk = () => {
  throw typeError("float() argument must be a string or a real number, not 'tuple'");
};

/** What Python's tokenizer finds, wherever it stands, before any grammar. */
function checkTokens(tokens: readonly string[]): void {
  let open = 0;
  for (const token of tokens) {
    if (token === "(" && ++open > MAX_DEPTH) throw syntaxError("too many nested parentheses");
    if (token === ")" && --open < 0) throw syntaxError("unmatched ')'");
    if (/^0+[1-9]\d*$/.test(token))
      throw syntaxError(
        "leading zeros in decimal integer literals are not permitted; use an 0o prefix for octal integers",
      );
  }
}

function binary(sign: string, a: Num, b: Num): Num {
  switch (sign) {
    case "+":
      return add(a, b) as Num;
    case "-":
      return subtract(a, b) as Num;
    case "*":
      return multiply(a, b) as Num;
    case "/":
      return divide(a, b);
    default:
      return floorDivide(a, b);
  }
}

const overflow = (message: string): PythonError => new PythonError("OverflowError", message);
const zeroDivision = (message: string): PythonError => new PythonError("ZeroDivisionError", message);

const asFloat = (value: Num): number => (value instanceof Float ? value.value : floatOf(value));

/** True division; of two ints it is correctly rounded, also beyond the range in which they are exact as floats. */
function divide(a: Num, b: Num): Float {
  if (isInt(a) && isInt(b)) {
    if (BigInt(b) === 0n) throw zeroDivision("division by zero");
    if (typeof a === "number" && typeof b === "number") return new Float(a / b);
    return new Float(ratio(BigInt(a), BigInt(b)));
  }
  if (asFloat(b) === 0) throw zeroDivision("float division by zero");
  return new Float(asFloat(a) / asFloat(b));
}

/** a / b rounded once: a quotient of at least 66 bits with a sticky last bit, then scaled by a power of two. */
function ratio(a: bigint, b: bigint): number {
  const size = (value: bigint): number => (value < 0n ? -value : value).toString(2).length;
  const shift = 66 - (size(a) - size(b));
  const [numerator, denominator] = shift > 0 ? [a << BigInt(shift), b] : [a, b << BigInt(-shift)];
  const quotient = numerator / denominator;
  const sticky = numerator % denominator === 0n ? quotient : quotient | 1n;
  // In two steps, since 2 ** -shift alone may be out of range where the result is not.
  const half = Math.trunc(-shift / 2);
  const result = Number(sticky) * 2 ** half * 2 ** (-shift - half);
  if (!Number.isFinite(result)) throw overflow("integer division result too large for a float");
  return result;
}

function floorDivide(a: Num, b: Num): Num {
  if (isInt(a) && isInt(b)) {
    const [x, y] = [BigInt(a), BigInt(b)];
    if (y === 0n) throw zeroDivision("integer division or modulo by zero");
    const quotient = x / y;
    return intOf(x % y !== 0n && x < 0n !== y < 0n ? quotient - 1n : quotient);
  }
  const [x, y] = [asFloat(a), asFloat(b)];
  if (y === 0) throw zeroDivision("float floor division by zero");
  return new Float(floorOfQuotient(x, y));
}

/** Python's float floor division, which goes by the remainder: `1.0 // 0.1` is 9. */
function floorOfQuotient(x: number, y: number): number {
  const remainder = x % y;
  let quotient = (x - remainder) / y;
  if (remainder !== 0 && y < 0 !== remainder < 0) quotient -= 1;
  if (quotient === 0) return x / y < 0 || Object.is(x / y, -0) ? -0 : 0;
  const floor = Math.floor(quotient);
  return quotient - floor > 0.5 ? floor + 1 : floor;
}

// 2 ** 4194304 has a million digits; what is larger could only end in an overflow, after minutes.
const MAX_BITS = 4_194_304;

function power(base: Num, exponent: Num): Num {
  if (isInt(base) && isInt(exponent) && BigInt(exponent) >= 0n) {
    const bits = (BigInt(base) < 0n ? -BigInt(base) : BigInt(base)).toString(2).length;
    if (bits > 1 && bits * Number(exponent) > MAX_BITS) throw overflow("int too large to convert to float");
    return intOf(
      BigInt(base) ** (bits > 1 ? BigInt(exponent) : BigInt(exponent) === 0n ? 0n : 2n - (BigInt(exponent) % 2n)),
    );
  }
  const [x, y] = [asFloat(base), asFloat(exponent)];
  if (x === 0 && y < 0) throw zeroDivision("0.0 cannot be raised to a negative power");
  if (x < 0 && !Number.isInteger(y))
    throw typeError("float() argument must be a string or a real number, not 'complex'");
  const result = floatPower(x, y);
  if (!Number.isFinite(result) && Number.isFinite(x) && Number.isFinite(y))
    throw overflow("(34, 'Numerical result out of range')");
  return new Float(result);
}

// Beyond this the exact integers grow past a megabit, for results that have long left the range of floats.
const MAX_EXACT_EXPONENT = 512;

/** `x ** y` to the last bit where y is an integer: JavaScript's own multiplies in doubles there and is off by several. */
function floatPower(x: number, y: number): number {
  if (!Number.isInteger(y) || Math.abs(y) > MAX_EXACT_EXPONENT || !Number.isFinite(x) || x === 0) return x ** y;
  const [mantissa, exponent] = dyadic(x);
  const [top, bottom] = exponent >= 0 ? [mantissa << BigInt(exponent), 1n] : [mantissa, 1n << BigInt(-exponent)];
  const n = BigInt(Math.abs(y));
  try {
    return y >= 0 ? ratio(top ** n, bottom ** n) : ratio(bottom ** n, top ** n);
  } catch (error) {
    if (error instanceof PythonError) return Number.POSITIVE_INFINITY;
    throw error;
  }
}

/** A finite float as mantissa · 2^exponent, in integers. */
function dyadic(value: number): [bigint, number] {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  const raw = view.getBigUint64(0);
  const biased = Number((raw >> 52n) & 0x7ffn);
  const mantissa = (raw & 0xfffffffffffffn) | (biased === 0 ? 0n : 0x10000000000000n);
  return [raw >> 63n === 1n ? -mantissa : mantissa, Math.max(biased, 1) - 1075];
}
