/** Values that name what this release does not do. They are refused, never ignored: a run must not differ from its config. */
import { UserError } from "../base/errors.ts";

const NOT_HERE: readonly {
  readonly option: string;
  readonly refused: (value: unknown) => boolean;
  readonly sentence: string;
}[] = [
  {
    option: "use_flash_attention",
    refused: (value) => value === false,
    sentence: "attention is always computed in blocks; leave it true, or set kernels to plain for full score matrices",
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

/** Throws when an option asks for what this release does not do. `where` names the flag or the file's field. */
export function refuseWhatIsNotHere(option: string, value: unknown, where: string): void {
  const found = NOT_HERE.find((entry) => entry.option === option && entry.refused(value));
  if (found !== undefined) throw new UserError(where, found.sentence);
}
