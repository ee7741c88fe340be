/**
 * Copy-on-write databases. A `DatabaseImage` is parsed once per domain and never changes; each environment's `Database`
 * holds only what it changed. Entities are immutable: a tool replaces one, it never edits one. So a new environment costs
 * less than a microsecond, and the hash of a changed database reads only the text from the first change on.
 *
 * A root field is a table (a dict of entities, by the thousand) or a value that is replaced as a whole: a list of a few
 * entities or a nested record, whose unchanged parts keep their text (record-text.ts).
 *
 * The hash is tau2's (SPEC section 2.4): SHA-256 of the JSON text with the keys of every object sorted.
 */
import {
  compareCodePoints,
  dumps,
  type ExactObject,
  type ExactValue,
  entriesOf,
  isObject,
  objectOf,
  sortedKeys,
} from "../base/exact.ts";
import { PythonError } from "./python.ts";
import { canonicalText } from "./record-text.ts";

/** One hashable piece of an image: its place in the image's canonical text, in bytes. */
interface Span {
  readonly start: number;
  readonly end: number;
}

interface TableLayout {
  /** Sorted as in the text. */
  readonly keys: readonly string[];
  readonly spans: readonly Span[];
  /** From the table's name to its closing brace. */
  readonly whole: Span;
}

interface Layout {
  readonly bytes: Uint8Array;
  /** Every root field in text order: a table, or a plain value. */
  readonly fields: readonly { readonly name: string; readonly table: TableLayout | null; readonly whole: Span }[];
  /** Hash state of the text before byte `i * CHECKPOINT_BYTES`. */
  readonly checkpoints: readonly Bun.CryptoHasher[];
  readonly digest: string;
}

const CHECKPOINT_BYTES = 32 * 1024;
const KNOWN_DIGESTS_MAX = 4096;

/** The state that every environment of a domain starts from. */
export class DatabaseImage {
  readonly tables: ReadonlyMap<string, ReadonlyMap<string, ExactObject>>;
  /** What changes to this image, by their own digest, hash to. */
  readonly knownDigests = new Map<string, string>();
  #layout: Layout | undefined;

  /** `tables` are the root fields that are dicts of entities, the others are replaced as a whole; `name` is the root's class. */
  constructor(
    readonly root: ExactObject,
    tables: readonly string[],
    readonly name = "DB",
  ) {
    this.tables = new Map(
      tables.map((name) => [name, new Map(entriesOf(root[name] as ExactObject) as [string, ExactObject][])]),
    );
  }

  /** Where everything stands in the canonical text; made at the first hash, since it costs a tenth of a second. */
  get layout(): Layout {
    this.#layout ??= layOut(this);
    return this.#layout;
  }
}

function layOut(image: DatabaseImage): Layout {
  const parts: string[] = [];
  let length = 0;
  const write = (text: string): void => {
    parts.push(text);
    length += text.length; // the text is ASCII: units are bytes
  };
  const fields = sortedKeys(image.root).map((name, i) => {
    write(`${i === 0 ? "{" : ", "}`);
    const start = length;
    write(`${dumps(name)}: `);
    const entities = image.tables.get(name);
    const table = entities === undefined ? null : layOutTable(entities, write, () => length);
    if (table === null) write(canonicalText(image.root[name] as ExactValue));
    const whole = { start, end: length };
    return { name, table: table && { ...table, whole }, whole };
  });
  write(fields.length === 0 ? "{}" : "}");
  const bytes = new TextEncoder().encode(parts.join(""));
  return { bytes, fields, ...checkpointsOf(bytes) };
}

function layOutTable(
  entities: ReadonlyMap<string, ExactObject>,
  write: (text: string) => void,
  position: () => number,
): Omit<TableLayout, "whole"> {
  const keys = [...entities.keys()].sort(compareCodePoints);
  write("{");
  const spans = keys.map((key, i) => {
    if (i > 0) write(", ");
    const start = position();
    // Not by `canonicalText`: the image's text is kept in bytes, and once is enough.
    write(`${dumps(key)}: ${dumps(entities.get(key) as ExactObject, { sorted: true })}`);
    return { start, end: position() };
  });
  write("}");
  return { keys, spans };
}

function checkpointsOf(bytes: Uint8Array): { checkpoints: Bun.CryptoHasher[]; digest: string } {
  const hasher = new Bun.CryptoHasher("sha256");
  const checkpoints: Bun.CryptoHasher[] = [];
  for (let at = 0; at < bytes.length; at += CHECKPOINT_BYTES) {
    checkpoints.push(hasher.copy());
    hasher.update(bytes.subarray(at, at + CHECKPOINT_BYTES));
  }
  return { checkpoints, digest: hasher.digest("hex") };
}

const entryText = (key: string, entity: ExactValue): string => `${dumps(key)}: ${canonicalText(entity)}`;

/** A dict of entities of one environment: the image's, with its own changes over them. */
export class Table<E extends ExactObject> {
  /** null: removed. */
  readonly #changes = new Map<string, E | null>();

  constructor(
    readonly base: ReadonlyMap<string, E>,
    readonly onChange: () => void,
  ) {}

  get changes(): ReadonlyMap<string, E | null> {
    return this.#changes;
  }

  get(key: string): E | undefined {
    const own = this.#changes.get(key);
    return own === undefined ? this.base.get(key) : (own ?? undefined);
  }

  has(key: string): boolean {
    return this.get(key) !== undefined;
  }

  set(key: string, entity: E): void {
    this.#changes.set(key, entity);
    this.onChange();
  }

  delete(key: string): void {
    if (this.base.has(key)) this.#changes.set(key, null);
    else this.#changes.delete(key);
    this.onChange();
  }

  get size(): number {
    let size = this.base.size;
    for (const [key, entity] of this.#changes) size += Number(entity !== null) - Number(this.base.has(key));
    return size;
  }

  /** In the image's order, new entities last. */
  *entries(): Generator<[string, E]> {
    for (const [key, entity] of this.base) {
      const own = this.#changes.get(key);
      if (own !== null) yield [key, own ?? entity];
    }
    for (const [key, entity] of this.#changes) if (entity !== null && !this.base.has(key)) yield [key, entity];
  }

  *values(): Generator<E> {
    for (const [, entity] of this.entries()) yield entity;
  }
}

/** The state of one environment. */
export class Database {
  readonly #tables = new Map<string, Table<ExactObject>>();
  readonly #values = new Map<string, ExactValue>();
  #digest: string | undefined;
  #version = 0;

  constructor(readonly image: DatabaseImage) {}

  /** A dict of entities; `E` is what the caller knows of them. */
  table<E extends ExactObject>(name: string): Table<E> {
    let table = this.#tables.get(name);
    if (table === undefined) {
      const base = this.image.tables.get(name);
      if (base === undefined) throw this.#lacks(name);
      table = new Table(base, () => this.#changed());
      this.#tables.set(name, table);
    }
    return table as unknown as Table<E>;
  }

  /** Initialization data can put one side's database in the place of the other's (SPEC section 4a). */
  #lacks(name: string): PythonError {
    return new PythonError("AttributeError", `'${this.image.name}' object has no attribute '${name}'`);
  }

  /** A root field that is no table. */
  value(name: string): ExactValue {
    const own = this.#values.get(name);
    const value = own === undefined ? this.image.root[name] : own;
    if (value === undefined) throw this.#lacks(name);
    return value;
  }

  setValue(name: string, value: ExactValue): void {
    this.#values.set(name, value);
    this.#changed();
  }

  /** Grows with every change. */
  get version(): number {
    return this.#version;
  }

  #changed(): void {
    this.#digest = undefined;
    this.#version++;
  }

  /** tau2's hash of the whole state, in hexadecimal. */
  hash(): string {
    this.#digest ??= this.#isUnchanged() ? this.image.layout.digest : this.#changedHash();
    return this.#digest;
  }

  /** The same changes give the same state, and the rollouts of a task make the same ones again and again. */
  #changedHash(): string {
    const { knownDigests, layout } = this.image;
    if (layout.bytes.length < CHECKPOINT_BYTES) return this.#computeHash();
    const changes = this.#changesDigest();
    const digest = knownDigests.get(changes) ?? this.#computeHash();
    knownDigests.set(changes, digest);
    if (knownDigests.size > KNOWN_DIGESTS_MAX) knownDigests.delete(knownDigests.keys().next().value as string);
    return digest;
  }

  /** Names what was changed, and to what; costs as much as the changes are long. */
  #changesDigest(): string {
    const hasher = new Bun.CryptoHasher("sha256");
    for (const { name } of this.image.layout.fields) {
      if (!this.#isChanged(name)) continue;
      const table = this.#changedTable(name);
      hasher.update(`\n${dumps(name)}`);
      if (table === null) hasher.update(canonicalText(this.value(name)));
      else
        for (const key of [...table.changes.keys()].sort(compareCodePoints)) {
          const entity = table.changes.get(key) ?? null;
          hasher.update(`\n${entryText(key, entity)}`);
        }
    }
    return hasher.digest("base64");
  }

  /** The whole state as one value, for merging and for people. */
  dump(): ExactObject {
    return objectOf(
      Object.keys(this.image.root).map((name) => [
        name,
        this.image.tables.has(name) ? objectOf(this.table(name).entries()) : this.value(name),
      ]),
    );
  }

  #changedTable(name: string): Table<ExactObject> | null {
    const table = this.#tables.get(name);
    return table === undefined || table.changes.size === 0 ? null : table;
  }

  #isUnchanged(): boolean {
    return Object.keys(this.image.root).every((name) => !this.#isChanged(name));
  }

  #isChanged(name: string): boolean {
    return this.#changedTable(name) !== null || this.#values.has(name);
  }

  #computeHash(): string {
    const { layout } = this.image;
    const first = layout.fields.findIndex(({ name }) => this.#isChanged(name));
    const text = new TextAfterChange(layout);
    for (const [i, field] of layout.fields.entries()) {
      const table = this.#changedTable(field.name);
      if (i < first || !this.#isChanged(field.name)) text.keep(field.whole);
      else if (field.table !== null && table !== null) writeTable(text, field.name, field.table, table.changes);
      else text.write(entryText(field.name, this.value(field.name)));
      text.write(i + 1 < layout.fields.length ? ", " : "}");
    }
    return text.digest();
  }
}

/** Writes one table's text: spans of the image where it is unchanged, new text where it is not. */
function writeTable(
  text: TextAfterChange,
  name: string,
  layout: TableLayout,
  changes: ReadonlyMap<string, ExactObject | null>,
): void {
  text.write(`${dumps(name)}: {`);
  let separator = "";
  const emit = (write: () => void): void => {
    text.write(separator);
    write();
    separator = ", ";
  };
  const keep = (from: number, to: number): void => {
    if (from < to)
      emit(() => text.keep({ start: (layout.spans[from] as Span).start, end: (layout.spans[to - 1] as Span).end }));
  };
  let next = 0;
  for (const key of [...changes.keys()].sort(compareCodePoints)) {
    const at = lowerBound(layout.keys, key);
    keep(next, at);
    const entity = changes.get(key);
    if (entity) emit(() => text.write(entryText(key, entity)));
    next = layout.keys[at] === key ? at + 1 : at;
  }
  keep(next, layout.keys.length);
  text.write("}");
}

function lowerBound(keys: readonly string[], key: string): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compareCodePoints(keys[middle] as string, key) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** A text that begins like the image's: as long as it does, nothing is hashed; then the nearest checkpoint is taken up. */
class TextAfterChange {
  /** How far the text equals the image's; null once they part. */
  #same: number | null = 1; // the opening brace
  #hasher: Bun.CryptoHasher | undefined;

  constructor(readonly layout: Layout) {}

  keep({ start, end }: Span): void {
    if (this.#same === start) this.#same = end;
    else this.#resume().update(this.layout.bytes.subarray(start, end));
  }

  write(text: string): void {
    if (this.#same !== null && this.#continues(text, this.#same)) this.#same += text.length;
    else this.#resume().update(text);
  }

  digest(): string {
    return this.#resume().digest("hex");
  }

  #continues(text: string, at: number): boolean {
    for (let i = 0; i < text.length; i++) if (this.layout.bytes[at + i] !== text.charCodeAt(i)) return false;
    return true;
  }

  #resume(): Bun.CryptoHasher {
    if (this.#hasher !== undefined) return this.#hasher;
    const same = this.#same ?? 0;
    const checkpoint = Math.min(Math.floor(same / CHECKPOINT_BYTES), this.layout.checkpoints.length - 1);
    const hasher = (this.layout.checkpoints[checkpoint] as Bun.CryptoHasher).copy();
    hasher.update(this.layout.bytes.subarray(checkpoint * CHECKPOINT_BYTES, same));
    this.#hasher = hasher;
    this.#same = null;
    return hasher;
  }
}

/** tau2's `update_with_values`: dicts merge, lists and scalars are replaced. */
export function deepMerge(base: ExactObject, update: ExactObject): ExactObject {
  const merged = new Map(entriesOf(base));
  for (const [key, value] of entriesOf(update)) {
    const old = merged.get(key);
    merged.set(key, old !== undefined && isObject(old) && isObject(value) ? deepMerge(old, value) : value);
  }
  return objectOf(merged);
}
