/** Placeholder until the exact-number module lands: values in which Python's int and float stay apart. */
export type ExactValue = unknown;
export type ExactObject = Readonly<Record<string, unknown>>;
