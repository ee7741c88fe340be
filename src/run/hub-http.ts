/**
 * Requests to a Hugging Face endpoint: retries, time limits, redirects that leave the token at home, and what each
 * refusal tells a person.
 */
import pRetry from "p-retry";
import { UserError } from "../base/errors.ts";

export interface Hub {
  readonly endpoint: string;
  readonly cache: string;
  readonly token: string | null;
  readonly offline: boolean;
}

/** A model at a revision, and where the cache keeps it. */
export interface Repository {
  readonly hub: Hub;
  readonly id: string;
  readonly revision: string;
  readonly folder: string;
  readonly signal: AbortSignal | undefined;
}

export const WHERE = "model_name_or_path";
const STALL_MS = 30_000;
const REDIRECTS_MAX = 5;
/** Waits of 0.3, 0.6, 1.2 and 2.4 s, up to doubled by chance; an attempt that brought bytes costs none of them. */
const BACKOFF = { minTimeout: 300, factor: 2, randomize: true } as const;
const RETRIES = 4;
/** The first contact: a person without network should not wait long for the news. */
export const RETRIES_FIRST_CONTACT = 2;

/** Worth another attempt: the network, a busy or failing server, a transfer cut short. */
export class Transient extends Error {
  constructor(
    message: string,
    readonly progressed = false,
  ) {
    super(message);
  }
}

export function retrying<T>({ signal }: Repository, attempt: () => Promise<T>, retries = RETRIES): Promise<T> {
  return pRetry(attempt, {
    ...BACKOFF,
    retries,
    signal,
    shouldRetry: ({ error }) => error instanceof Transient,
    shouldConsumeRetry: ({ error }) => !(error instanceof Transient && error.progressed),
  });
}

/**
 * Follows redirects itself: the token goes to the endpoint's origin only, and a HEAD stops before another origin, since
 * the hub's own answer carries the size and hash.
 */
export async function request(
  repository: Repository,
  url: string,
  { method = "GET", headers = {} }: { method?: "GET" | "HEAD"; headers?: Record<string, string> } = {},
): Promise<Response> {
  const { hub } = repository;
  using stall = stallGuard(repository.signal); // until the headers are here
  let target = new URL(url);
  for (let hop = 0; hop <= REDIRECTS_MAX; hop++) {
    const ours = target.origin === new URL(hub.endpoint).origin;
    const authorization: Record<string, string> = ours && hub.token ? { Authorization: `Bearer ${hub.token}` } : {};
    const response = await fetch(target, {
      method,
      headers: { "Accept-Encoding": "identity", ...headers, ...authorization },
      redirect: "manual",
      signal: stall.signal,
    }).catch((error: unknown) => {
      throw networkError(error, stall.signal);
    });
    const location = response.headers.get("location");
    if (response.status < 300 || response.status >= 400 || location === null)
      return accepted(response, repository, ours);
    const next = new URL(location, target);
    if (method === "HEAD" && next.origin !== target.origin) return response;
    target = next;
  }
  throw new Transient(`more than ${REDIRECTS_MAX} redirects`);
}

/** Nothing of the request is quoted: a storage URL is a secret, and so is a header. */
export function networkError(error: unknown, signal: AbortSignal, progressed = false): unknown {
  if (signal.aborted) return signal.reason;
  const { code, name } = error as { code?: unknown; name?: unknown };
  return new Transient(`network error ${code ?? name}`, progressed);
}

/** A storage that refuses may hold an expired address: the endpoint gives a new one. */
function accepted(response: Response, repository: Repository, fromEndpoint: boolean): Response {
  const { status } = response;
  if (status >= 200 && status < 300) return response;
  if (!fromEndpoint || status === 408 || status === 429 || status >= 500) {
    throw new Transient(`the ${fromEndpoint ? "server" : "storage"} answered ${status}`);
  }
  throw refused(status, response.headers.get("x-error-code"), repository);
}

function refused(status: number, code: string | null, { hub, id, revision }: Repository): UserError {
  const page = `${hub.endpoint}/${id}`;
  if (code === "GatedRepo" || status === 403) {
    return new UserError(
      WHERE,
      `${id} is gated (${status}). Accept its licence at ${page} and set HF_TOKEN to a token that may read it`,
    );
  }
  if (code === "RevisionNotFound")
    return new UserError("revision", `${id} has no branch, tag or commit "${revision}". See ${page}/tree/main`);
  if (status === 401 && hub.token !== null) {
    return new UserError(
      WHERE,
      `${hub.endpoint} refuses the token for ${id} (401): it is not valid, or the model does not exist. Check HF_TOKEN and the spelling`,
    );
  }
  if (status === 401 || status === 404) {
    return new UserError(
      WHERE,
      `"${id}" is no directory here, and ${hub.endpoint} knows no such public model (${status}). Check the spelling; for a private model set HF_TOKEN`,
    );
  }
  return new UserError(WHERE, `${hub.endpoint} answered ${status} for ${id}`);
}

/** Aborts a transfer that brings nothing for STALL_MS. */
export function stallGuard(outer: AbortSignal | undefined) {
  const controller = new AbortController();
  const stalled = () => controller.abort(new Transient(`nothing arrived for ${STALL_MS / 1000} s`));
  let timer = setTimeout(stalled, STALL_MS);
  return {
    signal: outer ? AbortSignal.any([outer, controller.signal]) : controller.signal,
    alive: () => {
      clearTimeout(timer);
      timer = setTimeout(stalled, STALL_MS);
    },
    [Symbol.dispose]: () => clearTimeout(timer),
  };
}
