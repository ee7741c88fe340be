/**
 * Writes the entry point of the binary: src/main.ts with everything it carries as embedded files.
 * Usage: bun scripts/embed.ts CORE_LIBRARY OUTPUT_DIRECTORY
 */
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { version } from "../package.json";
import type { Licence } from "../src/cli/licenses.ts";
import { licenceText, npmLicences, ownLicences } from "../src/cli/npm-licenses.ts";

const [coreLibrary, output] = process.argv.slice(2).map((path) => resolve(path));
if (coreLibrary === undefined || output === undefined) throw new Error("usage: embed.ts CORE_LIBRARY OUTPUT_DIRECTORY");
const root = resolve(import.meta.dir, "..");

mkdirSync(output, { recursive: true });
const licences = [...ownLicences(root, version), ...npmLicences(root), ...crateLicences()];
writeFileSync(join(output, "licences.json"), JSON.stringify(licences));
writeFileSync(join(output, "main.ts"), entryPoint(join(root, "configs/quickstart-model")));
console.log(`${licences.length} licences, entry point ${join(output, "main.ts")}`);

function entryPoint(modelDirectory: string): string {
  const files = readdirSync(modelDirectory).sort();
  const embed = (name: string, path: string) => `import ${name} from ${JSON.stringify(path)} with { type: "file" };`;
  return [
    embed("coreLibrary", coreLibrary ?? ""),
    embed("licencesFile", "./licences.json"),
    ...files.map((file, i) => embed(`model${i}`, join(modelDirectory, file))),
    `import { setEmbeddedModel } from ${JSON.stringify(join(root, "src/run/model-directory.ts"))};`,
    `import { main } from ${JSON.stringify(join(root, "src/main.ts"))};`,
    `setEmbeddedModel({ ${files.map((file, i) => `${JSON.stringify(file)}: model${i}`).join(", ")} });`,
    "await main({ coreLibrary, licences: () => Bun.file(licencesFile).json() });",
    "",
  ].join("\n");
}

interface CargoMetadata {
  readonly packages: readonly {
    readonly id: string;
    readonly name: string;
    readonly version: string;
    readonly license: string | null;
    readonly license_file: string | null;
    readonly manifest_path: string;
  }[];
  readonly resolve: {
    readonly root: string | null;
    readonly nodes: readonly {
      readonly id: string;
      readonly deps: readonly {
        readonly pkg: string;
        readonly dep_kinds: readonly { readonly kind: string | null }[];
      }[];
    }[];
  };
  readonly workspace_members: readonly string[];
}

/** The crates that are linked into the core: normal dependencies for this platform, the workspace's own left out. */
function crateLicences(): Licence[] {
  const { stdout, success, stderr } = Bun.spawnSync(
    ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"],
    { cwd: root },
  );
  if (!success) throw new Error(`cargo metadata: ${stderr.toString()}`);
  const metadata = JSON.parse(stdout.toString()) as CargoMetadata;
  const linked = linkedCrates(metadata);
  return metadata.packages
    .filter(({ id }) => linked.has(id) && !metadata.workspace_members.includes(id))
    .map(({ name, version: crateVersion, license, license_file, manifest_path }) => ({
      name,
      version: crateVersion,
      licence: license ?? license_file ?? "?",
      from: "crate" as const,
      text: licenceText(dirname(manifest_path), license ?? ""),
    }));
}

function linkedCrates({ resolve: { nodes }, workspace_members }: CargoMetadata): Set<string> {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const linked = new Set<string>();
  const waiting = [...workspace_members];
  for (let id = waiting.pop(); id !== undefined; id = waiting.pop()) {
    if (linked.has(id)) continue;
    linked.add(id);
    const normal = byId.get(id)?.deps.filter(({ dep_kinds }) => dep_kinds.some(({ kind }) => kind === null)) ?? [];
    waiting.push(...normal.map(({ pkg }) => pkg));
  }
  return linked;
}
