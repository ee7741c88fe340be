/** Trains one domain after the other and does nothing against forgetting: what every other method is measured by. */
import { type ContinualMethod, PLAIN } from "./method.ts";

export const sequential = (): ContinualMethod => ({ ...PLAIN, name: "sequential" });
