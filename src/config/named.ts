/** The configs that are embedded in the binary: `--config quickstart` needs no file. */

import single_gpu from "../../configs/7b_single_gpu.yaml" with { type: "text" };
import eight_gpu from "../../configs/72b_8gpu.yaml" with { type: "text" };
import airline_tiny from "../../configs/airline_tiny.yaml" with { type: "text" };
import quick_test from "../../configs/quick_test.yaml" with { type: "text" };
import quickstart from "../../configs/quickstart.yaml" with { type: "text" };

/** YAML text by name. A tidy test compares the names with the files of configs/. */
export const NAMED_CONFIGS: Readonly<Record<string, string>> = {
  quickstart,
  quick_test,
  airline_tiny,
  "7b_single_gpu": single_gpu,
  "72b_8gpu": eight_gpu,
};
