/** All mutants, and the rows of the catalogue that are out of reach here. */
import { GRANT_MUTANTS } from "./grants.ts";
import type { Mutant } from "./mutant.ts";

export const MUTANTS: readonly Mutant[] = [...GRANT_MUTANTS];
