/**
 * Overrides by dotted path: `machine.iommu.mode=off`, as `--set` and the variants of a scenario spell them.
 * Rules: the spec is never changed, a changed copy comes back; only plain objects are entered. Names of
 * domains, devices, facts and parameters must exist; names of fields are judged by the schema afterwards.
 * Ours.
 */
import { unknownName } from "./nearest.ts";
import { ScenarioError } from "./scenario.ts";

export interface Setting {
  readonly path: string;
  readonly value: unknown;
  /** The option that was short for it, as the person typed it. */
  readonly flag?: string;
}

type Tree = Readonly<Record<string, unknown>>;

const isTree = (value: unknown): value is Tree =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Tables whose rows are named by the scenario: an override may change a row, not invent one. */
const NAMED: Readonly<Record<string, string>> = {
  domains: "domain",
  devices: "device",
  facts: "fact",
  parameters: "parameter",
};
/** What an override may start with. */
const ROOTS: readonly string[] = ["machine", "devices", "domains", "facts", "parameters"];

/** `path=value` as a person types it. Numbers, `true`, `false` and JSON lists are read as such. */
export function parseSetting(text: string): Setting {
  const equals = text.indexOf("=");
  if (equals <= 0) throw new ScenarioError("--set", `"${text}" is not path=value`);
  const path = text.slice(0, equals).trim();
  return { path, value: parseValue(path, text.slice(equals + 1).trim()) };
}

function parseValue(path: string, text: string): unknown {
  if (/^-?\d+$/.test(text) || /^0x[0-9a-f]+$/i.test(text)) return Number(text);
  if (text === "true") return true;
  if (text === "false") return false;
  if (!/^[[{]/.test(text)) return text;
  try {
    return JSON.parse(text);
  } catch {
    throw new ScenarioError(path, `${text} is not valid JSON`);
  }
}

/** A copy of `spec` with every setting applied, later ones over earlier ones. */
export function applySettings<Spec>(spec: Spec, settings: readonly Setting[]): Spec {
  let result: unknown = spec;
  for (const setting of settings) {
    result = put(result, setting.path.split("."), 0, setting);
  }
  return result as Spec;
}

function put(node: unknown, keys: readonly string[], depth: number, setting: Setting): unknown {
  const key = keys[depth];
  if (key === undefined) return setting.value;
  if (key === "") throw new ScenarioError(setting.path, "an empty name in a path");
  if (node !== undefined && !isTree(node)) {
    throw new ScenarioError(setting.path, `"${keys.slice(0, depth).join(".")}" has no fields`);
  }
  const tree = node ?? {};
  checkKey(tree, keys, depth, setting.path);
  return { ...tree, [key]: put(tree[key], keys, depth + 1, setting) };
}

function checkKey(tree: Tree, keys: readonly string[], depth: number, path: string): void {
  const key = keys[depth] ?? "";
  if (depth === 0) {
    if (!ROOTS.includes(key)) throw new ScenarioError(path, unknownName("field", key, ROOTS));
    if (keys.length === 1)
      throw new ScenarioError(path, "names a whole table; name one of its fields");
  }
  const what = depth === 1 ? NAMED[keys[0] ?? ""] : undefined;
  if (what !== undefined && !Object.hasOwn(tree, key)) {
    throw new ScenarioError(path, unknownName(what, key, Object.keys(tree)));
  }
}
