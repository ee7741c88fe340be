/**
 * The keyword arguments of a Python call, read as the original reads them: `ast.parse` of the whole call, then literals and
 * bare names evaluated (SPEC section 11). Positional arguments are dropped but must be Python, so the parser knows the
 * grammar of expressions; it evaluates no operator but a sign.
 */
import {
  type ExactObject,
  type ExactValue,
  Float,
  floatRepr,
  intOf,
  objectOf,
  pythonEquals,
  pythonStr,
} from "../base/exact.ts";
import { negate, PythonError } from "./python.ts";

/** `a=1, b=[x]` → `{ a: 1, b: ["x"] }`; null: not Python, or a keyword's value is no literal. */
export function keywordArguments(argumentsText: string): ExactObject | null {
  try {
    const keywords = new Parser(tokenized(`f(${argumentsText})`)).statement();
    if (keywords === null || !keywords.every(([, value]) => isLiteral(value))) return null;
    const last = new Map(keywords.map(([name, value]) => [name ?? "None", value as Literal]));
    return objectOf([...last].map(([name, value]) => [name, exactly(value)]));
  } catch (error) {
    if (error instanceof NotPython) return null;
    throw error;
  }
}

class NotPython extends Error {}

function fail(): never {
  throw new NotPython();
}

// ---------------------------------------------------------------------------------------------------------------------
// Values

/** A constant that JSON has no word for. */
class Constant {
  constructor(
    readonly kind: "complex" | "bytes" | "ellipsis",
    readonly text: string,
  ) {}
}

class Tuple {
  constructor(readonly items: readonly Literal[]) {}
}

class Dict {
  constructor(readonly entries: readonly (readonly [Literal, Literal])[]) {}
}

type Literal = null | boolean | string | number | bigint | Float | Constant | Tuple | Dict | readonly Literal[];

/** A call, whose own keywords count if it is the outermost; by itself no literal. */
class Call {
  constructor(readonly keywords: readonly Keyword[]) {}
}

/** null: `**value`. */
type Keyword = readonly [name: string | null, value: Node];

/** Python, but no literal. */
const OTHER = Symbol("other expression");

type Node = Literal | Call | typeof OTHER;

/** For what is read, but not evaluated. */
const opaque = (_read: unknown): typeof OTHER => OTHER;

const isLiteral = (node: Node): node is Literal => node !== OTHER && !(node instanceof Call);

/** A collection is a literal if all its members are. */
function collection(members: readonly Node[], build: (literals: readonly Literal[]) => Node): Node {
  return members.every(isLiteral) ? build(members) : OTHER;
}

/** As pydantic writes it to JSON, which is how the original stores an action. */
function exactly(node: Literal): ExactValue {
  if (node instanceof Constant) return constantText(node);
  if (node instanceof Tuple) return node.items.map(exactly);
  if (node instanceof Dict) return objectOf(distinctKeys(node).map(([key, value]) => [keyText(key), exactly(value)]));
  return Array.isArray(node) ? node.map(exactly) : (node as ExactValue);
}

function constantText({ kind, text }: Constant): string {
  if (kind === "ellipsis")
    throw new PythonError("PydanticSerializationError", "Unable to serialize unknown type: <class 'ellipsis'>");
  return kind === "bytes" ? utf8Text(text) : text;
}

/** `bytes`: one character each. */
function utf8Text(bytes: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Buffer.from(bytes, "latin1"));
  } catch {
    throw new PythonError("UnicodeDecodeError", "'utf-8' codec can't decode bytes: invalid utf-8");
  }
}

/** A Python dict: of equal keys (`1 == True`) the first one stands, with the last value. */
function distinctKeys({ entries }: Dict): [Literal, Literal][] {
  const distinct: [Literal, Literal][] = [];
  for (const [key, value] of entries) {
    const same = distinct.find(([other]) => sameKind(key, other) && pythonEquals(exactly(key), exactly(other)));
    if (same === undefined) distinct.push([key, value]);
    else same[1] = value;
  }
  return distinct;
}

const sameKind = (a: Literal, b: Literal): boolean => a instanceof Constant === b instanceof Constant;

function keyText(key: Literal): string {
  if (key instanceof Tuple) return key.items.map(keyText).join(",");
  if (typeof key === "boolean") return String(key);
  return pythonStr(exactly(key));
}

const isHashable = (key: Literal): boolean =>
  key instanceof Tuple ? key.items.every(isHashable) : !(key instanceof Dict || Array.isArray(key));

function signed(sign: string, node: Node): Node {
  if (node instanceof Constant && node.kind === "complex")
    return sign === "-"
      ? new Constant("complex", node.text.startsWith("-") ? node.text.slice(1) : `-${node.text}`)
      : node;
  const isNumber = node instanceof Float || typeof node === "number" || typeof node === "bigint";
  if (sign === "~" || !(isNumber || typeof node === "boolean")) return OTHER;
  const value = negate(node);
  return (sign === "-" ? value : negate(value)) as Literal;
}

// ---------------------------------------------------------------------------------------------------------------------
// Tokens

interface Token {
  readonly kind: "name" | "number" | "string" | "sign" | "end";
  readonly text: string;
  /** Of a number or string. */
  readonly value: Node;
}

const SPACE = /(?:[ \t\f\r\n]|#[^\r\n]*)+/y;
const NAME = /[\p{ID_Start}_][\p{ID_Continue}]*/uy;
const STRING =
  /((?:[rR][bBfF]?|[bBfF][rR]?|[uU])?)('''(?:[^\\]|\\[\s\S])*?'''|"""(?:[^\\]|\\[\s\S])*?"""|'(?:[^'\\\r\n]|\\[\s\S])*'|"(?:[^"\\\r\n]|\\[\s\S])*")/y;
const NUMBER =
  /0[xX](?:_?[\da-fA-F])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+|(?:\d(?:_?\d)*)?\.\d(?:_?\d)*(?:[eE][+-]?\d(?:_?\d)*)?[jJ]?|\d(?:_?\d)*\.?(?:[eE][+-]?\d(?:_?\d)*)?[jJ]?/y;
const SIGN = /\.\.\.|\*\*|\/\/|<<|>>|<=|>=|==|!=|:=|[()[\]{},:.=+\-*/%&|^~<>@;]/y;
/** What may follow a number without a space. */
const AFTER_NUMBER = /(?:and|else|for|if|in|is|not|or)(?![\p{ID_Continue}])/uy;

function tokenized(source: string): Token[] {
  const tokens: Token[] = [];
  let at = 0;
  const take = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at;
    const match = pattern.exec(source);
    if (match !== null) at += match[0].length;
    return match;
  };
  const touches = (pattern: RegExp): boolean => {
    const before = at;
    const found = take(pattern) !== null;
    at = before;
    return found;
  };
  const next = (): Token => {
    const string = take(STRING);
    if (string !== null) return { kind: "string", text: "", value: stringValue(string[1] ?? "", string[2] ?? "") };
    const name = take(NAME)?.[0].normalize("NFKC");
    if (name !== undefined) return { kind: "name", text: name, value: OTHER };
    const number = take(NUMBER)?.[0];
    if (number === undefined) return { kind: "sign", text: take(SIGN)?.[0] ?? fail(), value: OTHER };
    if (touches(NAME) && !touches(AFTER_NUMBER)) fail();
    return { kind: "number", text: "", value: numberValue(number) };
  };
  for (take(SPACE); at < source.length; take(SPACE)) tokens.push(next());
  return [...tokens, { kind: "end", text: "", value: OTHER }];
}

function numberValue(digits: string): Node {
  const text = digits.replaceAll("_", "");
  if (/^0[xob]/i.test(text)) return intOf(BigInt(text));
  if (/j$/i.test(text)) return new Constant("complex", `${floatRepr(Number(text.slice(0, -1))).replace(/\.0$/, "")}j`);
  if (/[.e]/i.test(text)) return new Float(Number(text));
  if (/^0+[1-9]/.test(text)) fail();
  return intOf(BigInt(text));
}

function stringValue(prefix: string, quoted: string): Node {
  const marks = quoted.startsWith("'''") || quoted.startsWith('"""') ? 3 : 1;
  const body = quoted.slice(marks, -marks);
  const kind = prefix.toLowerCase();
  if (kind.includes("f")) return OTHER;
  if (!kind.includes("b")) return kind.includes("r") ? body : body.replace(ESCAPE, unescaped);
  if ([...body].some((character) => character > "\x7f")) fail();
  // Bytes know neither \u, \U nor \N: their backslash stays.
  const bytes = kind.includes("r") ? body : body.replace(ESCAPE, (whole, code) => byteUnescaped(whole, code));
  return new Constant("bytes", bytes);
}

const ESCAPE = /\\(\r\n|[0-7]{1,3}|x[\da-fA-F]{2}|u[\da-fA-F]{4}|U[\da-fA-F]{8}|[\s\S])/g;
const SIMPLE_ESCAPES: Readonly<Record<string, string>> = {
  "\n": "",
  "\r": "",
  "\r\n": "",
  "\\": "\\",
  "'": "'",
  '"': '"',
  a: "\x07",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
  v: "\v",
};

/** An unknown escape keeps its backslash; a cut one is no Python, nor (here) is a character's name, `\N{…}`. */
function unescaped(whole: string, code: string): string {
  const simple = SIMPLE_ESCAPES[code];
  if (simple !== undefined) return simple;
  if (/^[0-7]/.test(code)) return String.fromCharCode(Number.parseInt(code, 8));
  if (!/^[xuUN]/.test(code)) return whole;
  const point = Number.parseInt(code.slice(1), 16);
  return code.length === 1 || point > 0x10ffff ? fail() : String.fromCodePoint(point);
}

const byteUnescaped = (whole: string, code: string): string => (/^[uUN]/.test(code) ? whole : unescaped(whole, code));

// ---------------------------------------------------------------------------------------------------------------------
// Grammar

const RESERVED = new Set(
  "False None True and as assert async await break class continue def del elif else except finally for from global if import in is lambda nonlocal not or pass raise return try while with yield".split(
    " ",
  ),
);
const VALUES: Readonly<Record<string, Literal>> = { True: true, False: false, None: null };
const COMPARISONS = new Set(["<", ">", "==", ">=", "<=", "!=", "in", "is"]);
const OPERATORS = new Set(["|", "^", "&", "<<", ">>", "+", "-", "*", "/", "//", "%", "@"]);
/** Python gives up at 200 open brackets; prefixes and operands count here, too, for the stack's sake. */
const DEPTH_MAX = 400;

class Parser {
  #at = 0;
  #depth = 0;

  constructor(readonly tokens: readonly Token[]) {}

  /** The keywords of the first statement, if that is a call; null if it is something else. */
  statement(): readonly Keyword[] | null {
    const [first, ...more] = this.#list(() => this.#member(), ";");
    while (this.#take(";") && !this.#isEnd()) this.#list(() => this.#member(), ";");
    if (!this.#isEnd()) fail();
    return first instanceof Call && more.length === 0 ? first.keywords : null;
  }

  // Expressions, from the loosest binding down ------------------------------------------------------------------------

  #expression(): Node {
    return this.#deeper(() => {
      if (this.#take("lambda")) return this.#lambda();
      const value = this.#disjunction();
      if (!this.#take("if")) return value;
      this.#disjunction();
      this.#expect("else");
      this.#expression();
      return OTHER;
    });
  }

  /** `name := value`, or an expression. */
  #named(): Node {
    if (!(this.#isName() && this.#peek(1).text === ":=")) return this.#expression();
    this.#at += 2;
    this.#expression();
    return OTHER;
  }

  #lambda(): Node {
    while (!this.#take(":")) {
      const alone = this.#take("/") || ((this.#take("*") || this.#take("**")) && !this.#isName());
      if (!alone) this.#name();
      if (this.#take("=")) this.#expression();
      if (!this.#take(",") && !this.#is(":")) fail();
    }
    this.#expression();
    return OTHER;
  }

  #disjunction(): Node {
    return this.#chain(
      () => this.#inversion(),
      () => this.#take("and") || this.#take("or"),
    );
  }

  #inversion(): Node {
    if (this.#take("not")) return opaque(this.#deeper(() => this.#inversion()));
    return this.#chain(
      () => this.#arithmetic(),
      () => this.#takeComparison(),
    );
  }

  #takeComparison(): boolean {
    const isNotIn = this.#is("not") && this.#peek(1).text === "in";
    const isIsNot = this.#is("is") && this.#peek(1).text === "not";
    if (!isNotIn && !COMPARISONS.has(this.#sign())) return false;
    this.#at += isNotIn || isIsNot ? 2 : 1;
    return true;
  }

  #arithmetic(): Node {
    return this.#chain(
      () => this.#factor(),
      () => OPERATORS.has(this.#sign()) && this.#take(this.#sign()),
    );
  }

  /** Operands with operators between; alone the operand itself. */
  #chain(operand: () => Node, takeOperator: () => boolean): Node {
    const first = operand();
    if (!takeOperator()) return first;
    do operand();
    while (takeOperator());
    return OTHER;
  }

  #factor(): Node {
    const sign = this.#sign();
    if (sign === "+" || sign === "-" || sign === "~") {
      this.#at++;
      return signed(
        sign,
        this.#deeper(() => this.#factor()),
      );
    }
    const waits = this.#take("await");
    const base = this.#primary();
    if (this.#take("**")) return opaque(this.#deeper(() => this.#factor()));
    return waits ? OTHER : base;
  }

  #primary(): Node {
    let value = this.#atom();
    for (;;) {
      if (this.#take(".")) value = opaque(this.#name());
      else if (this.#take("(")) value = new Call(this.#deeper(() => this.#arguments()));
      else if (this.#take("[")) value = this.#deeper(() => this.#list(() => this.#slice(), "]") && this.#close("]"));
      else return value;
    }
  }

  #slice(): Node {
    if (this.#takeStarred()) return OTHER;
    if (!this.#is(":")) this.#named();
    for (let colons = 0; colons < 2 && this.#take(":"); colons++) {
      if (!this.#is(":") && !this.#is("]") && !this.#is(",")) this.#expression();
    }
    return OTHER;
  }

  #atom(): Node {
    const { kind, text, value } = this.#peek();
    if (kind === "string") return this.#strings();
    if (kind === "number" || this.#isName()) {
      this.#at++;
      return kind === "number" ? value : text;
    }
    if (Object.hasOwn(VALUES, text)) {
      this.#at++;
      return VALUES[text] as Literal;
    }
    if (this.#take("...")) return new Constant("ellipsis", "...");
    if (this.#take("(")) return this.#deeper(() => this.#parenthesis());
    if (this.#take("[")) return this.#deeper(() => this.#brackets());
    return this.#take("{") ? this.#deeper(() => this.#braces()) : fail();
  }

  /** Adjacent strings are one; text and bytes do not mix. */
  #strings(): Node {
    const parts: Node[] = [];
    for (; this.#peek().kind === "string"; this.#at++) parts.push(this.#peek().value);
    const bytes = parts.filter((part) => part instanceof Constant);
    if (bytes.length > 0 && bytes.length < parts.length) fail();
    if (bytes.length > 0) return new Constant("bytes", bytes.map(({ text }) => text).join(""));
    return parts.includes(OTHER) ? OTHER : parts.join("");
  }

  // Collections -------------------------------------------------------------------------------------------------------

  #parenthesis(): Node {
    if (this.#take(")")) return new Tuple([]);
    if (this.#take("yield")) {
      if (this.#take("from")) this.#expression();
      else if (!this.#is(")")) this.#list(() => this.#member(), ")");
      return this.#close(")");
    }
    const isStarred = this.#is("*");
    const first = this.#member();
    if (this.#takeComprehension()) return this.#close(")");
    if (this.#is(",")) return collection(this.#rest(first, ")"), (literals) => new Tuple(literals));
    if (isStarred) fail();
    this.#expect(")");
    return first;
  }

  #brackets(): Node {
    if (this.#take("]")) return [];
    const first = this.#member();
    if (this.#takeComprehension()) return this.#close("]");
    return collection(this.#rest(first, "]"), (literals) => literals);
  }

  /** A dict, or a set, whose first member has no `:` behind it. */
  #braces(): Node {
    if (this.#take("}")) return new Dict([]);
    if (this.#is("**")) return this.#dict([]);
    const isPlain = !this.#is("*") && this.#peek(1).text !== ":=";
    const first = this.#member();
    if (isPlain && this.#is(":")) return this.#dict([], first);
    if (this.#takeComprehension()) return this.#close("}");
    return opaque(this.#rest(first, "}"));
  }

  /** `key`: of the first entry, where it is read already. */
  #dict(pairs: [Node, Node][], key?: Node): Node {
    if (key === undefined && this.#take("**")) pairs.push([opaque(this.#arithmetic()), OTHER]);
    else {
      const name = key === undefined ? this.#expression() : key;
      this.#expect(":");
      pairs.push([name, this.#expression()]);
    }
    if (pairs.length === 1 && this.#takeComprehension()) return this.#close("}");
    if (this.#take(",") && !this.#is("}")) return this.#dict(pairs);
    this.#expect("}");
    return collection(pairs.flat(), () => {
      const entries = pairs as [Literal, Literal][];
      return entries.every(([name]) => isHashable(name)) ? new Dict(entries) : OTHER;
    });
  }

  /** `*iterable`, `name := value` or an expression. */
  #member(): Node {
    return this.#takeStarred() ? OTHER : this.#named();
  }

  #takeStarred(): boolean {
    if (!this.#take("*")) return false;
    this.#arithmetic();
    return true;
  }

  /** The first member and what follows it, the closing bracket included. */
  #rest(first: Node, close: string): Node[] {
    const more = this.#take(",") && !this.#is(close) ? this.#list(() => this.#member(), close) : [];
    this.#expect(close);
    return [first, ...more];
  }

  /** One or more, separated by commas; a comma may come last. */
  #list(parse: () => Node, end: string): Node[] {
    const found: Node[] = [parse()];
    while (this.#take(",")) {
      if (this.#is(end) || this.#isEnd()) break;
      found.push(parse());
    }
    return found;
  }

  /** `for target in iterable if condition …` */
  #takeComprehension(): boolean {
    if (!this.#is("for") && !this.#is("async")) return false;
    while (this.#is("for") || this.#is("async")) {
      this.#take("async");
      this.#expect("for");
      do {
        this.#take("*");
        this.#primary();
      } while (this.#take(",") && !this.#is("in"));
      this.#expect("in");
      this.#disjunction();
      while (this.#take("if")) this.#disjunction();
    }
    return true;
  }

  // Arguments ---------------------------------------------------------------------------------------------------------

  #arguments(): Keyword[] {
    const keywords: Keyword[] = [];
    for (let count = 1; !this.#take(")"); count++) {
      const keyword = this.#argument(keywords);
      if (keyword !== null) keywords.push(keyword);
      else if (this.#takeComprehension() && (count > 1 || !this.#is(")"))) fail();
      if (!this.#take(",") && !this.#is(")")) fail();
    }
    return keywords;
  }

  /** A keyword, or null for a positional argument, which must not follow keywords. */
  #argument(before: readonly Keyword[]): Keyword | null {
    if (this.#take("**")) return [null, this.#expression()];
    if (this.#take("*")) {
      if (before.some(([name]) => name === null)) fail();
      this.#expression();
      return null;
    }
    if (this.#isName() && this.#peek(1).text === "=") {
      const name = this.#name();
      this.#expect("=");
      return [name, this.#expression()];
    }
    if (before.length > 0) fail();
    this.#named();
    return null;
  }

  // Tokens ------------------------------------------------------------------------------------------------------------

  #peek(ahead = 0): Token {
    return this.tokens[Math.min(this.#at + ahead, this.tokens.length - 1)] as Token;
  }

  /** The sign or word that is next; empty for a number or a string. */
  #sign(): string {
    return this.#peek().text;
  }

  #is(text: string): boolean {
    return this.#sign() === text;
  }

  #isEnd(): boolean {
    return this.#peek().kind === "end";
  }

  #isName(): boolean {
    const { kind, text } = this.#peek();
    return kind === "name" && !RESERVED.has(text);
  }

  #name(): string {
    const { text } = this.#isName() ? this.#peek() : fail();
    this.#at++;
    return text;
  }

  #take(text: string): boolean {
    const found = this.#is(text);
    if (found) this.#at++;
    return found;
  }

  #expect(text: string): void {
    if (!this.#take(text)) fail();
  }

  #close(bracket: string): typeof OTHER {
    this.#expect(bracket);
    return OTHER;
  }

  #deeper<T>(parse: () => T): T {
    if (++this.#depth > DEPTH_MAX) fail();
    const parsed = parse();
    this.#depth--;
    return parsed;
  }
}
