/**
 * Requests to one engine and their answers. `submit` returns at once; the core rings a socket when answers wait, and one
 * call drains them all. The event loop is never blocked, and the process may end while nothing is outstanding.
 */
import { type Pointer, ptr } from "bun:ffi";
import type { Socket } from "bun";
import { ALIGNMENT, CODES, codeOf, KINDS, type Kind, STRUCTS } from "./abi.ts";
import { EngineError } from "./errors.ts";
import type { Library } from "./library.ts";

/** Arrays of a request. What a kind does not need is left out. */
export interface Arrays {
  readonly tokens?: Uint32Array;
  readonly offsets?: Uint32Array;
  readonly weights?: Float32Array;
  readonly advantages?: Float32Array;
  readonly old_logprobs?: Float32Array;
  readonly target_ids?: Uint32Array;
  readonly target_logprobs?: Float32Array;
}

export interface Answer {
  readonly text: string;
  readonly tokens: Uint32Array;
  readonly values: Float32Array;
}

interface Waiting {
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: EngineError) => void;
}

const OUT_BYTES = 1 << 20;
const LITTLE_ENDIAN = true;

export class Connection implements Disposable {
  readonly #library: Library;
  readonly #engine: number;
  readonly #waiting = new Map<number, Waiting>();
  readonly #drained = struct(STRUCTS.Drained.size);
  #out = new Uint8Array(OUT_BYTES);
  #socket: Socket | null = null;
  #ids = 0;
  #closed = false;

  private constructor(library: Library, engine: number) {
    this.#library = library;
    this.#engine = engine;
  }

  static async open(library: Library, options: object): Promise<Connection> {
    const { size, fields } = STRUCTS.Opened;
    const opened = struct(size);
    const json = new TextEncoder().encode(JSON.stringify(options));
    checked(library, library.grpo_open(json, json.length, opened.bytes));
    const connection = new Connection(library, Number(opened.view.getBigUint64(fields.engine, LITTLE_ENDIAN)));
    await connection.#listen(opened.view.getInt32(fields.doorbell_fd, LITTLE_ENDIAN));
    return connection;
  }

  /** The answer comes when the core is done; `signal` cancels a sample, other kinds run to their end. */
  async submit(kind: Kind, control: object, arrays: Arrays = {}, signal?: AbortSignal): Promise<Answer> {
    return this.submitText(kind, JSON.stringify(control), arrays, signal);
  }

  async submitText(kind: Kind, control: string, arrays: Arrays = {}, signal?: AbortSignal): Promise<Answer> {
    if (this.#closed) throw new EngineError("BadHandle", `${kind}: the engine is closed`);
    const id = ++this.#ids;
    this.#send(kind, id, new TextEncoder().encode(control), arrays);
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    this.#waiting.set(id, { resolve, reject });
    if (this.#waiting.size === 1) this.#socket?.ref();
    const cancel = () => this.#cancel(id);
    if (signal?.aborted) cancel();
    signal?.addEventListener("abort", cancel, { once: true });
    return promise.finally(() => signal?.removeEventListener("abort", cancel));
  }

  release(sequence: number): void {
    if (!this.#closed) checked(this.#library, this.#library.grpo_release(this.#engine, sequence));
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    checked(this.#library, this.#library.grpo_close(this.#engine));
    this.#socket?.terminate();
    this.#failAll(new EngineError("Cancelled", "the engine was closed"));
  }

  async #listen(fd: number): Promise<void> {
    const lost = () => {
      if (!this.#closed) this.#failAll(new EngineError("EngineLost", "the engine's socket was closed"));
    };
    const handlers = { data: () => this.#drain(), close: lost, error: lost };
    // Typed for `hostname` and `unix` alone; `fd` is described beside them (FdSocketOptions).
    const options = { fd, socket: handlers } as unknown as Parameters<typeof Bun.connect<undefined>>[0];
    const socket = await Bun.connect<undefined>(options);
    socket.unref();
    this.#socket = socket;
  }

  #send(kind: Kind, id: number, control: Uint8Array, arrays: Arrays): void {
    const { size, fields } = STRUCTS.Submission;
    const submission = struct(size);
    const u64 = (field: keyof typeof fields, value: number) =>
      submission.view.setBigUint64(fields[field], BigInt(value), LITTLE_ENDIAN);
    submission.view.setUint32(fields.kind, KINDS[kind], LITTLE_ENDIAN);
    u64("id", id);
    u64("control", addressOf(control));
    u64("control_len", control.length);
    u64("tokens", addressOf(arrays.tokens));
    u64("tokens_len", arrays.tokens?.length ?? 0);
    u64("offsets", addressOf(arrays.offsets));
    u64("offsets_len", arrays.offsets?.length ?? 0);
    u64("weights", addressOf(arrays.weights));
    u64("advantages", addressOf(arrays.advantages));
    u64("old_logprobs", addressOf(arrays.old_logprobs));
    u64("values_len", commonLength(arrays));
    u64("target_ids", addressOf(arrays.target_ids));
    u64("target_logprobs", addressOf(arrays.target_logprobs));
    u64("targets_len", targetsLength(arrays));
    checked(this.#library, this.#library.grpo_submit(this.#engine, submission.bytes));
  }

  #cancel(id: number): void {
    if (!this.#closed) checked(this.#library, this.#library.grpo_cancel(this.#engine, id));
  }

  /** Until the core says that its queue was empty; it rings again for what comes after that. */
  #drain(): void {
    const { fields } = STRUCTS.Drained;
    for (let needed = 1; needed > 0 && !this.#closed; ) {
      const status = this.#library.grpo_drain(this.#engine, this.#drained.bytes, this.#out, this.#out.length);
      needed = Number(this.#drained.view.getBigUint64(fields.bytes_needed, LITTLE_ENDIAN));
      if (status !== CODES.BufferTooSmall) checked(this.#library, status);
      this.#settle(this.#drained.view.getUint32(fields.count, LITTLE_ENDIAN));
      if (needed > this.#out.length) this.#out = new Uint8Array(needed);
    }
    if (this.#waiting.size === 0) this.#socket?.unref();
  }

  #settle(count: number): void {
    for (let at = 0, record = 0; record < count; record++) {
      const { id, status, answer, bytes } = readRecord(this.#out, at);
      at += bytes;
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (status === 0) waiting?.resolve(answer);
      else waiting?.reject(new EngineError(codeOf(status), answer.text));
    }
  }

  #failAll(error: EngineError): void {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}

/** Bytes of a struct whose first field, its size, is set. */
function struct(size: number): { readonly bytes: Uint8Array; readonly view: DataView } {
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, size, LITTLE_ENDIAN);
  return { bytes, view };
}

/** One finished request at byte `at`: header, text, tokens, values. Everything is copied out. */
function readRecord(out: Uint8Array, at: number) {
  const { size, fields } = STRUCTS.CompletionHeader;
  const header = new DataView(out.buffer, out.byteOffset + at, size);
  const u32 = (field: keyof typeof fields) => header.getUint32(fields[field], LITTLE_ENDIAN);
  const textAt = at + size;
  const tokensAt = textAt + aligned(u32("text_len"));
  const valuesAt = tokensAt + aligned(4 * u32("tokens_len"));
  return {
    id: Number(header.getBigUint64(fields.id, LITTLE_ENDIAN)),
    status: header.getInt32(fields.status, LITTLE_ENDIAN),
    bytes: u32("record_bytes"),
    answer: {
      text: new TextDecoder().decode(out.subarray(textAt, textAt + u32("text_len"))),
      tokens: new Uint32Array(out.slice(tokensAt, tokensAt + 4 * u32("tokens_len")).buffer),
      values: new Float32Array(out.slice(valuesAt, valuesAt + 4 * u32("values_len")).buffer),
    },
  };
}

const aligned = (bytes: number) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** Null for what is absent or empty: Bun has no address for an empty array. */
const addressOf = (array: Uint8Array | Uint32Array | Float32Array | undefined): Pointer | 0 =>
  array === undefined || array.length === 0 ? 0 : ptr(array);

function commonLength({ weights, advantages, old_logprobs }: Arrays): number {
  const lengths = [weights, advantages, old_logprobs].map((values) => values?.length ?? 0);
  const [length = 0] = lengths;
  if (lengths.some((other) => other !== length)) {
    throw new EngineError("BadArgument", `the f32 arrays have ${lengths.join(", ")} values`);
  }
  return length;
}

function targetsLength({ target_ids, target_logprobs }: Arrays): number {
  const [ids = 0, logprobs = 0] = [target_ids?.length, target_logprobs?.length];
  if (ids !== logprobs) throw new EngineError("BadArgument", `${ids} target ids, ${logprobs} log-probabilities`);
  return ids;
}

/** Throws what the core says about the call of this thread that just failed. */
export function checked(library: Library, status: number): void {
  if (status === 0) return;
  const out = new Uint8Array(4096);
  const bytes = Number(library.grpo_last_error(out, out.length));
  const message = bytes > out.length ? "(the message is too long)" : new TextDecoder().decode(out.subarray(0, bytes));
  throw new EngineError(codeOf(status), message);
}
