/**
 * Answers of an endpoint on disk: an equal request is never paid twice, and a run whose answers are all here repeats bit
 * for bit. One file an answer, named by the hash of address and request; the endpoint's key is in neither.
 */
import { createHash, randomUUID } from "node:crypto";
import { existsSync, linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { UserError } from "../base/errors.ts";
import { dumps, exactOf, isObject, parseExact, tryParseExact } from "../base/exact.ts";
import type { EndOfConversation } from "../tau2/types.ts";
import { type Answer, storedAnswer } from "./chat-format.ts";

/** What is sent: the whole body, model and seed included. */
export interface AnswerRequest {
  readonly url: string;
  /** JSON text. */
  readonly body: string;
}

interface Asking {
  /** An answer that does not is asked for again, and replaced. */
  readonly accepts: (answer: Answer) => boolean;
  readonly ask: () => Promise<Answer | EndOfConversation>;
}

interface Found {
  readonly answer: Answer | EndOfConversation;
  /** It cost nothing. */
  readonly cached: boolean;
}

export class AnswerCache {
  readonly #directory: string;
  /** Equal requests at the same time wait for one answer. */
  readonly #asking = new Map<string, Promise<Answer | EndOfConversation>>();

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** The stored answer, else the one that `ask` gives; a failure is not stored. */
  async through(request: AnswerRequest, asking: Asking): Promise<Found> {
    const path = this.#pathOf(request);
    const known = stored(path);
    if (known !== null && asking.accepts(known)) return { answer: known, cached: true };
    const shared = this.#asking.get(path);
    if (shared !== undefined) return { answer: await shared, cached: true };
    const fresh = asking
      .ask()
      .then((answer) => ("end" in answer ? answer : keep(path, request, { answer, ...asking })));
    this.#asking.set(path, fresh);
    try {
      return { answer: await fresh, cached: false };
    } finally {
      this.#asking.delete(path);
    }
  }

  #pathOf({ url, body }: AnswerRequest): string {
    const key = createHash("sha256").update(`${url}\n${body}`).digest("hex");
    return join(this.#directory, key.slice(0, 2), `${key}.json`);
  }
}

function stored(path: string): Answer | null {
  if (!existsSync(path)) return null;
  const record = tryParseExact(readFileSync(path, "utf8"));
  const answer = isObject(record) ? storedAnswer(record.answer) : null;
  if (answer === null) throw new UserError(path, "the stored answer is damaged. Delete the file");
  return answer;
}

/** Of two processes that ask the same, both go on with the answer that is there first. */
function keep(
  path: string,
  { url, body }: AnswerRequest,
  { answer, accepts }: { readonly answer: Answer; readonly accepts: Asking["accepts"] },
): Answer {
  mkdirSync(dirname(path), { recursive: true });
  const beside = `${path}.${randomUUID()}.tmp`;
  const record = exactOf({ url, request: parseExact(body), answer });
  writeFileSync(beside, `${dumps(record, { ascii: false })}\n`);
  try {
    linkSync(beside, path);
    rmSync(beside);
    return answer;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") {
      const first = stored(path);
      if (first !== null && accepts(first)) {
        rmSync(beside);
        return first;
      }
    }
    renameSync(beside, path); // refused by `accepts`, or a file system without links
    return answer;
  }
}
