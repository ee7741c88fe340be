/** "Did you mean …?" for names that are not known. */

/** Names that TRL, transformers and tau2 users may type, and what they are called here. */
const KNOWN_ELSEWHERE: Readonly<Record<string, string>> = {
  beta: "kl_coef",
  domains: "task_order",
  epsilon: "clip_range",
  epsilon_high: "clip_range_high",
  lr: "learning_rate",
  max_completion_length: "max_new_tokens",
  model: "model_name_or_path",
  num_generations: "num_samples_per_prompt",
  num_trials: "eval_trials",
  output_dir: "log_dir",
  per_device_train_batch_size: "batch_size_per_gpu",
  resume_from_checkpoint: "resume_from",
  torch_dtype: "model_dtype",
};

/** The known name that is likeliest meant, or null when none is close. */
export function nearest(name: string, known: readonly string[]): string | null {
  const elsewhere = KNOWN_ELSEWHERE[name];
  if (elsewhere !== undefined && known.includes(elsewhere)) return elsewhere;
  const spelled = name.replaceAll("-", "_").toLowerCase();
  const ranked = known
    .map((candidate) => ({ candidate, distance: distanceOf(spelled, candidate.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance);
  const best = ranked[0];
  if (best === undefined || best.distance > Math.max(2, Math.ceil(spelled.length / 3))) return null;
  return best.candidate;
}

/** Half a sentence that follows "unknown …": ` (did you mean kl_coef?)`, or nothing. */
export function didYouMean(name: string, known: readonly string[], prefix = ""): string {
  const candidate = nearest(name, known);
  return candidate === null ? "" : ` (did you mean ${prefix}${candidate}?)`;
}

/** A name that goes on where the other stops (`evaluate`, `eval`) is as near as one typing error. */
function distanceOf(name: string, candidate: string): number {
  const [short, long] = name.length < candidate.length ? [name, candidate] : [candidate, name];
  return short.length >= 4 && long.startsWith(short) ? 1 : editDistance(name, candidate);
}

/** Levenshtein distance, with a swap of neighbours counted once. */
function editDistance(a: string, b: string): number {
  const rows = Array.from({ length: a.length + 1 }, (_, i) => [i, ...Array<number>(b.length).fill(0)]);
  for (let j = 0; j <= b.length; j++) rows[0]![j] = j;
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      const replaced = rows[i - 1]![j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      const swapped =
        i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? rows[i - 2]![j - 2]! + 1 : Infinity;
      rows[i]![j] = Math.min(rows[i - 1]![j]! + 1, rows[i]![j - 1]! + 1, replaced, swapped);
    }
  }
  return rows[a.length]![b.length]!;
}
