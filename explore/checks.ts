/**
 * The checks of an explored run, each finding under the id of the invariant that it breaks.
 *
 *   step:  what can be seen for one step only: walkers that reach what is gone. After each step of the hypervisor
 *   whole: the audit from nothing. At the end of a run, and after each step where a run asks for it
 *
 * Rule: a finding is `I-nn: sentence`. What the recorded Xen breaks too (known findings) is kept apart.
 * Ours; ids are those of stress spec section 4. The sentences are the audit's.
 */
import { GUEST_INVARIANTS, INVARIANTS } from "../hypervisor/audit.ts";
import { type Census, takeCensus, takeHolders } from "../hypervisor/audit-census.ts";
import { KNOWN_FINDING, openAccesses, translations } from "../hypervisor/audit-walkers.ts";
import { frameOwner, isRamFrame, isXenHeap } from "../hypervisor/frame-table.ts";
import { domainField, lineField, slotDomain, type Xen } from "../hypervisor/xen.ts";
import { at } from "../shared/assert.ts";
import { DOM, LINE } from "../shared/layout.ts";
import { NOT_PRESENT } from "../shared/limits.ts";
import { isRam } from "../shared/pte.ts";

/** Id of each invariant of the audit. One that is not here is reported under its own name. */
export const INVARIANT_IDS: Readonly<Record<string, string>> = {
  allocations: "I-03",
  countBounds: "I-06",
  heldByHandlers: "I-34",
  frameCounts: "I-04",
  frameOwners: "I-02",
  pageLists: "I-01",
  pools: "I-21",
  xenHeap: "I-42",
  xenHeapGfns: "I-11",
  domainReferences: "I-23",
  claims: "I-20",
  pins: "I-15",
  grantees: "I-16",
  granters: "I-23",
  handleLists: "I-14",
  identityEntries: "I-07",
  p2mEntries: "I-08",
  directMap: "I-10",
  translations: "I-09",
  openAccesses: "I-09",
  walkers: "I-37",
  tablePages: "I-35",
  deadDomains: "I-23",
  singleGfns: "I-11",
  grantFrames: "I-12",
  ownTables: "I-07",
  contexts: "I-37",
  typeCounts: "I-05",
  tablesReadOnly: "I-05",
  foreignPtes: "I-08",
  machineToPhys: "I-10",
  pvTranslations: "I-09",
  eventPairs: "I-28",
  validPorts: "I-29",
  fifoState: "I-29",
  pollers: "I-27",
  statusBits: "I-13",
  fifoQueues: "I-29",
};

export interface Findings {
  readonly broken: readonly string[];
  /** Holes that the recorded Xen has as well. */
  readonly known: readonly string[];
}

/** Recounts the whole machine. `hostile`: domains whose guests may write anything. */
export function wholeCheck(xen: Xen, hostile: (domid: number) => boolean): Findings {
  const census = takeCensus(xen);
  const all: string[] = [];
  for (const [name, invariant] of Object.entries(INVARIANTS)) {
    for (const text of invariant(xen, census)) all.push(named(name, text));
  }
  for (const [name, invariant] of Object.entries(GUEST_INVARIANTS)) {
    for (const text of invariant(xen, census, hostile)) all.push(named(name, text));
  }
  for (const text of onePlaceEach(xen, census)) all.push(`I-11: ${text}`);
  for (const text of poolLists(xen, census)) all.push(`I-21: ${text}`);
  return sorted(all);
}

/** A page of the hypervisor's own stands at one gfn of its domain at most: it can be freed from under a second one. */
function onePlaceEach(xen: Xen, census: Census): string[] {
  const places = new Map<number, number>();
  for (const { domid, gfn, frame, type } of census.leaves) {
    if (!isRam(type) || !isRamFrame(xen, frame) || !isXenHeap(xen, frame)) continue;
    if (frameOwner(xen, frame) !== domid) continue;
    const before = places.get(frame);
    if (before !== undefined)
      return [`frame ${frame} of domain ${domid} is mapped at ${before} and ${gfn}`];
    places.set(frame, gfn);
  }
  return [];
}

/** The free table pages that a domain counts are those in its list. */
function poolLists(xen: Xen, census: Census): string[] {
  return census.domains.flatMap((domid) => {
    const counted = domainField(xen, domid, DOM.P2M_POOL_FREE);
    let listed = 0;
    let frame = domainField(xen, domid, DOM.P2M_POOL);
    for (; frame !== NOT_PRESENT && listed <= counted; listed++) {
      frame = at(xen.words, xen.layout.frameNext + frame);
    }
    return listed === counted
      ? []
      : [`domain ${domid} counts ${counted} free table pages, ${listed} are listed`];
  });
}

/**
 * Whether some walker is inside an access to memory that it may not touch, or holds a translation that is not there any
 * more. The common case takes no census: everybody is outside, or inside a page of its own domain.
 */
export function stepCheck(xen: Xen): Findings {
  const stale = translations(xen).map((text) => named("translations", text));
  if (!someInsideOther(xen)) return stale.length === 0 ? NOTHING : sorted(stale);
  const open = openAccesses(xen, takeHolders(xen)).map((text) => named("openAccesses", text));
  return sorted([...stale, ...open]);
}

const NOTHING: Findings = { broken: [], known: [] };

function someInsideOther(xen: Xen): boolean {
  for (let slot = 0; slot < xen.model.limits.slots; slot++) {
    const frame = lineField(xen, slot, LINE.INSIDE) - 1;
    if (frame < 0 || !isRamFrame(xen, frame)) continue;
    const owner = frameOwner(xen, frame);
    if (owner === NOT_PRESENT || owner !== slotDomain(xen, slot)) return true;
  }
  return false;
}

const named = (name: string, text: string): string => `${idOf(name, text)}: ${text}`;

/** An entry that leads to a page which is free is another matter than one that leads to somebody else's. */
const idOf = (name: string, text: string): string =>
  name === "p2mEntries" && /\bfree\b|of nobody/.test(text) ? "I-12" : (INVARIANT_IDS[name] ?? name);

const sorted = (all: readonly string[]): Findings => ({
  broken: all.filter((text) => !text.includes(KNOWN_FINDING)),
  known: all.filter((text) => text.includes(KNOWN_FINDING)),
});

/** `I-13` of `I-13: entry 8 ...`. */
export const findingId = (finding: string): string => /^([A-Z]+-?\d+)/.exec(finding)?.[1] ?? "?";
