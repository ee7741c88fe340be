/** Which runs may be compared: those that were evaluated on the same tasks, in the same way. */
import { UserError } from "../base/errors.ts";
import type { RunRecord } from "./record.ts";
import { type ScoresRow, scoresRowsOf } from "./rows.ts";
import type { DomainScore } from "./score.ts";

/** Throws a UserError that names the first two runs that differ, and all that they differ in. */
export function requireComparable(records: readonly RunRecord[]): void {
  requireAlike(records, differences);
}

/** A metric of two domains says nothing about one of three. */
export function requireSameProgress(records: readonly RunRecord[]): void {
  requireAlike(records, (a, b) => differing("domains trained so far", trainedSoFar(a), trainedSoFar(b)));
}

export const areComparable = (a: RunRecord, b: RunRecord): boolean => differences(a, b).length === 0;

function requireAlike(
  [first, ...others]: readonly RunRecord[],
  reasonsAgainst: (a: RunRecord, b: RunRecord) => readonly string[],
): void {
  if (first === undefined) return;
  for (const other of others) {
    const reasons = reasonsAgainst(first, other);
    if (reasons.length > 0)
      throw new UserError(other.path, `cannot be compared with ${first.path}: ${reasons.join("; ")}`);
  }
}

/** Of a run on one domain (a reference for intransigence) only that domain counts. */
function differences(a: RunRecord, b: RunRecord): string[] {
  const [ours, theirs] = [lastScores(a), lastScores(b)];
  const [columns, otherColumns] = [Object.keys(ours.scores), Object.keys(theirs.scores)];
  const common = columns.filter((domain) => otherColumns.includes(domain));
  return [
    ...differing("eval_seed", a.config.eval_seed, b.config.eval_seed),
    ...(columns.length > 1 && otherColumns.length > 1
      ? differing("domains", columns.toSorted().join(" "), otherColumns.toSorted().join(" "))
      : []),
    ...common.flatMap((domain) => cellDifferences(domain, { a, b, ours, theirs })),
  ];
}

interface Both {
  readonly a: RunRecord;
  readonly b: RunRecord;
  readonly ours: ScoresRow;
  readonly theirs: ScoresRow;
}

function cellDifferences(domain: string, { a, b, ours, theirs }: Both): string[] {
  const [one, other] = [ours.scores[domain], theirs.scores[domain]];
  if (one === undefined || other === undefined) return [];
  const [user, otherUser] = [userOf(a, one.user_identity), userOf(b, other.user_identity)];
  return [
    ...differing(`nl_assertions of ${domain}`, variantOf(a, one), variantOf(b, other)),
    ...taskDifferences(domain, ours, theirs),
    ...differing(`trials of ${domain}`, one.n_trials, other.n_trials),
    ...differing(`user of ${domain}`, user, otherUser),
  ];
}

/** In any order. */
const trainedSoFar = ({ rows }: RunRecord): string =>
  [...new Set(scoresRowsOf(rows).flatMap(({ domain }) => domain ?? []))].toSorted().join(" ");

/** Another judge is another benchmark. */
const variantOf = ({ config }: RunRecord, { nl_assertions }: DomainScore): string =>
  nl_assertions === "judge" ? `judge ${config.judge.model}` : nl_assertions;

/** The frozen step-0 policy is another user with another model. */
const userOf = ({ config }: RunRecord, identity: string): string =>
  identity.includes("local:base") ? `${identity} (${config.model_name_or_path})` : identity;

function taskDifferences(domain: string, ours: ScoresRow, theirs: ScoresRow): string[] {
  const [mine, yours] = [ours, theirs].map(({ rewards }) => new Set(Object.keys(rewards[domain] ?? {})));
  const only = [...(mine?.difference(yours ?? new Set()) ?? []), ...(yours?.difference(mine ?? new Set()) ?? [])];
  if (only.length === 0) return [];
  const names = `${only.slice(0, 5).join(", ")}${only.length > 5 ? ", …" : ""}`;
  return [`tasks of ${domain}: ${mine?.size} against ${yours?.size}, and ${only.length} are in one only (${names})`];
}

function differing(what: string, one: unknown, other: unknown): string[] {
  return one === other ? [] : [`${what}: ${one} against ${other}`];
}

export function lastScores({ rows }: RunRecord): ScoresRow {
  return scoresRowsOf(rows).at(-1) as ScoresRow;
}
