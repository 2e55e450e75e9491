/** The table of docs/explorer.md: what each invariant is seen by, and the mutant that trips it. */
import { readFileSync } from "node:fs";
import { join } from "node:path";

export interface InvariantRow {
  readonly id: string;
  readonly seenBy: string;
  readonly mutant: string;
}

const page = readFileSync(join(import.meta.dirname, "../../docs/explorer.md"), "utf8");

export const INVARIANT_ROWS: readonly InvariantRow[] = [
  ...page.matchAll(/^\| (I-\d\d) \|[^|]*\|([^|]*)\| (M\d\d) \|$/gm),
].map(([, id = "", seenBy = "", mutant = ""]) => ({ id, seenBy, mutant }));
