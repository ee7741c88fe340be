/**
 * The score matrix R: R[i][j] is the mean reward on domain j in row i. Row -1 is the base model, row i the model after
 * experience i; columns are the distinct domains, whatever repeats `task_order` has. Cells are estimates, or resamples.
 */
import { type Draws, resampledMeans, resampleOf, resampleStream } from "./bootstrap.ts";
import { type MetricsRow, type ScoresRow, scoresRowsOf } from "./rows.ts";

export interface MatrixRow {
  /** -1: before training. */
  readonly task_idx: number;
  /** Trained in this row; null before training. A name that is no column stands for all of them at once. */
  readonly domain: string | null;
  readonly scores: Readonly<Record<string, Draws>>;
}

export class ScoreMatrix {
  readonly #rows: readonly MatrixRow[];

  /** Rows in order, the first with `task_idx` -1. */
  constructor(rows: readonly MatrixRow[]) {
    if (rows.some((row, at) => row.task_idx !== at - 1))
      throw new Error("score matrix: a row is missing or out of order");
    this.#rows = rows;
  }

  get lastRow(): number {
    return this.#rows.length - 2;
  }

  /** False for rows before a domain came into the sequence (a resumed run may have a longer one). */
  has(row: number, domain: string): boolean {
    return this.#rows[row + 1]?.scores[domain] !== undefined;
  }

  at(row: number, domain: string): Draws {
    const score = this.#rows[row + 1]?.scores[domain];
    if (score === undefined) throw new Error(`score matrix: row ${row} has no score of ${domain}`);
    return score;
  }

  /** Those of the rows `from` to `to`, both included, that have a score of the domain. */
  between(from: number, to: number, domain: string): Draws[] {
    const rows = this.#rows.slice(from + 1, to + 2);
    return rows.flatMap(({ scores: { [domain]: score } }) => (score === undefined ? [] : [score]));
  }

  /** Distinct domains trained so far, in order of first training. */
  trained(): string[] {
    return [...new Set(this.#rows.flatMap(trainedIn))];
  }

  /** All trained domains but those trained last. */
  earlierDomains(): string[] {
    const last = this.lastDomains();
    return this.trained().filter((domain) => !last.includes(domain));
  }

  /** One, or all where they were mixed; none before training. */
  lastDomains(): string[] {
    return this.#rows.at(-1) === undefined ? [] : trainedIn(this.#rows.at(-1) as MatrixRow);
  }

  /** ℓ(j). */
  rowAfterTraining(domain: string): number {
    return this.#rows.findLastIndex((row) => trainedIn(row).includes(domain)) - 1;
  }

  rowBeforeFirstTraining(domain: string): number {
    return this.#rows.findIndex((row) => trainedIn(row).includes(domain)) - 2;
  }
}

function trainedIn({ domain, scores }: MatrixRow): string[] {
  if (domain === null) return [];
  return Object.hasOwn(scores, domain) ? [domain] : Object.keys(scores);
}

/** The rows of the matrix. Joint training mixes all domains in every experience, so none of them is earlier than another. */
export function trainedRows(rows: readonly MetricsRow[], method: string): ScoresRow[] {
  const scores = scoresRowsOf(rows);
  if (method !== "joint") return scores;
  return scores.map((row) => (row.domain === null ? row : { ...row, domain: "all domains" }));
}

/** Cells of one number. */
export const estimatedMatrix = (rows: readonly ScoresRow[]): ScoreMatrix =>
  matrixOf(rows, (_, { reward_mean }) => Float64Array.of(reward_mean));

/** Cells of B numbers; draw b of every cell of a domain is made of the same tasks. */
export function resampledMatrix(rows: readonly ScoresRow[], resamples: Resamples): ScoreMatrix {
  return matrixOf(rows, (domain, _, { rewards }) => resampledMeans(rewards[domain] ?? {}, resamples.of(domain)));
}

/** The resamples of each domain, over all the tasks that any of these rows evaluated. */
export class Resamples {
  readonly #drawn = new Map<string, ReturnType<typeof resampleOf>>();

  constructor(
    readonly rows: readonly ScoresRow[],
    readonly eval_seed: number,
  ) {}

  of(domain: string): ReturnType<typeof resampleOf> {
    const known = this.#drawn.get(domain);
    if (known !== undefined) return known;
    const ids = this.rows.flatMap(({ rewards }) => Object.keys(rewards[domain] ?? {}));
    const drawn = resampleOf(ids, resampleStream(this.eval_seed, domain));
    this.#drawn.set(domain, drawn);
    return drawn;
  }
}

function matrixOf(
  rows: readonly ScoresRow[],
  cell: (domain: string, score: ScoresRow["scores"][string], row: ScoresRow) => Draws,
): ScoreMatrix {
  return new ScoreMatrix(
    rows.map((row) => ({
      task_idx: row.task_idx,
      domain: row.domain,
      scores: Object.fromEntries(
        Object.entries(row.scores).map(([domain, score]) => [domain, cell(domain, score, row)]),
      ),
    })),
  );
}
