/** The P2M itself: blocks that give way to pages, removals, and the bounds of a table. */
import { describe, expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import {
  entryFrame,
  entryType,
  P2M_NOTHING,
  p2mClear,
  p2mLookup,
  p2mRemoveMapping,
  p2mSet,
  walkSteps,
} from "../../hypervisor/p2m.ts";
import { domainPair, setDomainField, type Xen } from "../../hypervisor/xen.ts";
import { XEN_DOMCTL_set_paging_mempool_size } from "../../shared/abi/domctl.ts";
import { GNTMAP_host_map, GNTMAP_readonly, GTF_permit_access } from "../../shared/abi/grant.ts";
import { XENMEM_decrease_reservation } from "../../shared/abi/memory.ts";
import { DOM, DYING_DYING, LINE, lineOf } from "../../shared/layout.ts";
import { add, MachineMemory } from "../../shared/mem.ts";
import {
  ACCESS_EXECUTE,
  ACCESS_OK,
  ACCESS_READ,
  ACCESS_WRITE,
  FAULT_PERMISSION,
  FAULT_TRANSLATION,
  walk,
} from "../../shared/mmu.ts";
import { PTE_VALID, p2m_grant_map_ro, p2m_ram_ro, p2m_ram_rw } from "../../shared/pte.ts";
import { EILSEQ, EINVAL, ENOMEM, GNTST_general_error, GNTST_okay } from "../../shared/status.ts";
import { DomId, type FrameIndex } from "../../shared/units.ts";
import { domctl, field, slotOf } from "./domains.ts";
import { mapOne, setEntry, unmapOne } from "./grants.ts";
import {
  type Actor,
  bootTestMachine,
  probe,
  readWord,
  type TestMachine,
  testDom0,
  testDomain,
  testModel,
  writeWord,
} from "./harness.ts";
import { removeFromPhysmap, reserve } from "./memory-calls.ts";
import { SlowMemory } from "./slow-memory.ts";

/** The machine's memory, with a walker that looks after each word of a table that is written. */
class WatchedMemory extends MachineMemory {
  readonly #real: MachineMemory;
  readonly #look: () => void;

  constructor(xen: Xen, look: () => void) {
    super(new ArrayBuffer(0));
    this.#real = xen.memory;
    this.#look = look;
  }

  override peek(frame: FrameIndex, offset: number): number {
    return this.#real.peek(frame, offset);
  }
  override poke(frame: FrameIndex, offset: number, value: number): void {
    this.#real.poke(frame, offset, value);
    this.#look();
  }
  override store(frame: FrameIndex, offset: number, value: number): void {
    this.#real.store(frame, offset, value);
    this.#look();
  }
}

interface Blocks {
  readonly machine: TestMachine;
  readonly granter: Actor;
  /** Its 512 pages are one block. */
  readonly mapper: Actor;
  readonly block: number;
}

function blocks(): Blocks {
  const domains = [testDom0(), testDomain("G"), testDomain("M", { memoryPages: 512 })];
  const machine = bootTestMachine(testModel(domains));
  const [, granter, mapper] = machine.actors;
  if (granter === undefined || mapper === undefined) throw new Error("three domains were booted");
  setEntry(machine, granter, 8, GTF_permit_access, mapper.domid, granter.ram);
  return { machine, granter, mapper, block: mapper.ram };
}

const levelOf = ({ machine, mapper }: Blocks, gfn: number): number | undefined =>
  walkSteps(machine.xen, DomId(mapper.domid), gfn).at(-1)?.level;
const mapAt = ({ machine, granter, mapper }: Blocks, gfn: number): number =>
  mapOne(machine, mapper, { gfn, flags: GNTMAP_host_map, ref: 8, dom: granter.domid }).status;

describe("hypervisor case 99: a grant is mapped into the middle of a block", () => {
  test("the other 511 pages stay where they were, for whoever is reading them too", () => {
    const story = blocks();
    const { machine, granter, mapper, block } = story;
    expect(levelOf(story, block)).toBe(2);
    for (let i = 0; i < 512; i++) writeWord(mapper, (block + i) * 4096 + 64, i);
    writeWord(granter, granter.ram * 4096 + 64, 0xfeed);
    expect(mapAt(story, block + 100)).toBe(GNTST_okay);
    expect(levelOf(story, block)).toBe(3);
    for (let i = 0; i < 512; i++) {
      expect(readWord(mapper, (block + i) * 4096 + 64)).toBe(i === 100 ? 0xfeed : i);
    }
    expect(field(machine.xen, mapper.domid, DOM.SUPERPAGES_SPLIT)).toBe(1);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("XSA-345: an access that began over the block ends on its page", () => {
    const story = blocks();
    const { machine, mapper, block } = story;
    writeWord(mapper, (block + 7) * 4096, 7);
    // A walker stands inside a page of the block while another gfn of it is removed and the block is rebuilt.
    expect(mapper.mmu.open(block + 7, ACCESS_READ)).toBe(ACCESS_OK);
    const former = p2mClear(machine.xen, DomId(mapper.domid), block + 8);
    expect(former).not.toBe(P2M_NOTHING);
    expect(mapper.mmu.load(0)).toBe(7);
    mapper.mmu.close();
    expect(readWord(mapper, (block + 7) * 4096)).toBe(7);
    expect(probe(mapper, block + 8, ACCESS_READ)).toBe(FAULT_TRANSLATION);
  });
});

test("XSA-328: no walker ever sees one half of an old entry and one of a new", () => {
  const { machine, granter, mapper } = blocks();
  const { xen } = machine;
  writeWord(mapper, mapper.ram * 4096, 1);
  writeWord(granter, granter.ram * 4096, 2);
  const frame = entryFrame(p2mLookup(xen, DomId(granter.domid), granter.ram));
  p2mClear(xen, DomId(mapper.domid), mapper.ram + 1);
  const seen = new Set<string>();
  // RAM may be executed, the grant that replaces it may not: an executable view of the granter's page is torn.
  const look = (): void => {
    const kinds = [ACCESS_READ, ACCESS_EXECUTE].map((kind) => {
      add(xen.words, lineOf(xen.layout, slotOf(xen, mapper.domid)) + LINE.GENERATION, 1);
      if (mapper.mmu.open(mapper.ram, kind) !== ACCESS_OK) return 0;
      const word = mapper.mmu.load(0);
      mapper.mmu.close();
      return word;
    });
    seen.add(kinds.join(" "));
  };
  const memory = new WatchedMemory(xen, look);
  p2mSet({ ...xen, memory }, DomId(mapper.domid), mapper.ram, frame, p2m_grant_map_ro);
  look();
  expect([...seen].sort()).toEqual(["0 0", "2 0"]);
});

test("XSA-347: a walker that is between the words of an entry when it is replaced takes no half of each", () => {
  const { machine, granter } = blocks();
  const { xen } = machine;
  const domid = DomId(granter.domid);
  const leaf = walkSteps(xen, domid, granter.ram).at(-1);
  if (leaf === undefined) throw new Error("RAM is mapped");
  const frame = entryFrame(p2mLookup(xen, domid, granter.ram));
  const second = leaf.table * 4096 + leaf.slot * 8 + 4;
  // A grant may not be executed, RAM may: word 1 says so, and word 0 names the frame.
  const replace = () => void p2mSet(xen, domid, granter.ram, frame + 1, p2m_grant_map_ro);
  const memory = new SlowMemory(xen.memory, second, replace);
  const root = field(xen, domid, DOM.P2M_ROOT);
  const seen = () => walk(xen.layout, xen.words, memory, root, granter.ram);
  expect(seen()).toBe(-FAULT_TRANSLATION);
  expect(seen()).toBe((frame + 1) * 8 + ACCESS_READ);
});

describe("hypervisor case 100: nothing to split a block with", () => {
  test("XSA-222, XSA-409: the map and the removal are refused, and the block is as it was", () => {
    const story = blocks();
    const { machine, mapper, block } = story;
    writeWord(mapper, (block + 5) * 4096, 5);
    // All the pool has free is taken back, so only tables in use are left.
    expect(domctl(machine, XEN_DOMCTL_set_paging_mempool_size, mapper.domid, 0)).toBe(-ENOMEM);
    expect(mapAt(story, block + 100)).toBe(GNTST_general_error);
    expect(p2mClear(machine.xen, DomId(mapper.domid), block)).toBe(-ENOMEM);
    const gfns = [block + 1];
    expect(reserve(machine, mapper, XENMEM_decrease_reservation, { gfns })).toBe(0);
    expect(removeFromPhysmap(machine, mapper, block + 1)).toBe(-ENOMEM);
    expect(levelOf(story, block)).toBe(2);
    expect(readWord(mapper, (block + 5) * 4096)).toBe(5);
    expect(field(machine.xen, mapper.domid, DOM.TOT_PAGES)).toBe(512);
    expect(audit(machine.xen)).toEqual([]);
  });
});

describe("removals", () => {
  test("hypervisor case 101: with the wrong frame -EILSEQ and nothing changed, of an empty gfn nothing to do", () => {
    const { machine, granter } = blocks();
    const domid = DomId(granter.domid);
    const entry = p2mLookup(machine.xen, domid, granter.ram);
    const wrong = entryFrame(entry) + 1;
    expect(p2mRemoveMapping(machine.xen, domid, granter.ram, wrong)).toBe(-EILSEQ);
    expect(p2mLookup(machine.xen, domid, granter.ram)).toBe(entry);
    expect(p2mRemoveMapping(machine.xen, domid, 0x60000, wrong)).toBe(P2M_NOTHING);
  });

  test("hypervisor case 102, XSA-393: an entry in use whose valid bit is off is zeroed, and stays gone", () => {
    const { machine, granter } = blocks();
    const { xen } = machine;
    const leaf = walkSteps(xen, DomId(granter.domid), granter.ram).at(-1);
    if (leaf === undefined) throw new Error("RAM is mapped");
    xen.memory.store(leaf.table, leaf.slot * 8, leaf.word & ~PTE_VALID);
    expect(removeFromPhysmap(machine, granter, granter.ram)).toBe(0);
    expect(xen.memory.peek(leaf.table, leaf.slot * 8)).toBe(0);
    expect(probe(granter, granter.ram, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    expect(audit(xen)).toEqual([]);
  });
});

describe("bounds", () => {
  test("hypervisor case 103, XSA-301: a gfn above the root is refused, never cut", () => {
    const { machine, granter } = blocks();
    const { xen } = machine;
    const domid = DomId(granter.domid);
    const max = domainPair(xen, domid, DOM.P2M_MAX_GFN);
    const frame = entryFrame(p2mLookup(xen, domid, granter.ram));
    expect(p2mLookup(xen, domid, max)).not.toBe(P2M_NOTHING);
    expect(p2mLookup(xen, domid, max + 1)).toBe(P2M_NOTHING);
    const end = 2 ** (40 - 12);
    const beyond = [end, end + 1, end + granter.ram, 2 ** 32 + granter.ram, 2 ** 53, Infinity];
    for (const gfn of beyond) {
      expect(p2mSet(xen, domid, gfn, frame, p2m_ram_rw)).toBe(-EINVAL);
      expect(p2mLookup(xen, domid, gfn)).toBe(P2M_NOTHING);
      expect(p2mClear(xen, domid, gfn)).toBe(P2M_NOTHING);
    }
    expect(domainPair(xen, domid, DOM.P2M_MAX_GFN)).toBe(max);
    expect(p2mSet(xen, domid, end - 1, frame, p2m_ram_rw)).toBe(P2M_NOTHING);
    expect(domainPair(xen, domid, DOM.P2M_MAX_GFN)).toBe(end - 1);
  });

  test("hypervisor case 104, XSA-410: a dying domain is given no entry, and loses what it has", () => {
    const { machine, granter } = blocks();
    const { xen } = machine;
    const domid = DomId(granter.domid);
    const frame = entryFrame(p2mLookup(xen, domid, granter.ram));
    setDomainField(xen, domid, DOM.DYING, DYING_DYING);
    expect(p2mSet(xen, domid, 0x60000, frame, p2m_ram_rw)).toBe(-ENOMEM);
    expect(p2mSet(xen, domid, granter.ram, frame, p2m_ram_rw)).toBe(-ENOMEM);
    expect(p2mClear(xen, domid, granter.ram)).toBeGreaterThan(0);
  });

  test("hypervisor case 105: grants are not executed, and read-only memory is not written", () => {
    const story = blocks();
    const { machine, granter, mapper } = story;
    const op = { gfn: 0x60000, ref: 8, dom: granter.domid };
    const flags = GNTMAP_host_map | GNTMAP_readonly;
    const { handle } = mapOne(machine, mapper, { ...op, flags });
    const entry = p2mLookup(machine.xen, DomId(mapper.domid), 0x60000);
    expect(entryType(entry)).toBe(p2m_grant_map_ro);
    expect(probe(mapper, 0x60000, ACCESS_READ)).toBe(ACCESS_OK);
    expect(probe(mapper, 0x60000, ACCESS_WRITE)).toBe(FAULT_PERMISSION);
    expect(probe(mapper, 0x60000, ACCESS_EXECUTE)).toBe(FAULT_PERMISSION);
    expect(unmapOne(machine, mapper, { handle, address: 0x60000 * 4096 })).toBe(GNTST_okay);
    const frame = entryFrame(p2mLookup(machine.xen, DomId(granter.domid), granter.ram));
    p2mSet(machine.xen, DomId(granter.domid), 0x60000, frame, p2m_ram_ro);
    expect(probe(granter, 0x60000, ACCESS_EXECUTE)).toBe(ACCESS_OK);
    expect(probe(granter, 0x60000, ACCESS_WRITE)).toBe(FAULT_PERMISSION);
  });
});
