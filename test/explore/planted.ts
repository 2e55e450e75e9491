/**
 * A planted bug: a copy of the sources with one text replaced, so that a check can be seen to fail on a fault that
 * the real sources do not carry. A patch that no longer applies is an error that names it.
 */
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const ROOT = join(import.meta.dirname, "..", "..");
const FOLDERS = [
  "shared",
  "hypervisor",
  "domains",
  "devices",
  "explore",
  "test/domains",
  "test/hypervisor",
  "test/devices",
  "test/explore",
  "test/fuzz",
];

export interface Patch {
  /** Path below the project. */
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

export interface PlantedTree {
  /** Imports a module of the copy. */
  load<Module>(path: string): Promise<Module>;
  remove(): void;
}

/** Copies the sources beside themselves and applies the patches; the caller removes the copy. */
export function plant(name: string, patches: readonly Patch[]): PlantedTree {
  const tree = join(ROOT, ".planted", `${name}-${process.pid}`);
  rmSync(tree, { recursive: true, force: true });
  mkdirSync(tree, { recursive: true });
  for (const folder of FOLDERS) cpSync(join(ROOT, folder), join(tree, folder), { recursive: true });
  for (const patch of patches) {
    const path = join(tree, patch.file);
    const text = readFileSync(path, "utf8");
    if (text.split(patch.from).length !== 2) {
      throw new Error(`the patch ${name} does not apply to ${patch.file} exactly once`);
    }
    writeFileSync(path, text.replace(patch.from, patch.to));
  }
  return {
    load: (path) => import(pathToFileURL(join(tree, path)).href),
    remove: () => rmSync(tree, { recursive: true, force: true }),
  };
}
