// Source text as the rules of the house see it: parsed, walkable, and addressable by path and line.
// A House may hold the files of the checkout or files planted in memory by a test; the rules cannot
// tell the difference, which is how each of them is seen to fail.
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { parse } from "@babel/parser";
import { type Comment, type Node, type Program, VISITOR_KEYS } from "@babel/types";

/** One TypeScript file, parsed. */
export interface Source {
  /** Relative to the root of the checkout, with forward slashes. */
  readonly path: string;
  /** First folder of the path; "" for a file at the root. */
  readonly folder: string;
  readonly text: string;
  readonly program: Program;
  readonly comments: readonly Comment[];
}

/** Every file the rules look at: text by path, and the TypeScript ones parsed. */
export interface House {
  readonly texts: ReadonlyMap<string, string>;
  readonly sources: readonly Source[];
}

/** One breach of one rule. `line` counts from 1. */
export interface Finding {
  readonly path: string;
  readonly line: number;
  readonly what: string;
}

export type Rule = (house: House) => readonly Finding[];

/** The folders that make up the machine: nothing in them knows where it runs. */
export const CORE: readonly string[] = [
  "shared",
  "hypervisor",
  "domains",
  "devices",
  "scenarios",
  "explore",
];

export function isCore(source: Source): boolean {
  return CORE.includes(source.folder);
}

export function makeHouse(files: Readonly<Record<string, string>>): House {
  const texts = new Map(Object.entries(files).sort(([a], [b]) => (a < b ? -1 : 1)));
  const sources = [...texts]
    .filter(([path]) => path.endsWith(".ts"))
    .map(([path, text]) => parseSource(path, text));
  return { texts, sources };
}

function parseSource(path: string, text: string): Source {
  const file = parse(text, {
    sourceType: "module",
    sourceFilename: path,
    plugins: [["typescript", { dts: path.endsWith(".d.ts") }]],
  });
  const folder = path.includes("/") ? path.slice(0, path.indexOf("/")) : "";
  return { path, folder, text, program: file.program, comments: file.comments ?? [] };
}

/** The checkout's own text files: tracked ones, and new ones that are not ignored. */
export function readHouse(root: string): House {
  const files: Record<string, string> = {};
  for (const path of listFiles(root)) {
    const text = readText(join(root, path));
    if (text !== undefined) files[path] = text;
  }
  return makeHouse(files);
}

/** Undefined for what is gone, for a link to a folder, and for a file that is not text. */
function readText(file: string): string | undefined {
  const stat = statSync(file, { throwIfNoEntry: false });
  if (!stat?.isFile()) return undefined;
  const text = readFileSync(file, "utf8");
  return text.includes("\0") ? undefined : text;
}

function listFiles(root: string): readonly string[] {
  try {
    const out = execFileSync("git", ["ls-files", "-z", "-co", "--exclude-standard"], {
      cwd: root,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
      maxBuffer: 64 * 1024 * 1024,
    });
    return [...new Set(out.split("\0").filter((path) => path !== ""))];
  } catch {
    // A source archive has no git directory; what it holds besides installed and built files counts.
    return listFolder(root, "");
  }
}

function listFolder(root: string, folder: string): readonly string[] {
  const skipped = new Set(["node_modules", ".git", "dist", "coverage"]);
  return readdirSync(join(root, folder), { withFileTypes: true })
    .filter((entry) => !skipped.has(entry.name))
    .flatMap((entry) => {
      const path = folder === "" ? entry.name : `${folder}/${entry.name}`;
      return entry.isDirectory() ? listFolder(root, path) : [path];
    });
}

/** Calls `visit` for a node and everything below it; ancestors are listed from the outside in. */
export function walk(
  node: Node,
  visit: (node: Node, ancestors: readonly Node[]) => void,
  ancestors: readonly Node[] = [],
): void {
  visit(node, ancestors);
  const below = [...ancestors, node];
  for (const child of children(node)) walk(child, visit, below);
}

export function children(node: Node): readonly Node[] {
  const fields = node as unknown as Readonly<Record<string, unknown>>;
  return (VISITOR_KEYS[node.type] ?? []).flatMap((key) => {
    const value = fields[key];
    const list: readonly unknown[] = Array.isArray(value) ? value : [value];
    return list.filter((item): item is Node => typeof item === "object" && item !== null);
  });
}

/** True if `node` is the named field of its parent, such as the property of a member access. */
export function isField(parent: Node | undefined, key: string, node: Node): boolean {
  return parent !== undefined && (parent as unknown as Record<string, unknown>)[key] === node;
}

export function lineOf(node: Node | Comment): number {
  return node.loc?.start.line ?? 1;
}

export function finding(source: Source, node: Node | Comment, what: string): Finding {
  return { path: source.path, line: lineOf(node), what };
}

/** Runs a check on every node of every source that `where` lets through. */
export function findNodes(
  house: House,
  where: (source: Source) => boolean,
  check: (node: Node, ancestors: readonly Node[], source: Source) => string | undefined,
): readonly Finding[] {
  const findings: Finding[] = [];
  for (const source of house.sources.filter(where)) {
    walk(source.program, (node, ancestors) => {
      const what = check(node, ancestors, source);
      if (what !== undefined) findings.push(finding(source, node, what));
    });
  }
  return findings;
}
