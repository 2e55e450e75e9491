/** All mutants, and the rows of the catalogue that are out of reach here. */
import { BOOKKEEPING_MUTANTS } from "./bookkeeping.ts";
import { EVENT_MUTANTS } from "./events.ts";
import { FRAME_MUTANTS } from "./frames.ts";
import { GRANT_MUTANTS } from "./grants.ts";
import type { Mutant, OutOfReach } from "./mutant.ts";
import { OUT_OF_REACH_ROWS } from "./out-of-reach.ts";
import { PV_MUTANTS } from "./pv.ts";
import { RING_MUTANTS } from "./rings.ts";
import { TABLE_MUTANTS } from "./tables.ts";

export const MUTANTS: readonly Mutant[] = [
  ...GRANT_MUTANTS,
  ...FRAME_MUTANTS,
  ...EVENT_MUTANTS,
  ...PV_MUTANTS,
  ...RING_MUTANTS,
  ...BOOKKEEPING_MUTANTS,
  ...TABLE_MUTANTS,
];

export const OUT_OF_REACH: readonly OutOfReach[] = OUT_OF_REACH_ROWS;
