/** The core's library that tests run against: $GRPO_CL_CORE, else what cargo built; null where there is none. */
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

const { GRPO_CL_CORE, CARGO_TARGET_DIR } = Bun.env;
const targets = [CARGO_TARGET_DIR, join(homedir(), ".cache/grpo-cl/target"), join(import.meta.dir, "../../target")];
const built = targets.flatMap((target) => (target ? [join(target, "release/libgrpo_core.so")] : []));

export const CORE_LIBRARY: string | null = GRPO_CL_CORE ?? built.find(existsSync) ?? null;
