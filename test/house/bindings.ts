// Which names a piece of source declares. Enough of a scope analysis for the rules: a function is one
// scope, blocks inside it are not told apart.
import type { Node, VariableDeclaration } from "@babel/types";
import { children, walk } from "./source.ts";

/** Names bound by a pattern: `{ a, b: [c = 1], ...d }` binds a, c and d. */
export function patternNames(node: Node | null | undefined): readonly string[] {
  switch (node?.type) {
    case "Identifier":
      return [node.name];
    case "ObjectPattern":
      return node.properties.flatMap((property) =>
        patternNames(property.type === "RestElement" ? property.argument : property.value),
      );
    case "ArrayPattern":
      return node.elements.flatMap(patternNames);
    case "AssignmentPattern":
      return patternNames(node.left);
    case "RestElement":
      return patternNames(node.argument);
    default:
      return [];
  }
}

/** Names that this one node declares, without those of the nodes below it. */
export function declaredNames(node: Node): readonly string[] {
  switch (node.type) {
    case "VariableDeclarator":
      return patternNames(node.id);
    case "FunctionDeclaration":
    case "FunctionExpression":
    case "ArrowFunctionExpression":
    case "ObjectMethod":
    case "ClassMethod":
    case "ClassPrivateMethod": {
      const own = "id" in node ? patternNames(node.id) : [];
      return [...own, ...node.params.flatMap(patternNames)];
    }
    case "TSDeclareFunction":
    case "ClassDeclaration":
    case "ClassExpression":
    case "TSInterfaceDeclaration":
    case "TSTypeAliasDeclaration":
    case "ImportSpecifier":
    case "ImportDefaultSpecifier":
    case "ImportNamespaceSpecifier":
      return patternNames("local" in node ? node.local : node.id);
    case "CatchClause":
      return patternNames(node.param);
    case "TSFunctionType":
    case "TSMethodSignature":
      return node.params.flatMap(patternNames);
    default:
      return [];
  }
}

export function isFunction(node: Node): boolean {
  return (
    node.type === "FunctionDeclaration" ||
    node.type === "FunctionExpression" ||
    node.type === "ArrowFunctionExpression" ||
    node.type === "ObjectMethod" ||
    node.type === "ClassMethod" ||
    node.type === "ClassPrivateMethod"
  );
}

/** Every name declared anywhere in the tree. */
export function allDeclaredNames(root: Node): ReadonlySet<string> {
  const names = new Set<string>();
  walk(root, (node) => {
    for (const name of declaredNames(node)) names.add(name);
  });
  return names;
}

/** True if some function around the node declares the name, so that it is not the module's. */
export function isShadowed(name: string, ancestors: readonly Node[]): boolean {
  return ancestors.some((node) => isFunction(node) && namesOfFunction(node).has(name));
}

function functionName(fn: Node): readonly string[] {
  return fn.type === "FunctionDeclaration" ? patternNames(fn.id) : [];
}

function namesOfFunction(fn: Node): ReadonlySet<string> {
  const names = new Set(declaredNames(fn));
  const collect = (node: Node): void => {
    for (const child of children(node)) {
      // A nested function's parameters are its own, but its name is declared here.
      const own = isFunction(child) ? functionName(child) : declaredNames(child);
      for (const name of own) names.add(name);
      if (!isFunction(child)) collect(child);
    }
  };
  collect(fn);
  return names;
}

/** The variable declarations that stand directly in a module, exported or not. */
export function moduleVariables(statements: readonly Node[]): readonly VariableDeclaration[] {
  return statements.flatMap((statement) => {
    const inner = statement.type === "ExportNamedDeclaration" ? statement.declaration : statement;
    return inner?.type === "VariableDeclaration" ? [inner] : [];
  });
}
