/** All mutants, and the rows of the catalogue that are out of reach here. */
import { GRANT_MUTANTS } from "./grants.ts";
import type { Mutant, OutOfReach } from "./mutant.ts";
import { OUT_OF_REACH_ROWS } from "./out-of-reach.ts";

export const MUTANTS: readonly Mutant[] = [...GRANT_MUTANTS];

export const OUT_OF_REACH: readonly OutOfReach[] = OUT_OF_REACH_ROWS;
