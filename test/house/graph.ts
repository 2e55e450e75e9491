// Rules about how files hang together: floors, cycles, dead files, barrels.
import { posix } from "node:path";
import type { Node, Statement } from "@babel/types";
import { CORE, type Finding, type House, lineOf, type Rule, type Source, walk } from "./source.ts";

interface Floor {
  /** Folders besides its own that files of this folder may import, types included. */
  readonly folders: readonly string[];
  /** Packages they may import; "node:" stands for everything that Node brings. */
  readonly packages: readonly string[];
}

const ABOVE_PLATFORM = [...CORE, "platform"];

/** Who may import whom. A folder that is not listed has no place in the house. */
const FLOORS: Readonly<Record<string, Floor>> = {
  shared: { folders: [], packages: [] },
  hypervisor: { folders: ["shared"], packages: [] },
  domains: { folders: ["shared"], packages: [] },
  devices: { folders: ["shared"], packages: [] },
  scenarios: { folders: ["shared", "domains"], packages: [] },
  explore: { folders: CORE, packages: ["pure-rand"] },
  platform: { folders: ["shared"], packages: ["node:", "comlink"] },
  toolstack: {
    folders: ABOVE_PLATFORM,
    packages: ["node:", "comlink", "piscina", "pino", "zod", "yaml"],
  },
  cli: { folders: [...ABOVE_PLATFORM, "toolstack"], packages: ["node:", "commander"] },
  bench: {
    folders: [...ABOVE_PLATFORM, "toolstack"],
    packages: ["node:", "commander", "tinybench"],
  },
};

/** Files that are started, found by listing a folder, or read by a tool: nobody imports them. */
const ENTRIES: readonly RegExp[] = [
  /^(cli|bench|test\/fuzz)\/main\.ts$/,
  /^platform\/([a-z0-9-]+-)?worker\.ts$/,
  /^scenarios\/[^/]+\.ts$/,
  /^test\/.*\.test\.ts$/,
  /^[^/]+\.config\.ts$/,
  /\.d\.ts$/,
];

/** The import of a platform by its alias (see "imports" in package.json). */
const PLATFORMS: Readonly<Record<string, readonly string[]>> = {
  "#platform": ["platform/node.ts", "platform/web.ts"],
};

interface Reference {
  readonly specifier: string;
  readonly line: number;
  /** False for `new URL("./x.ts", import.meta.url)`: it names a file, but loads nothing by itself. */
  readonly isImport: boolean;
}

function referencesOf(source: Source): readonly Reference[] {
  const found: Reference[] = [];
  walk(source.program, (node) => {
    const specifier = importSpecifier(node) ?? urlSpecifier(node);
    if (specifier === undefined) return;
    found.push({ specifier, line: lineOf(node), isImport: node.type !== "NewExpression" });
  });
  return found;
}

function importSpecifier(node: Node): string | undefined {
  switch (node.type) {
    case "ImportDeclaration":
    case "ExportAllDeclaration":
    case "ExportNamedDeclaration":
    case "ImportExpression":
    case "TSImportType":
      return node.source?.type === "StringLiteral" ? node.source.value : undefined;
    default:
      return undefined;
  }
}

function urlSpecifier(node: Node): string | undefined {
  if (node.type !== "NewExpression") return undefined;
  if (node.callee.type !== "Identifier" || node.callee.name !== "URL") return undefined;
  const [path] = node.arguments;
  return path?.type === "StringLiteral" && path.value.startsWith(".") ? path.value : undefined;
}

/** Paths that a specifier stands for; none for a package. */
function targetsOf(source: Source, specifier: string): readonly string[] {
  if (!specifier.startsWith(".")) return PLATFORMS[specifier] ?? [];
  return [posix.join(posix.dirname(source.path), specifier)];
}

export const floors: Rule = (house) =>
  house.sources
    // The root holds configuration of tools, and tests may look at everything.
    .filter((source) => source.folder !== "" && source.folder !== "test")
    .flatMap((source) => {
      const floor = FLOORS[source.folder];
      if (floor === undefined) {
        return [{ path: source.path, line: 1, what: `no floor is named ${source.folder}/` }];
      }
      return referencesOf(source).flatMap(({ specifier, line }) => {
        const what = breach(source, floor, specifier);
        return what === undefined ? [] : [{ path: source.path, line, what }];
      });
    });

function breach(source: Source, floor: Floor, specifier: string): string | undefined {
  const targets = targetsOf(source, specifier);
  if (targets.length === 0) {
    const name = packageName(specifier);
    if (!floor.packages.includes(name)) return `${source.folder}/ may not import ${name}`;
    // The browser's platform files are read by a bundler that has no Node modules.
    const isWeb = source.path.startsWith("platform/web");
    return isWeb && name === "node:" ? "platform/web*.ts may not import node:" : undefined;
  }
  const folders = targets.map((path) => (path.includes("/") ? path.split("/")[0] : ""));
  const stranger = folders.find(
    (folder) => folder !== source.folder && !floor.folders.includes(folder ?? ""),
  );
  // package.json and the like may be read by whoever may use Node.
  const mayReadRoot = stranger === "" && floor.packages.includes("node:");
  if (stranger === undefined || mayReadRoot) return undefined;
  return `${source.folder}/ may not import ${stranger === "" ? "the root" : `${stranger}/`}`;
}

function packageName(specifier: string): string {
  if (specifier.startsWith("node:")) return "node:";
  const [first = "", second = ""] = specifier.split("/");
  return first.startsWith("@") ? `${first}/${second}` : first;
}

interface Edge {
  readonly to: string;
  readonly line: number;
}

function edgesOf(house: House, wanted: (reference: Reference) => boolean) {
  const edges = new Map<string, readonly Edge[]>();
  for (const source of house.sources) {
    const own = referencesOf(source)
      .filter(wanted)
      .flatMap(({ specifier, line }) => targetsOf(source, specifier).map((to) => ({ to, line })));
    edges.set(source.path, own);
  }
  return edges;
}

/** A type import counts as well: whoever needs the other's types cannot be read without it. */
export const cycles: Rule = (house) => {
  const edges = edgesOf(house, (reference) => reference.isImport);
  const findings: Finding[] = [];
  const finished = new Set<string>();
  const visit = (path: string, trail: readonly string[]): void => {
    const here = [...trail, path];
    for (const { to, line } of edges.get(path) ?? []) {
      const start = here.indexOf(to);
      if (start >= 0) {
        findings.push({ path, line, what: `cycle: ${[...here.slice(start), to].join(" -> ")}` });
      } else if (!finished.has(to)) {
        visit(to, here);
      }
    }
    finished.add(path);
  };
  for (const path of edges.keys()) if (!finished.has(path)) visit(path, []);
  return findings;
};

export const deadFiles: Rule = (house) => {
  const edges = edgesOf(house, () => true);
  const alive = new Set<string>();
  const visit = (path: string): void => {
    if (alive.has(path)) return;
    alive.add(path);
    for (const { to } of edges.get(path) ?? []) visit(to);
  };
  for (const path of edges.keys()) if (ENTRIES.some((entry) => entry.test(path))) visit(path);
  return [...edges.keys()]
    .filter((path) => !alive.has(path))
    .map((path) => ({ path, line: 1, what: "no entry of the house leads to this file" }));
};

/** A file that only passes on what others export hides where things are. */
export const barrels: Rule = (house) =>
  house.sources.flatMap((source) => {
    const body = source.program.body;
    const passes = body.filter(isPassedOn);
    const star = body.find((statement) => statement.type === "ExportAllDeclaration");
    const isBarrel =
      /(^|\/)index\.ts$/.test(source.path) ||
      star !== undefined ||
      (passes.length > 0 && body.every((s) => isPassedOn(s) || s.type === "ImportDeclaration"));
    if (!isBarrel) return [];
    const line = star === undefined ? 1 : lineOf(star);
    return [{ path: source.path, line, what: "barrel: import from the file that declares" }];
  });

function isPassedOn(statement: Statement): boolean {
  if (statement.type === "ExportAllDeclaration") return true;
  return (
    statement.type === "ExportNamedDeclaration" &&
    !statement.declaration &&
    statement.specifiers.length > 0
  );
}
