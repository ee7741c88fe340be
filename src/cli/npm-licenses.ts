/** The licences of the npm packages that the program needs at run time, read from node_modules. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Licence } from "./licenses.ts";

interface LockedPackage {
  readonly version?: string;
  readonly license?: string;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

interface LockFile {
  /** By folder; "" is the package itself. */
  readonly packages: Readonly<Record<string, LockedPackage>>;
}

/** `root` holds package-lock.json and node_modules. Packages that only development needs are left out. */
export function npmLicences(root: string): Licence[] {
  const lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")) as LockFile;
  return neededFolders(lock)
    .filter((folder) => existsSync(join(root, folder)))
    .map((folder) => {
      const { version = "?", license = "?" } = lock.packages[folder] ?? {};
      return {
        name: nameOf(folder),
        version,
        licence: license,
        from: "npm",
        text: licenceText(join(root, folder), license) ?? sourceOf(join(root, folder)),
      };
    });
}

/** For a package that brings no text: where it, and its source, are. */
function sourceOf(directory: string): string | null {
  const { homepage, repository } = JSON.parse(readFileSync(join(directory, "package.json"), "utf8")) as {
    readonly homepage?: string;
    readonly repository?: string | { readonly url: string };
  };
  const address = typeof repository === "object" ? repository.url : (repository ?? homepage);
  return address === undefined ? null : `The package brings no text. Its source and licence: ${address}`;
}

const nameOf = (folder: string) => folder.slice(folder.lastIndexOf("node_modules/") + "node_modules/".length);

/** What the package's dependencies reach, sorted. */
function neededFolders({ packages }: LockFile): string[] {
  const needed = new Set<string>();
  const waiting = [""];
  for (let folder = waiting.pop(); folder !== undefined; folder = waiting.pop()) {
    const { dependencies, optionalDependencies } = packages[folder] ?? {};
    for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
      const nested = `${folder}/node_modules/${name}`;
      const found = nested in packages ? nested : `node_modules/${name}`;
      if (!needed.has(found)) waiting.push(found);
      needed.add(found);
    }
  }
  return [...needed].sort();
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
