/**
 * A structured dump of domains at one moment, as plain data and as text, and what changed between two moments.
 * Rules: reads bytes only (design 10.3); which sections there are stands in SECTIONS, in the order of printing.
 * Ours; the words at the head of a domain are those of Xen's debug key `q`.
 */
import { at } from "../shared/assert.ts";
import { iommuSettings } from "../shared/iommu-settings.ts";
import {
  CDF_directmap,
  CDF_hardware,
  CDF_iommu,
  CDF_privileged,
  DOM,
  DYING_ALIVE,
  DYING_DEAD,
  MACHINE,
  PAUSED_FOR_SHUTDOWN,
} from "../shared/layout.ts";
import { MAPTRACK_PER_FRAME } from "../shared/limits.ts";
import { grantsSection, maptrackSection } from "./dump-grants.ts";
import { faultsSection, identitySection, iommuSection, strayDevices } from "./dump-iommu.ts";
import { framesSection, iommuTableSection, p2mSection, tlbSection } from "./dump-pages.ts";
import { portsSection } from "./dump-ports.ts";
import { domainWord, isPresent, type Section, type What } from "./dump-section.ts";
import { domainName, type View } from "./view.ts";

const SECTIONS: readonly Section[] = [
  p2mSection,
  framesSection,
  grantsSection,
  maptrackSection,
  portsSection,
  iommuSection,
  iommuTableSection,
  identitySection,
  faultsSection,
  tlbSection,
];

export interface DomainDump {
  readonly domid: number;
  readonly name: string;
  /** Of this row of the domain table: another domain of the same id has another one. */
  readonly generation: number;
  readonly head: Readonly<Record<string, string | number | boolean>>;
  /** Rows by section name. */
  readonly sections: Readonly<Record<string, readonly object[]>>;
}

export interface MachineDump {
  /** Records that the hypervisor has handled: its logical clock. */
  readonly records: number;
  readonly freeFrames: number;
  readonly freeXenHeapPages: number;
  readonly flushes: number;
  readonly zombies: number;
  readonly iommu: ReturnType<typeof iommuSettings>;
  readonly iommuFaults: number;
  /** Devices in nobody's context; absent unless the IOMMU is asked for. */
  readonly strayDevices?: readonly object[];
  readonly domains: readonly DomainDump[];
}

/** Ids of the domains that exist, dying ones included; with `name`, those that it names: a name or an id. */
export function domidsOf(view: View, name?: string): readonly number[] {
  const all = Array.from({ length: view.layout.model.limits.domains }, (_, domid) => domid);
  const present = all.filter((domid) => isPresent(view, domid));
  if (name === undefined) return present;
  return present.filter((domid) => domainName(view, domid) === name || String(domid) === name);
}

/** Reads `what` of the domains with these ids; ids that do not exist are left out. */
export function dumpMachine(
  view: View,
  what: readonly What[],
  domids: readonly number[],
): MachineDump {
  const word = (index: number): number => at(view.words, index);
  return {
    records: word(MACHINE.STEP),
    freeFrames: word(MACHINE.FREE_FRAMES),
    freeXenHeapPages: word(MACHINE.XEN_HEAP_FREE),
    flushes: word(MACHINE.FLUSHES),
    zombies: word(MACHINE.DEAD_DOMAINS),
    iommu: iommuSettings(view.layout.model),
    iommuFaults: word(MACHINE.FAULT_COUNT),
    ...(what.includes("iommu") ? { strayDevices: strayDevices(view) } : {}),
    domains: domids
      .filter((domid) => isPresent(view, domid))
      .map((domid) => dumpDomain(view, what, domid)),
  };
}

function dumpDomain(view: View, what: readonly What[], domid: number): DomainDump {
  const wanted = SECTIONS.filter((section) => what.includes(section.what));
  return {
    domid,
    name: domainName(view, domid),
    generation: domainWord(view, domid, DOM.GENERATION),
    head: headOf(view, domid),
    sections: Object.fromEntries(wanted.map((one) => [one.name, one.read(view, domid)])),
  };
}

function headOf(view: View, domid: number): DomainDump["head"] {
  const word = (field: number): number => domainWord(view, domid, field);
  const flag = (bit: number): boolean => (word(DOM.FLAGS) & bit) !== 0;
  return {
    life: lifeOf(word(DOM.DYING)),
    references: word(DOM.REFS),
    pauses: word(DOM.PAUSE) & ~PAUSED_FOR_SHUTDOWN,
    target: word(DOM.TARGET) === 0 ? "none" : word(DOM.TARGET) - 1,
    shutdown: word(DOM.SHUTDOWN) === 0 ? "no" : word(DOM.SHUTDOWN) - 1,
    vcpus: word(DOM.VCPUS),
    pages: word(DOM.TOT_PAGES),
    maxPages: word(DOM.MAX_PAGES),
    xenheapPages: word(DOM.XENHEAP_PAGES),
    claimedPages: word(DOM.OUTSTANDING_PAGES),
    tablePages: word(DOM.P2M_PAGE_COUNT),
    poolPages: word(DOM.P2M_POOL_FREE),
    grantVersion: word(DOM.GRANT_VERSION),
    grantFrames: word(DOM.GRANT_FRAMES),
    maxGrantFrames: word(DOM.MAX_GRANT_FRAMES),
    mappings: word(DOM.MAPPINGS),
    maptrackFrames: Math.ceil(word(DOM.MAPTRACK_LIMIT) / MAPTRACK_PER_FRAME),
    maxMaptrackFrames: word(DOM.MAX_MAPTRACK_FRAMES),
    eventAbi: word(DOM.FIFO) === 0 ? "2-level" : "FIFO",
    directMapped: flag(CDF_directmap),
    iommu: flag(CDF_iommu),
    privileged: flag(CDF_privileged),
    hardware: flag(CDF_hardware),
  };
}

const lifeOf = (dying: number): string =>
  dying === DYING_ALIVE ? "alive" : dying === DYING_DEAD ? "dead" : "dying";

const domainTitle = ({ domid, name }: DomainDump): string => `d${domid} ${name}`;

/** The head of a domain in two lines; facts that are not so are left out. */
function headLines({ head }: DomainDump): readonly string[] {
  const { life, references, pauses, shutdown, vcpus, pages, maxPages, xenheapPages } = head;
  const kinds = ["hardware", "privileged", "directMapped", "iommu"].filter((key) => head[key]);
  const down = shutdown === "no" ? "" : `, shut down with code ${shutdown}`;
  return [
    `  ${life}, references ${references}, paused ${pauses} times, ${vcpus} vCPUs${down}` +
      `${kinds.length === 0 ? "" : `; ${kinds.join(", ")}`}`,
    `  pages ${pages} of ${maxPages}, Xen heap pages ${xenheapPages}, table pages ${head.tablePages}` +
      ` and ${head.poolPages} in the pool`,
    `  grant table version ${head.grantVersion}, frames ${head.grantFrames} of ${head.maxGrantFrames};` +
      ` mappings ${head.mappings}, maptrack frames ${head.maptrackFrames} of ${head.maxMaptrackFrames};` +
      ` ${head.eventAbi} events`,
  ];
}

/** A dump as a person reads it. `bold` paints headings. */
export function dumpLines(dump: MachineDump, bold: (text: string) => string): readonly string[] {
  const lines: string[] = [];
  for (const domain of dump.domains) {
    if (lines.length > 0) lines.push("");
    lines.push(bold(domainTitle(domain)), ...headLines(domain));
    for (const section of SECTIONS) {
      const rows = domain.sections[section.name];
      if (rows === undefined) continue;
      const table = section.lines(rows).map((line) => `    ${line}`);
      lines.push(`  ${bold(section.title)}${table.length === 0 ? ": none" : ""}`, ...table);
    }
  }
  const stray = iommuSection.lines(dump.strayDevices ?? []).map((line) => `  ${line}`);
  if (stray.length > 0) lines.push("", bold("devices in nobody's context"), ...stray);
  return lines;
}

export interface DomainDiff {
  readonly domid: number;
  readonly name: string;
  /** `came` and `went`: it exists in one of the two only. */
  readonly change: "came" | "went" | "changed";
  /** Facts of the head: before and after. */
  readonly head: Readonly<Record<string, readonly [unknown, unknown]>>;
  readonly sections: Readonly<
    Record<string, { readonly removed: readonly object[]; readonly added: readonly object[] }>
  >;
}

const identity = ({ domid, generation }: DomainDump): string => `${domid}/${generation}`;

/** What is different in `after`; domains in which nothing is have no entry. */
export function diffDumps(before: MachineDump, after: MachineDump): readonly DomainDiff[] {
  const earlier = new Map(before.domains.map((domain) => [identity(domain), domain]));
  const later = new Map(after.domains.map((domain) => [identity(domain), domain]));
  const whole = (domain: DomainDump, change: "came" | "went"): DomainDiff => {
    const { domid, name } = domain;
    return { domid, name, change, head: {}, sections: {} };
  };
  return [
    ...before.domains.filter((domain) => !later.has(identity(domain))).map((d) => whole(d, "went")),
    ...after.domains.flatMap((domain) => {
      const former = earlier.get(identity(domain));
      return former === undefined ? [whole(domain, "came")] : changed(former, domain);
    }),
  ];
}

function changed(before: DomainDump, after: DomainDump): readonly DomainDiff[] {
  const head = Object.entries(after.head)
    .filter(([key, value]) => before.head[key] !== value)
    .map(([key, value]) => [key, [before.head[key], value]] as const);
  const sections = SECTIONS.flatMap((section) => {
    const [left, right] = [before.sections[section.name], after.sections[section.name]];
    if (left === undefined || right === undefined) return [];
    const difference = section.diff(left, right);
    if (difference.removed.length + difference.added.length === 0) return [];
    return [[section.name, difference] as const];
  });
  if (head.length + sections.length === 0) return [];
  const { domid, name } = after;
  return [
    {
      domid,
      name,
      change: "changed",
      head: Object.fromEntries(head),
      sections: Object.fromEntries(sections),
    },
  ];
}

/** Differences as a person reads them: `-` was there, `+` is there now. */
export function diffLines(
  diffs: readonly DomainDiff[],
  bold: (text: string) => string,
): readonly string[] {
  if (diffs.length === 0) return ["no difference"];
  return diffs.flatMap((diff, i) => {
    const title = bold(`d${diff.domid} ${diff.name}`);
    const gap = i === 0 ? [] : [""];
    if (diff.change !== "changed") return [...gap, `${title} ${diff.change}`];
    const head = Object.entries(diff.head).map(
      ([key, [before, after]]) => `  ${key}: ${before} -> ${after}`,
    );
    return [...gap, title, ...head, ...SECTIONS.flatMap((one) => sectionDiff(one, diff, bold))];
  });
}

function sectionDiff(
  section: Section,
  diff: DomainDiff,
  bold: (text: string) => string,
): readonly string[] {
  const difference = diff.sections[section.name];
  if (difference === undefined) return [];
  return [`  ${bold(section.title)}`, ...section.marked(difference).map((line) => `    ${line}`)];
}
