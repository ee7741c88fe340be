/** The licences of the npm packages that the program needs at run time, read from node_modules. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Licence } from "./licenses.ts";

interface LockFile {
  readonly packages: Readonly<
    Record<string, { readonly version?: string; readonly license?: string; readonly dev?: boolean }>
  >;
}

/** `root` holds package-lock.json and node_modules. Packages that only development needs are left out. */
export function npmLicences(root: string): Licence[] {
  const lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")) as LockFile;
  return Object.entries(lock.packages)
    .filter(([path, { dev }]) => path !== "" && dev !== true && existsSync(join(root, path)))
    .map(([path, { version = "?", license = "?" }]) => ({
      name: path.slice(path.lastIndexOf("node_modules/") + "node_modules/".length),
      version,
      licence: license,
      from: "npm",
      text: licenceText(join(root, path), license),
    }));
}

/** The text of LICENSE, or of LICENSE-MIT where the licence may be chosen. */
export function licenceText(directory: string, licence: string): string | null {
  const files = readdirSync(directory)
    .filter((name) => /^(licen[cs]e|copying|unlicense)/i.test(name))
    .sort();
  const file = (licence.includes("MIT") && files.find((name) => /mit/i.test(name))) || files[0];
  return file === undefined ? null : readFileSync(join(directory, file), "utf8");
}

/** What is in the binary besides packages: the runtime that it is made of, and the program itself. */
export function ownLicences(root: string, version: string): Licence[] {
  return [
    { name: "grpo-cl", version, licence: "MIT", from: "own", text: readFileSync(join(root, "LICENSE"), "utf8") },
    {
      name: "bun",
      version: Bun.version,
      licence: "MIT",
      from: "runtime",
      text: "Bun is MIT-licensed. It links JavaScriptCore (LGPL-2.1) and other libraries statically; see https://bun.sh/docs/project/license, where their licences and the way to relink are given.",
    },
  ];
}
