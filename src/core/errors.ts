/** Errors of the core. Branch on the code, show the message. */

export type EngineCode =
  | "BadArgument"
  | "BadHandle"
  | "BufferTooSmall"
  | "OutOfMemory"
  | "NonFinite"
  | "CommLost"
  | "EngineLost"
  | "Panic"
  | "Cancelled"
  | "Io";

export class EngineError extends Error {
  override readonly name = "EngineError";
  readonly code: EngineCode;

  constructor(code: EngineCode, message: string) {
    super(message);
    this.code = code;
  }
}
