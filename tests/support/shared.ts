/** Where the reference files lie: $GRPO_CL_SHARED, else ../shared beside the repository. Read at test time only. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

const REPOSITORY = join(import.meta.dir, "..", "..");
export const SHARED = Bun.env.GRPO_CL_SHARED ?? join(REPOSITORY, "..", "shared");

/** Names of the sub-folders of `shared/…` that hold `file`; none when the reference files are absent. */
export function foldersWith(directory: string, file: string): string[] {
  const root = join(SHARED, directory);
  if (!existsSync(root)) return [];
  return readdirSync(root).filter((name) => existsSync(join(root, name, file)));
}
