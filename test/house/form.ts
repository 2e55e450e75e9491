// Rules about the form of a file: names, lengths, and the escapes from the type system.
import type { Node } from "@babel/types";
import { declaredNames, isFunction } from "./bindings.ts";
import { type Finding, finding, findNodes, isCore, type Rule } from "./source.ts";

const FILE_LINES_MAX = 400;
const FUNCTION_LINES_MAX = 60;

/** Folders and files are kebab-case nouns. */
export const fileNames: Rule = (house) =>
  house.sources
    .filter(({ path }) => {
      const segments = path.replace(/(\.test|\.config|\.d)?\.ts$/, "").split("/");
      return !segments.every((segment) => /^\.?[a-z0-9]+(-[a-z0-9]+)*$/.test(segment));
    })
    .map(({ path }) => ({ path, line: 1, what: "file names are kebab-case" }));

/** These words say that something is done, and hide what. */
export const bannedWords: Rule = (house) => [
  ...house.sources
    .filter(({ path }) => /(^|[/-])(manager|service|helper|util)s?(?=[-./])/.test(path))
    .map(({ path }) => ({ path, line: 1, what: "the name does not say what the file is for" })),
  ...findNodes(
    house,
    () => true,
    (node) => {
      const name = declaredNames(node).find((n) => /(Manager|Service|Helper)s?(?![a-z])/.test(n));
      return name && `${name} does not say what it is`;
    },
  ),
];

/** A translated guest never holds a machine frame number; files for x86 PV guests say so by name. */
export const mfnInDomains: Rule = (house) =>
  findNodes(
    house,
    ({ folder, path }) => folder === "domains" && !/(^|[/-])pv([-./]|$)/.test(path),
    (node) =>
      node.type === "Identifier" && /Mfn/.test(node.name)
        ? `${node.name}: no translated guest holds an Mfn`
        : undefined,
  );

export const fileLengths: Rule = (house) =>
  house.sources.flatMap(({ path, text }) => {
    const count = text.split("\n").length - (text.endsWith("\n") ? 1 : 0);
    if (count <= FILE_LINES_MAX) return [];
    return [{ path, line: FILE_LINES_MAX + 1, what: `${count} lines, ${FILE_LINES_MAX} at most` }];
  });

export const functionLengths: Rule = (house) =>
  findNodes(
    house,
    () => true,
    (node, ancestors) => {
      if (!isFunction(node) || !node.loc || isDescribed(ancestors.at(-1))) return undefined;
      const count = node.loc.end.line - node.loc.start.line + 1;
      if (count <= FUNCTION_LINES_MAX) return undefined;
      return `${count} lines in one function, ${FUNCTION_LINES_MAX} at most`;
    },
  );

/** The body of a describe() is a chapter of tests, not a function that somebody has to follow. */
function isDescribed(parent: Node | undefined): boolean {
  if (parent?.type !== "CallExpression") return false;
  let callee: Node = parent.callee;
  while (callee.type === "CallExpression" || callee.type === "MemberExpression") {
    callee = callee.type === "CallExpression" ? callee.callee : callee.object;
  }
  return callee.type === "Identifier" && callee.name === "describe";
}

export const typeEscapes: Rule = (house) => [
  ...findNodes(
    house,
    () => true,
    (node) => (node.type === "TSAnyKeyword" ? "any switches the compiler off" : undefined),
  ),
  ...findNodes(house, isCore, (node) => {
    const isDefinite = "definite" in node && node.definite === true;
    const isAsserted = node.type === "TSNonNullExpression" || isDefinite;
    return isAsserted ? "no `!` in the core: read with at(), or handle undefined" : undefined;
  }),
  ...house.sources.flatMap((source) => source.comments.flatMap((c) => silencer(source.path, c))),
];

/** A test may expect an error of the compiler, since a refusal to compile is what it shows. */
function silencer(
  path: string,
  comment: { value: string; loc?: { start: { line: number } } | null },
) {
  const [mark] = /@ts-(ignore|nocheck|expect-error)/.exec(comment.value) ?? [];
  const isExpected = mark === "@ts-expect-error" && path.startsWith("test/");
  if (mark === undefined || isExpected) return [];
  return [{ path, line: comment.loc?.start.line ?? 1, what: `${mark} hides an error` }];
}

/** Scenarios are loaded by folder and tools ask for their configuration by this name. */
export const defaultExports: Rule = (house) =>
  house.sources
    .filter(({ path }) => !/^(test\/)?scenarios\/|^[^/]+\.config\.ts$|\.d\.ts$/.test(path))
    .flatMap((source): readonly Finding[] =>
      source.program.body
        .filter(
          (node) =>
            node.type === "ExportDefaultDeclaration" ||
            (node.type === "ExportNamedDeclaration" &&
              node.specifiers.some(
                ({ exported }) => exported.type === "Identifier" && exported.name === "default",
              )),
        )
        .map((node) => finding(source, node, "named exports only")),
    );
