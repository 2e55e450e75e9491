/** Counts, holds and ports planted wrong, one word at a time, in the machine of audit-planted.ts. */
import { DOM, LINE, lineOf } from "../../shared/layout.ts";
import { bump, domainWord, firstFree, type InUse } from "./audit-planted.ts";
import { slotOf } from "./domains.ts";

export const PLANTED_BOUNDS: readonly [
  what: string,
  finding: RegExp,
  plant: (state: InUse) => void,
][] = [
  [
    "a count below zero",
    /domain 2 counts -1 live handles/,
    ({ xen, mapper }) => bump(xen, domainWord(xen, mapper.domid, DOM.MAPPINGS), -2),
  ],
  [
    "a reference that nobody had and somebody dropped",
    /counts 67108863 references, more than can be/,
    ({ xen }) => {
      xen.words[xen.layout.frameCount + firstFree(xen)] = 2 ** 26 - 1;
    },
  ],
  [
    "a handler that has answered and kept what it held",
    /slot \d+ has its answer and still holds 1 rows/,
    ({ xen, mapper }) => bump(xen, lineOf(xen.layout, slotOf(xen, mapper.domid)) + LINE.HELD),
  ],
  [
    "a table left half rewritten",
    /table of domain 2 is left in the middle/,
    ({ xen, mapper }) => bump(xen, domainWord(xen, mapper.domid, DOM.P2M_SEQUENCE)),
  ],
  [
    "a port in use beyond the valid ones",
    /port 2 of domain 2 is in use, and 2 ports are valid/,
    ({ xen, mapper }) => {
      xen.words[domainWord(xen, mapper.domid, DOM.VALID_EVTCHNS)] = 2;
    },
  ],
];
