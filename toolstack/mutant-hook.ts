/**
 * Loads a tree of sources with a mutant's patches in it, beside the tree that is loaded already.
 *
 *   import of `x.ts?mutant=M01` -> every relative import below it gets the same mark -> files that a patch names are patched
 *
 * Rules: nothing is written to disk; a patch whose text does not stand in its file exactly once, or whose file the tree never
 * loads, is an error that names it. Ours: module hooks of Node, registered once a thread.
 */
import { registerHooks } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { Mutant, Patch } from "../explore/mutants/mutant.ts";
import type { NamedStory } from "../explore/named.ts";
import type { MemoryMode } from "../explore/weak-memory.ts";
import { SetupError } from "./exit-codes.ts";

const ROOT = new URL("..", import.meta.url);
const MARK = "mutant";

/** A patch that does not fit the sources any more. */
export class PatchError extends SetupError {}

interface Registry {
  readonly mutants: Map<string, Mutant>;
  /** `id file` of every patch that has been applied. */
  readonly applied: Set<string>;
}

let registry: Registry | undefined;

/** Imports `entry` (a path below the project) with the mutant in it and in everything that it imports. */
export async function loadMutated<Module>(mutant: Mutant, entry: string): Promise<Module> {
  const { mutants, applied } = hooked();
  mutants.set(mutant.id, mutant);
  const url = new URL(entry, ROOT);
  url.searchParams.set(MARK, mutant.id);
  const module: Module = await import(url.href);
  for (const { file } of mutant.patches) {
    if (applied.has(`${mutant.id} ${file}`)) continue;
    throw new PatchError(`mutant ${mutant.id}: nothing loads ${file}`);
  }
  return module;
}

/** Opens a focused story in the sources as they stand, or with a mutant in them. */
export async function openMutated(
  mutant: Mutant | undefined,
  story: string,
  hypervisor: "faithful" | "strict" = "faithful",
  memory: MemoryMode = "sc",
): Promise<NamedStory> {
  const entry = "explore/named.ts";
  const { openStory } =
    mutant === undefined
      ? await import("../explore/named.ts")
      : await loadMutated<typeof import("../explore/named.ts")>(mutant, entry);
  return openStory(story, hypervisor, memory);
}

function hooked(): Registry {
  if (registry !== undefined) return registry;
  const made: Registry = { mutants: new Map(), applied: new Set() };
  registerHooks({
    resolve: (specifier, context, next) => {
      const found = next(specifier, context);
      const mark = markOf(context.parentURL);
      const isOurs = found.url.startsWith(ROOT.href) && !found.url.includes("/node_modules/");
      if (mark === undefined || !isOurs) return found;
      const url = new URL(found.url);
      url.searchParams.set(MARK, mark);
      return { ...found, url: url.href };
    },
    load: (url, context, next) => {
      const loaded = next(url, context);
      const mutant = made.mutants.get(markOf(url) ?? "");
      if (mutant === undefined) return loaded;
      const file = pathOf(url);
      const patches = mutant.patches.filter((patch) => patch.file === file);
      if (patches.length === 0) return loaded;
      made.applied.add(`${mutant.id} ${file}`);
      const source = patches.reduce(
        (text, patch) => patched(mutant.id, text, patch),
        String(loaded.source),
      );
      return { ...loaded, source };
    },
  });
  registry = made;
  return made;
}

const markOf = (url: string | undefined): string | undefined =>
  url?.startsWith("file:") === true
    ? (new URL(url).searchParams.get(MARK) ?? undefined)
    : undefined;

const pathOf = (url: string): string => {
  const path = new URL(url);
  path.search = "";
  return pathToFileURL(fileURLToPath(path)).href.slice(ROOT.href.length);
};

/** The text with the patch in it. Throws when it does not apply. */
export function patched(id: string, text: string, { file, from, to }: Patch): string {
  if (text.split(from).length !== 2) {
    throw new PatchError(
      `mutant ${id}: its patch does not apply to ${file} exactly once: ${from.trim().split("\n")[0]}`,
    );
  }
  return text.replace(from, () => to);
}
