// Rules about every text file of the checkout, whatever its language.
import type { Finding, House, Rule } from "./source.ts";

/** Calls `check` for each line of each file. */
function findLines(
  house: House,
  check: (line: string, path: string) => string | undefined,
): readonly Finding[] {
  return [...house.texts].flatMap(([path, text]) =>
    text.split("\n").flatMap((line, index) => {
      const what = check(line, path);
      return what === undefined ? [] : [{ path, line: index + 1, what }];
    }),
  );
}

const MACHINE_PATH = /(?<![\w.:/~-])\/(?:work|root|home|tmp|Users)\/[\w.-]|[A-Z]:\\Users\\/;
const REGISTRY_HOST = /\bregistry\.[a-z]|\b(?:npmjs|npmmirror|yarnpkg)\.[a-z]/;

/** A checkout works wherever it lies and wherever its packages come from. */
export const machinePaths: Rule = (house) =>
  findLines(house, (line) => {
    const [path] = MACHINE_PATH.exec(line) ?? [];
    if (path !== undefined) return `a path of one machine: ${path}`;
    const [host] = REGISTRY_HOST.exec(line) ?? [];
    return host === undefined ? undefined : `a package registry: ${host}`;
  });

const DOCUMENT = /\bdocs\/[A-Za-z0-9_-]+\.md(?:#[A-Za-z0-9_-]+)?/g;

/** A pointer to docs/ leads to a file that is there and, with a #, to a heading or a table row. */
export const documents: Rule = (house) =>
  findLines(house, (line) => {
    const missing = (line.match(DOCUMENT) ?? []).find((target) => {
      const [file = "", anchor] = target.split("#");
      const text = house.texts.get(file);
      return text === undefined || (anchor !== undefined && !anchorsOf(text).has(anchor));
    });
    return missing && `nothing is at ${missing}`;
  });

/** Slugs of the headings, and of the first cell of each table row. */
function anchorsOf(markdown: string): ReadonlySet<string> {
  const titles = markdown.split("\n").flatMap((line) => {
    const [, heading, cell] = /^#+\s+(.*)$|^\|\s*([^|]+?)\s*\|/.exec(line) ?? [];
    return heading ?? cell ?? [];
  });
  return new Set(titles.map(slug));
}

function slug(title: string): string {
  return title
    .toLowerCase()
    .replace(/[^\w\s-]/g, "")
    .trim()
    .replace(/\s+/g, "-");
}
