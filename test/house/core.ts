// Rules for the six core folders: choice goes through the scheduler, time through a step counter,
// and memory that somebody else may touch through shared/mem.ts.
import type { Node } from "@babel/types";
import { allDeclaredNames } from "./bindings.ts";
import { findNodes, isCore, isField, type Rule, type Source, walk } from "./source.ts";

/** What would make two runs of one seed differ, or tie the machine to the place it runs in. */
const BANNED_GLOBALS: ReadonlySet<string> = new Set([
  "Date",
  "Temporal",
  "performance",
  "crypto",
  "setTimeout",
  "setInterval",
  "setImmediate",
  "clearTimeout",
  "clearInterval",
  "clearImmediate",
  "queueMicrotask",
  "Promise",
  "WeakRef",
  "FinalizationRegistry",
  "console",
  "process",
  "globalThis",
]);

/** A frame number and a machine address fit a double exactly; limits.ts asserts it. */
const BIG_INTEGERS: ReadonlySet<string> = new Set(["BigInt", "BigInt64Array", "BigUint64Array"]);

/** Where `Atomics` may stand: the two modules that own shared words, and what is not the machine. */
const ATOMICS_ALLOWED: readonly RegExp[] = [
  /^shared\/(mem|channel)\.ts$/,
  // Tries the language's own memory, which is what it is about.
  /^toolstack\/litmus-task\.ts$/,
  /^(platform|bench|test)\//,
];

/** Which core files may lay views over a buffer. */
const VIEWS_ALLOWED: ReadonlySet<string> = new Set([
  "shared/mem.ts",
  "shared/channel.ts",
  // Knows the offsets of all tables.
  "shared/layout.ts",
]);

const VIEW = /^(Uint8|Uint8Clamped|Int8|Uint16|Int16|Uint32|Int32|Float16|Float32|Float64)Array$/;

/** Name of a global that this node reads or names as a type; locals of the same name are let be. */
function globalName(node: Node, ancestors: readonly Node[], locals: ReadonlySet<string>) {
  if (node.type !== "Identifier" || locals.has(node.name)) return undefined;
  const parent = ancestors.at(-1);
  switch (parent?.type) {
    case "MemberExpression":
    case "OptionalMemberExpression":
      return isField(parent, "property", node) && !parent.computed ? undefined : node.name;
    case "ObjectProperty":
    case "ObjectMethod":
    case "ClassProperty":
    case "ClassMethod":
    case "TSPropertySignature":
    case "TSMethodSignature":
      return isField(parent, "key", node) && !parent.computed ? undefined : node.name;
    case "TSQualifiedName":
      return isField(parent, "right", node) ? undefined : node.name;
    case "ImportSpecifier":
    case "ExportSpecifier":
    case "LabeledStatement":
    case "BreakStatement":
    case "ContinueStatement":
      return undefined;
    default:
      return node.name;
  }
}

type NamesOf = (source: Source) => ReadonlySet<string>;

/** Asks once for each source, since the rules below want the names for every identifier. */
function oncePerSource(namesOf: NamesOf): NamesOf {
  const known = new Map<Source, ReadonlySet<string>>();
  return (source) => {
    const names = known.get(source) ?? namesOf(source);
    known.set(source, names);
    return names;
  };
}

function localsBySource(): NamesOf {
  return oncePerSource((source) => allDeclaredNames(source.program));
}

export const bannedGlobals: Rule = (house) => {
  const locals = localsBySource();
  return findNodes(house, isCore, (node, ancestors, source) => {
    if (isMathRandom(node)) return "Math.random: ask the scheduler";
    const name = globalName(node, ancestors, locals(source));
    if (name === undefined) return undefined;
    if (BANNED_GLOBALS.has(name)) return `${name} is banned in the core`;
    return BIG_INTEGERS.has(name) ? `${name}: addresses are numbers` : undefined;
  });
};

function isMathRandom(node: Node): boolean {
  return (
    node.type === "MemberExpression" &&
    node.object.type === "Identifier" &&
    node.object.name === "Math" &&
    ((node.property.type === "Identifier" && node.property.name === "random") ||
      (node.property.type === "StringLiteral" && node.property.value === "random"))
  );
}

export const bigIntegers: Rule = (house) =>
  findNodes(house, isCore, ({ type }) =>
    type === "BigIntLiteral" || type === "TSBigIntKeyword"
      ? "bigint: addresses are numbers"
      : undefined,
  );

/** A promise is resumed by a queue that no scheduler of ours chooses from. */
export const asynchrony: Rule = (house) =>
  findNodes(house, isCore, (node) => {
    if ("async" in node && node.async === true) return "async: write a generator";
    if (node.type === "AwaitExpression") return "await: write a generator";
    if (node.type === "ForOfStatement" && node.await) return "for await: write a generator";
    return node.type === "ImportExpression"
      ? "import(): a promise, and a choice of place"
      : undefined;
  });

export const sharedMemory: Rule = (house) => {
  const locals = localsBySource();
  const ownArrays = oncePerSource(privateArrays);
  return findNodes(
    house,
    () => true,
    (node, ancestors, source) => {
      const name = globalName(node, ancestors, locals(source));
      if (name === "Atomics" && !ATOMICS_ALLOWED.some((allowed) => allowed.test(source.path))) {
        return "Atomics: use shared/mem.ts or shared/channel.ts";
      }
      if (!isCore(source) || VIEWS_ALLOWED.has(source.path)) return undefined;
      const isView = isRawView(node) && !isViewOf(node, ownArrays(source));
      return isView ? "raw view of a buffer: use shared/mem.ts" : undefined;
    },
  );
};

/** A view over a buffer has an offset, or its first argument is called a buffer. */
function isRawView(node: Node): boolean {
  if (node.type !== "NewExpression" || node.callee.type !== "Identifier") return false;
  const { name } = node.callee;
  if (name === "SharedArrayBuffer" || name === "DataView") return true;
  if (!VIEW.test(name)) return false;
  const [first] = node.arguments;
  return node.arguments.length > 1 || /(buffer|memory|sab)$/i.test(lastName(first));
}

/** Names of variables and fields that hold an array allocated right there: nobody shares it. */
function privateArrays(source: Source): ReadonlySet<string> {
  const names = new Set<string>();
  walk(source.program, (node) => {
    if (node.type === "VariableDeclarator" && isNewArray(node.init)) names.add(lastName(node.id));
    if (node.type === "ClassProperty" && isNewArray(node.value)) names.add(lastName(node.key));
  });
  return names;
}

function isNewArray(value: Node | null | undefined): boolean {
  if (value?.type !== "NewExpression" || isRawView(value)) return false;
  return value.callee.type === "Identifier" && VIEW.test(value.callee.name);
}

/** True for a second view of such an array: `new DataView(bytes.buffer)`. */
function isViewOf(node: Node, arrays: ReadonlySet<string>): boolean {
  const first = node.type === "NewExpression" ? node.arguments[0] : undefined;
  const isBuffer = first?.type === "MemberExpression" && lastName(first) === "buffer";
  return isBuffer && arrays.has(lastName(first.object));
}

function lastName(node: Node | undefined): string {
  if (node?.type === "Identifier") return node.name;
  if (node?.type === "MemberExpression" || node?.type === "OptionalMemberExpression") {
    return lastName(node.property);
  }
  return "";
}
