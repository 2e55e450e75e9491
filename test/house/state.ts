// No module of the core holds state: everything that changes belongs to a machine, of which one
// process runs many, and a run must be repeatable whatever ran before it.
import type { Expression, NewExpression, Node, TSType, VariableDeclarator } from "@babel/types";
import { declaredNames, isShadowed, moduleVariables } from "./bindings.ts";
import {
  type Finding,
  finding,
  findNodes,
  isCore,
  type Rule,
  type Source,
  walk,
} from "./source.ts";

/** Constructors whose results do not change. */
const IMMUTABLE: ReadonlySet<string> = new Set(["RegExp", "Error"]);
/** Containers that are tables if their declared type forbids writing. */
const CONTAINERS: ReadonlySet<string> = new Set(["Map", "Set", "Array"]);
const READONLY_TYPES: ReadonlySet<string> = new Set([
  "ReadonlyMap",
  "ReadonlySet",
  "ReadonlyArray",
  "Readonly",
]);
const MUTATORS: ReadonlySet<string> = new Set([
  "push",
  "pop",
  "shift",
  "unshift",
  "splice",
  "sort",
  "reverse",
  "fill",
  "copyWithin",
  "set",
  "add",
  "delete",
  "clear",
]);

export const moduleState: Rule = (house) => [
  ...house.sources.filter(isCore).flatMap((source) =>
    moduleVariables(source.program.body).flatMap((declaration): readonly Finding[] => {
      if (declaration.declare) return [];
      if (declaration.kind === "let" || declaration.kind === "var") {
        return [finding(source, declaration, `module-level ${declaration.kind}`)];
      }
      return declaration.declarations.flatMap((declarator) => {
        const what = declarator.type === "VariableDeclarator" ? stateIn(declarator) : undefined;
        return what === undefined ? [] : [finding(source, declarator, what)];
      });
    }),
  ),
  ...findNodes(house, isCore, (node) =>
    node.type === "ClassProperty" && node.static && !node.readonly
      ? "a static field that can be written"
      : undefined,
  ),
  ...house.sources.filter(isCore).flatMap(writesThroughNames),
];

/** Says what is wrong with the initial value of a module-level const, if anything is. */
function stateIn({ id, init }: VariableDeclarator): string | undefined {
  const annotation = id.type === "Identifier" ? id.typeAnnotation : undefined;
  const declared = annotation?.type === "TSTypeAnnotation" ? annotation.typeAnnotation : undefined;
  // The type of a typed array cannot forbid writing; the spelling of a constant is the promise.
  const isConstant = id.type === "Identifier" && /^[A-Z][A-Z0-9_]*$/.test(id.name);
  if (isConstant && init?.type === "NewExpression" && isTypedArray(init)) return undefined;
  return init ? mutableValue(init, declared) : undefined;
}

function mutableValue(value: Expression, declared: TSType | undefined): string | undefined {
  switch (value.type) {
    case "TSAsExpression":
    case "TSSatisfiesExpression":
      return mutableValue(value.expression, isReadonly(declared) ? declared : value.typeAnnotation);
    case "ArrayExpression":
      return isReadonly(declared) ? undefined : "a module-level array that can be written";
    case "NewExpression": {
      const name = value.callee.type === "Identifier" ? value.callee.name : "an object";
      if (IMMUTABLE.has(name)) return undefined;
      if (CONTAINERS.has(name) && isReadonly(declared)) return undefined;
      // A typed array of literals is a table; one of a length is a place to write to.
      const isTable = isTypedArray(value) && value.arguments[0]?.type === "ArrayExpression";
      return isTable ? undefined : `a module-level ${name} that can be written`;
    }
    default:
      return undefined;
  }
}

function isTypedArray({ callee }: NewExpression): boolean {
  return callee.type === "Identifier" && /\dArray$/.test(callee.name);
}

function isReadonly(type: TSType | undefined): boolean {
  if (type?.type === "TSTypeOperator") return type.operator === "readonly";
  if (type?.type !== "TSTypeReference" || type.typeName.type !== "Identifier") return false;
  return type.typeName.name === "const" || READONLY_TYPES.has(type.typeName.name);
}

/** Writes that reach through a const or an import of the module, wherever they stand. */
function writesThroughNames(source: Source): readonly Finding[] {
  const constants = new Set<string>();
  const imports = new Set<string>();
  for (const statement of source.program.body) {
    if (statement.type !== "ImportDeclaration") continue;
    for (const name of statement.specifiers.flatMap(declaredNames)) imports.add(name);
  }
  for (const declaration of moduleVariables(source.program.body)) {
    for (const name of declaration.declarations.flatMap(declaredNames)) constants.add(name);
  }
  const findings: Finding[] = [];
  walk(source.program, (node, ancestors) => {
    const name = writtenRoot(node, constants);
    const isOfModule = name !== undefined && (constants.has(name) || imports.has(name));
    if (!isOfModule || isShadowed(name, ancestors)) return;
    findings.push(finding(source, node, `writes to ${name}, which belongs to the module`));
  });
  return findings;
}

/** Name at the root of what this node writes to: `table` for `table.rows[3] = 1`. */
function writtenRoot(node: Node, constants: ReadonlySet<string>): string | undefined {
  switch (node.type) {
    case "AssignmentExpression":
      return rootName(node.left);
    case "UpdateExpression":
      return rootName(node.argument);
    case "UnaryExpression":
      return node.operator === "delete" ? rootName(node.argument) : undefined;
    case "CallExpression": {
      const { callee } = node;
      if (callee.type !== "MemberExpression" || callee.object.type !== "Identifier")
        return undefined;
      if (callee.property.type !== "Identifier" || !MUTATORS.has(callee.property.name)) {
        return undefined;
      }
      // A module imported as a namespace may well export a function called set.
      return constants.has(callee.object.name) ? callee.object.name : undefined;
    }
    default:
      return undefined;
  }
}

function rootName(node: Node): string | undefined {
  switch (node.type) {
    case "Identifier":
      return node.name;
    case "MemberExpression":
    case "OptionalMemberExpression":
      return rootName(node.object);
    case "TSAsExpression":
    case "TSNonNullExpression":
      return rootName(node.expression);
    default:
      return undefined;
  }
}
