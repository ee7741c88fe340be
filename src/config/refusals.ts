/** Values that name a feature of a later release. They are refused, never ignored: a run must not differ from its config. */
import { UserError } from "../base/errors.ts";

const LATER: readonly {
  readonly option: string;
  readonly refused: (value: unknown) => boolean;
  readonly sentence: string;
}[] = [
  {
    option: "use_flash_attention",
    refused: (value) => value === true,
    sentence: "flash attention is not in this release; leave it false (attention over shared prefixes is used instead)",
  },
  {
    option: "wandb_project",
    refused: (value) => typeof value === "string",
    sentence: "Weights & Biases is not in this release; leave it null and read metrics.jsonl in the run directory",
  },
  {
    option: "nproc_per_node",
    refused: (value) => typeof value === "number" && value > 1,
    sentence: "several processes are not in this release; set it to 1",
  },
];

/** Throws when an option asks for what a later release brings. `where` names the flag or the file's field. */
export function refuseLaterFeatures(option: string, value: unknown, where: string): void {
  const later = LATER.find((entry) => entry.option === option && entry.refused(value));
  if (later !== undefined) throw new UserError(where, later.sentence);
}
