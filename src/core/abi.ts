/**
 * The C ABI of core-rs/src/ffi, mirrored by hand; tests/core/abi.test.ts compares it with what the library reports.
 * Control is JSON, bulk is typed arrays, the caller owns every buffer and the core keeps no pointer after a call.
 */
import type { FFIFunction } from "bun:ffi";
import type { EngineCode } from "./errors.ts";

export const ABI_VERSION = 3;

export const SYMBOLS = {
  /** () → version */
  grpo_abi_version: { args: [], returns: "u32" },
  /** (out, capacity) → bytes there are */
  grpo_layout: { args: ["ptr", "u64"], returns: "i64" },
  /** (out, capacity) → bytes there are: the message of this thread's last failed call */
  grpo_last_error: { args: ["ptr", "u64"], returns: "i64" },
  /** (options JSON, its bytes, Opened) → status */
  grpo_open: { args: ["ptr", "u64", "ptr"], returns: "i32" },
  /** (engine) → status */
  grpo_close: { args: ["u64"], returns: "i32" },
  /** (engine, Submission) → status */
  grpo_submit: { args: ["u64", "ptr"], returns: "i32" },
  /** (engine, sequence) → status */
  grpo_release: { args: ["u64", "u64"], returns: "i32" },
  /** (engine, request id) → status */
  grpo_cancel: { args: ["u64", "u64"], returns: "i32" },
  /** (engine, Drained, out, capacity) → status */
  grpo_drain: { args: ["u64", "ptr", "ptr", "u64"], returns: "i32" },
} as const satisfies Record<string, FFIFunction>;

/** Status of a call and of a finished request; 0 is success. */
export const CODES = {
  BadArgument: -1,
  BadHandle: -2,
  BufferTooSmall: -3,
  OutOfMemory: -4,
  NonFinite: -5,
  CommLost: -6,
  EngineLost: -7,
  Panic: -8,
  Cancelled: -9,
  Io: -10,
} as const satisfies Record<EngineCode, number>;

export const KINDS = {
  load_model: 1,
  render: 2,
  tokenize: 3,
  decode: 4,
  sample: 5,
  forward_backward: 6,
  optimizer_step: 7,
  logprobs: 8,
  weight_op: 9,
  save: 10,
  save_state: 11,
  load_state: 12,
  add_importance: 13,
  top_logprobs: 14,
  digest: 15,
  timings: 16,
} as const;

export type Kind = keyof typeof KINDS;

/** Parts of a record (header, text, tokens, values) start at multiples of this. */
export const ALIGNMENT = 8;

/** Sizes and field offsets in bytes. Pointers and lengths are u64; lengths count values. Each `size` field is a u32. */
export const STRUCTS = {
  /** u32 size · i32 doorbell_fd · u64 engine */
  Opened: { size: 16, fields: { size: 0, doorbell_fd: 4, engine: 8 } },
  /** u32 size · u32 kind · u64 everything else; `values_len` is the length of each of the three f32 arrays per token, `targets_len` of each target array. */
  Submission: {
    size: 120,
    fields: {
      size: 0,
      kind: 4,
      id: 8,
      control: 16,
      control_len: 24,
      tokens: 32,
      tokens_len: 40,
      offsets: 48,
      offsets_len: 56,
      weights: 64,
      advantages: 72,
      old_logprobs: 80,
      values_len: 88,
      target_ids: 96,
      target_logprobs: 104,
      targets_len: 112,
    },
  },
  /** u32 size · u32 count · u64 bytes · u64 bytes_needed (of the next record, when it did not fit) */
  Drained: { size: 24, fields: { size: 0, count: 4, bytes: 8, bytes_needed: 16 } },
  /** u32 size · i32 status · u64 id · u32 text_len (bytes) · u32 tokens_len · u32 values_len · u32 record_bytes */
  CompletionHeader: {
    size: 32,
    fields: { size: 0, status: 4, id: 8, text_len: 16, tokens_len: 20, values_len: 24, record_bytes: 28 },
  },
} as const;

export const codeOf = (status: number): EngineCode =>
  (Object.keys(CODES) as EngineCode[]).find((code) => CODES[code] === status) ?? "EngineLost";
