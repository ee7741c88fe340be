/** Prints the option table of the README, or with --schema the JSON Schema of config files. */
import { optionTable, runConfigJsonSchema } from "../src/config/options.ts";

console.log(process.argv.includes("--schema") ? JSON.stringify(runConfigJsonSchema(), null, 2) : optionTable());
