/** claim_pages, the pool of table pages as domctl resizes it, and the small queries beside them. */
import { describe, expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { domainField, setDomainField } from "../../hypervisor/xen.ts";
import {
  XEN_DOMCTL_destroydomain,
  XEN_DOMCTL_get_paging_mempool_size,
  XEN_DOMCTL_getdomaininfo,
  XEN_DOMCTL_max_mem,
  XEN_DOMCTL_set_paging_mempool_size,
} from "../../shared/abi/domctl.ts";
import {
  XENMEM_claim_pages,
  XENMEM_decrease_reservation,
  XENMEM_get_vnumainfo,
  XENMEM_populate_physmap,
  XENMEM_reserved_device_memory_map,
} from "../../shared/abi/memory.ts";
import { DOMID_SELF, HYPERVISOR_domctl, HYPERVISOR_memory_op } from "../../shared/abi/xen.ts";
import { DOM, MACHINE } from "../../shared/layout.ts";
import { EFAULT, EINVAL, ENOMEM, EOPNOTSUPP, EPERM, ESRCH } from "../../shared/status.ts";
import { domctl, field, type Trio, trio } from "./domains.ts";
import { argumentAddress } from "./grants.ts";
import { type Actor, call, readGuest, type TestMachine, writeGuest } from "./harness.ts";
import { reserve } from "./memory-calls.ts";

const HOLE = 0x60000;
const NOBODY = 4660;

interface Claim {
  readonly dom: number;
  readonly pages: number;
  readonly list?: number;
  readonly order?: number;
  readonly flags?: number;
  readonly start?: number;
}

function claim(machine: TestMachine, actor: Actor, request: Claim): number {
  const bytes = new Uint8Array(32);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, request.list ?? 0, true);
  view.setBigUint64(8, BigInt(request.pages), true);
  view.setUint32(16, request.order ?? 0, true);
  view.setUint32(20, request.flags ?? 0, true);
  view.setUint16(24, request.dom, true);
  writeGuest(actor, argumentAddress(actor), bytes);
  const cmd = XENMEM_claim_pages + 64 * (request.start ?? 0);
  return call(machine, actor, HYPERVISOR_memory_op, cmd, argumentAddress(actor));
}

/** A domctl of a guest: its value, and the first 64 bits of the union afterwards. */
function guestDomctl(
  machine: TestMachine,
  by: Actor,
  cmd: number,
  domid: number,
  argument: number,
  word = 16,
): readonly [ret: number, answer: number] {
  const bytes = new Uint8Array(128);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, cmd, true);
  view.setUint16(8, domid, true);
  view.setBigUint64(16, BigInt(argument), true);
  writeGuest(by, argumentAddress(by), bytes);
  const ret = call(machine, by, HYPERVISOR_domctl, argumentAddress(by));
  const after = new DataView(readGuest(by, argumentAddress(by), 128).buffer);
  return [ret, Number(after.getBigUint64(word, true))];
}

describe("claim_pages", () => {
  /** dom0 and a granter that may have 300 pages and has 256. */
  function roomy(): Trio {
    const story = trio();
    domctl(story.machine, XEN_DOMCTL_max_mem, story.granter.domid, 300 * 4);
    return story;
  }

  test("hypervisor case 97: by DOMID_SELF, a second time, or below what is there is -EINVAL, and 0 gives up", () => {
    const { machine, dom0, granter } = roomy();
    const dom = granter.domid;
    expect(claim(machine, dom0, { dom: DOMID_SELF, pages: 300 })).toBe(-EINVAL);
    expect(claim(machine, dom0, { dom: NOBODY, pages: 300 })).toBe(-EINVAL);
    expect(claim(machine, dom0, { dom, pages: 256 })).toBe(-EINVAL);
    expect(claim(machine, dom0, { dom, pages: 301 })).toBe(-EINVAL);
    expect(claim(machine, dom0, { dom, pages: 300 })).toBe(0);
    expect(claim(machine, dom0, { dom, pages: 300 })).toBe(-EINVAL);
    expect(claim(machine, dom0, { dom, pages: 0 })).toBe(0);
    expect(claim(machine, dom0, { dom, pages: 0 })).toBe(0);
    expect(machine.xen.words[MACHINE.OUTSTANDING_CLAIMS]).toBe(0);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("a list, an order, flags or a start are -EINVAL before anything else, and a plain guest is -EPERM", () => {
    const { machine, dom0, granter } = roomy();
    const one = { dom: granter.domid, pages: 300 };
    expect(claim(machine, granter, { ...one, list: 4096 })).toBe(-EINVAL);
    expect(claim(machine, granter, { ...one, order: 1 })).toBe(-EINVAL);
    expect(claim(machine, granter, { ...one, flags: 1 })).toBe(-EINVAL);
    expect(claim(machine, granter, { ...one, start: 1 })).toBe(-EINVAL);
    expect(claim(machine, granter, one)).toBe(-EPERM);
    expect(call(machine, dom0, HYPERVISOR_memory_op, XENMEM_claim_pages, 0x7800_0000)).toBe(
      -EFAULT,
    );
  });

  test("each page that comes in uses one up, and getdomaininfo tells what is left", () => {
    const { machine, dom0, granter } = roomy();
    claim(machine, dom0, { dom: granter.domid, pages: 260 });
    const left = (): number =>
      guestDomctl(machine, dom0, XEN_DOMCTL_getdomaininfo, granter.domid, 0, 40)[1];
    expect(left()).toBe(4);
    const gfns = [HOLE, HOLE + 1];
    expect(reserve(machine, granter, XENMEM_populate_physmap, { gfns })).toBe(2);
    expect(left()).toBe(2);
    expect(reserve(machine, granter, XENMEM_decrease_reservation, { gfns })).toBe(2);
    expect(left()).toBe(2);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("what one has claimed nobody else is given, and its death gives it back", () => {
    const { machine, dom0, granter, mapper } = trio();
    const { xen } = machine;
    const free = xen.words[MACHINE.FREE_FRAMES] ?? 0;
    domctl(machine, XEN_DOMCTL_max_mem, granter.domid, 4096 * 4);
    domctl(machine, XEN_DOMCTL_max_mem, mapper.domid, 4096 * 4);
    expect(claim(machine, dom0, { dom: granter.domid, pages: 256 + free + 1 })).toBe(-ENOMEM);
    expect(claim(machine, dom0, { dom: granter.domid, pages: 256 + free })).toBe(0);
    const populate = { gfns: [HOLE] };
    expect(reserve(machine, mapper, XENMEM_populate_physmap, populate)).toBe(0);
    expect(reserve(machine, granter, XENMEM_populate_physmap, populate)).toBe(1);
    expect(domctl(machine, XEN_DOMCTL_destroydomain, granter.domid)).toBe(0);
    expect(xen.words[MACHINE.OUTSTANDING_CLAIMS]).toBe(0);
    expect(reserve(machine, mapper, XENMEM_populate_physmap, populate)).toBe(1);
    expect(audit(xen)).toEqual([]);
  });

  test("a claim that does not add up is found by the audit", () => {
    const { machine, granter } = trio();
    setDomainField(machine.xen, granter.domid, DOM.OUTSTANDING_PAGES, 3);
    expect(audit(machine.xen)).toEqual(["the heap keeps 0 pages back, domains claim 3"]);
  });
});

describe("the pool of table pages", () => {
  test("grows and shrinks in whole pages, and never below what is in use", () => {
    const { machine, dom0, granter } = trio();
    const { xen } = machine;
    const dom = granter.domid;
    const resize = (bytes: number): number =>
      guestDomctl(machine, dom0, XEN_DOMCTL_set_paging_mempool_size, dom, bytes)[0];
    const size = (): readonly [number, number] =>
      guestDomctl(machine, dom0, XEN_DOMCTL_get_paging_mempool_size, dom, 0);
    expect(size()).toEqual([0, 32 * 4096]);
    expect(resize(40 * 4096 + 1)).toBe(-EINVAL);
    expect(resize(100 * 4096)).toBe(0);
    expect(size()).toEqual([0, 100 * 4096]);
    const used = field(xen, dom, DOM.P2M_PAGE_COUNT);
    expect(resize(0)).toBe(-ENOMEM);
    expect(size()).toEqual([0, used * 4096]);
    expect(field(xen, dom, DOM.P2M_POOL_FREE)).toBe(0);
    expect(resize(4096 * 4096)).toBe(-ENOMEM);
    expect(resize(32 * 4096)).toBe(0);
    expect(audit(xen)).toEqual([]);
  });

  test("is the control domain's business, and the hardware domain takes its tables from elsewhere", () => {
    const { machine, dom0, granter } = trio();
    const cmd = XEN_DOMCTL_get_paging_mempool_size;
    expect(guestDomctl(machine, granter, cmd, granter.domid, 0)[0]).toBe(-EPERM);
    expect(guestDomctl(machine, dom0, cmd, NOBODY, 0)[0]).toBe(-ESRCH);
    expect(guestDomctl(machine, dom0, cmd, dom0.domid, 0)).toEqual([0, 32 * 4096]);
    expect(field(machine.xen, dom0.domid, DOM.P2M_POOL_FREE)).toBe(32);
    expect(domctl(machine, cmd, granter.domid)).toBe(32 * 4096);
  });
});

describe("queries of other machines", () => {
  test("there are no virtual nodes and no reserved device memory", () => {
    const { machine, dom0, granter } = trio();
    const ask = (by: Actor, cmd: number, dom: number, pad = 0): number => {
      const bytes = new Uint8Array(64);
      const view = new DataView(bytes.buffer);
      view.setUint16(0, dom, true);
      view.setUint16(2, pad, true);
      writeGuest(by, argumentAddress(by), bytes);
      return call(machine, by, HYPERVISOR_memory_op, cmd, argumentAddress(by));
    };
    expect(ask(granter, XENMEM_get_vnumainfo, 0)).toBe(-EPERM);
    expect(ask(granter, XENMEM_get_vnumainfo, DOMID_SELF)).toBe(-EOPNOTSUPP);
    expect(ask(dom0, XENMEM_get_vnumainfo, granter.domid)).toBe(-EOPNOTSUPP);
    expect(ask(dom0, XENMEM_get_vnumainfo, NOBODY)).toBe(-ESRCH);
    expect(ask(dom0, XENMEM_get_vnumainfo, 0, 1)).toBe(-EINVAL);
    expect(ask(granter, XENMEM_reserved_device_memory_map, 0)).toBe(0);
    expect(ask(granter, XENMEM_reserved_device_memory_map, 2)).toBe(-EINVAL);
    expect(ask(granter, XENMEM_reserved_device_memory_map + 64, 0)).toBe(-EINVAL);
    expect(domainField(machine.xen, granter.domid, DOM.TOT_PAGES)).toBe(256);
  });
});
