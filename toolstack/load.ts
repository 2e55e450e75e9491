/**
 * Finds scenarios and reads them: TypeScript modules of scenarios/, other modules by path, YAML files by path.
 * Rules: nothing is registered, the folder is the list; a YAML file is composed from shipped programs by
 * scenarios/compose.ts, in every worker again, so that only plain data crosses.
 * Ours.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, extname, isAbsolute, join, relative, resolve as resolvePath } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { Kernel } from "../domains/kernel.ts";
import { unknownName } from "../shared/nearest.ts";
import {
  type Scenario,
  ScenarioError,
  type ScenarioExport,
  scenarioOf,
} from "../shared/scenario.ts";
import { LoadError, SetupError, UsageError } from "./exit-codes.ts";
import { type Position, readYaml, type YamlFile } from "./yaml-file.ts";

const FOLDER = fileURLToPath(new URL("../scenarios/", import.meta.url));
const COMPOSER = new URL("../scenarios/compose.ts", import.meta.url).href;

export interface LoadedScenario {
  /** What the person calls it: a name of the folder, or a path. */
  readonly id: string;
  readonly scenario: Scenario<Kernel>;
  /** Module that every worker imports, and the plain data its default export is called with (YAML). */
  readonly module: string;
  readonly composition?: unknown;
  /** File as a person names it, for messages. */
  readonly file: string;
  /** Line and column of a field, where the spelling has them. */
  position(path: readonly PropertyKey[], atKey: boolean): Position | undefined;
}

/** What another thread needs to read the same scenario again: plain data, settled before anything starts. */
export type ScenarioSource = Pick<LoadedScenario, "id" | "module" | "composition" | "file">;

/** Reads a scenario that has already been loaded and checked once, without looking at the person's file again. */
export async function loadAgain(source: ScenarioSource): Promise<LoadedScenario> {
  const exported = await importScenario(source.id, source.module);
  const scenario = scenarioOf(exported, source.composition);
  return { ...source, scenario, position: () => undefined };
}

/** Names of the scenarios that ship: the modules of the folder that export one. */
export function scenarioNames(): readonly string[] {
  return readdirSync(FOLDER)
    .filter((file) => file.endsWith(".ts") && !file.endsWith("compose.ts"))
    .map((file) => basename(file, ".ts"))
    .sort();
}

/** Reads a scenario by name or path. An unknown name is a UsageError, an unreadable file a SetupError. */
export async function loadScenario(id: string): Promise<LoadedScenario> {
  const extension = extname(id);
  if (extension === ".yaml" || extension === ".yml") return loadYaml(id);
  const names = scenarioNames();
  const isPath = extension === ".ts" || extension === ".js" || id.includes("/");
  if (!isPath && !names.includes(id)) {
    throw new UsageError(unknownName("scenario", id, names));
  }
  const path = isPath ? resolvePath(id) : join(FOLDER, `${id}.ts`);
  checkFile(id, path);
  const module = pathToFileURL(path).href;
  const scenario = scenarioOf(await importScenario(id, module));
  return { id, scenario, module, file: shown(path), position: () => undefined };
}

async function importScenario(id: string, module: string): Promise<ScenarioExport<Kernel>> {
  const loaded: { default?: unknown } = await import(module).catch((error: unknown) => {
    throw new SetupError(`${id}: cannot be loaded: ${firstLine(error)}`);
  });
  const exported = loaded.default;
  if (typeof exported !== "object" && typeof exported !== "function") {
    throw new SetupError(`${id}: its default export is not a scenario`);
  }
  return exported as ScenarioExport<Kernel>;
}

async function loadYaml(id: string): Promise<LoadedScenario> {
  const path = resolvePath(id);
  checkFile(id, path);
  const file = await readYaml(shown(path), readText(id, path));
  const { shapeFindings, yamlScenario } = await import("./schema.ts");
  const [finding] = shapeFindings(yamlScenario, file.data);
  if (finding !== undefined) {
    throw new LoadError(lineOf(file, finding.path, finding.message, finding.atKey));
  }
  const composer = await importScenario(id, COMPOSER);
  try {
    const scenario = scenarioOf(composer, file.data);
    return {
      id,
      scenario,
      module: COMPOSER,
      composition: file.data,
      file: file.name,
      position: file.position,
    };
  } catch (error) {
    if (!(error instanceof ScenarioError)) throw error;
    throw new LoadError(lineOf(file, error.path.split("."), error.reason, false));
  }
}

/** `path:line:col key: message`. */
function lineOf(
  file: YamlFile,
  path: readonly PropertyKey[],
  message: string,
  atKey: boolean,
): string {
  const at = file.position(path, atKey);
  const place = at === undefined ? file.name : `${file.name}:${at.line}:${at.column}`;
  return `${place} ${path.map(String).join(".")}: ${message}`;
}

function checkFile(id: string, path: string): void {
  if (!existsSync(path)) throw new SetupError(`${id}: no such file`);
  if (!statSync(path).isFile()) throw new SetupError(`${id}: is not a file`);
}

function readText(id: string, path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new SetupError(`${id}: cannot be read: ${firstLine(error)}`);
  }
}

const firstLine = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).split("\n")[0] ?? "";

/** A path as short as it can be said from here. */
function shown(path: string): string {
  const short = relative(process.cwd(), path);
  return short.startsWith("..") || isAbsolute(short) ? path : short;
}
