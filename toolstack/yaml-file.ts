/**
 * A YAML file with the place of each of its fields. The parser is loaded when a YAML file is.
 * Ours.
 */
import type { Document, LineCounter, Node, Pair } from "yaml";
import { LoadError } from "./exit-codes.ts";

export interface Position {
  readonly line: number;
  readonly column: number;
}

export interface YamlFile {
  readonly name: string;
  readonly data: unknown;
  /** Where a field stands: its value, or its key. The nearest enclosing field when it is not there. */
  position(path: readonly PropertyKey[], atKey: boolean): Position | undefined;
}

/** Parses YAML; a syntax error is refused with `name:line:col message`. */
export async function readYaml(name: string, text: string): Promise<YamlFile> {
  const yaml = await import("yaml");
  const lines = new yaml.LineCounter();
  const document = yaml.parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const [error] = document.errors;
  if (error !== undefined) {
    const { line, col } = lines.linePos(error.pos[0]);
    throw new LoadError(`${name}:${line}:${col} ${error.message.split("\n")[0] ?? ""}`);
  }
  const find = finderOf(yaml, document, lines);
  return { name, data: document.toJS(), position: find };
}

type Yaml = typeof import("yaml");

function finderOf(yaml: Yaml, document: Document, lines: LineCounter): YamlFile["position"] {
  const place = (node: unknown): Position | undefined => {
    const range = yaml.isNode(node) ? (node as Node).range : undefined;
    if (range === undefined || range === null) return undefined;
    const { line, col } = lines.linePos(range[0]);
    return { line, column: col };
  };
  return (path, atKey) => {
    let node: unknown = document.contents;
    let found = place(node);
    for (const [depth, key] of path.entries()) {
      const pair = pairOf(yaml, node, key);
      const isLast = depth === path.length - 1;
      node = pair === undefined ? itemOf(yaml, node, key) : pair.value;
      found =
        place(isLast && atKey && pair !== undefined ? pair.key : node) ?? place(pair?.key) ?? found;
      if (node === undefined || node === null) break;
    }
    return found;
  };
}

function pairOf(yaml: Yaml, node: unknown, key: PropertyKey): Pair | undefined {
  if (!yaml.isMap(node)) return undefined;
  return node.items.find(
    (pair) => yaml.isScalar(pair.key) && String(pair.key.value) === String(key),
  );
}

const itemOf = (yaml: Yaml, node: unknown, key: PropertyKey): unknown =>
  yaml.isSeq(node) ? node.items[Number(key)] : undefined;
