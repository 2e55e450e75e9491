import { describe, expect, test } from "vitest";
import { inventoryOf } from "../../domains/inventory.ts";
import type { Kernel } from "../../domains/kernel.ts";
import { storeWord } from "../../domains/memory.ts";
import { allocPage, pageToPhys } from "../../domains/pages.ts";
import type { Process } from "../../domains/process.ts";
import { structure } from "../../domains/structure.ts";
import {
  runProcess,
  SIGBUS,
  SIGSEGV,
  stage,
  sysFork,
  sysIoctl,
  sysMmap,
  sysMunmap,
  sysOpen,
  sysWaitpid,
  userLoad,
} from "../../domains/syscalls.ts";
import { MAP_SHARED, PROT_READ, PROT_WRITE } from "../../shared/abi/linux.ts";
import {
  XENMEM_resource_grant_table,
  XENMEM_resource_grant_table_id_shared,
} from "../../shared/abi/memory.ts";
import {
  IOCTL_PRIVCMD_DM_OP,
  IOCTL_PRIVCMD_HYPERCALL,
  IOCTL_PRIVCMD_MMAP,
  IOCTL_PRIVCMD_MMAP_RESOURCE,
  IOCTL_PRIVCMD_MMAPBATCH,
  IOCTL_PRIVCMD_MMAPBATCH_V2,
  IOCTL_PRIVCMD_RESTRICT,
} from "../../shared/abi/privcmd.ts";
import { HYPERVISOR_xen_version, XENVER_version } from "../../shared/abi/xen.ts";
import { item } from "../../shared/assert.ts";
import { E2BIG, EFAULT, EINVAL, ENOSYS, ENOTTY, EPERM, ESRCH } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { testDom0, testDomain } from "../hypervisor/harness.ts";
import { EXTENDED, guestModel, runGuests } from "./guest.ts";
import { loadUserWord, NOWHERE, PAGE, rest, staged, storeUserWord } from "./user.ts";

const GUEST = 1;

interface Privcmd {
  readonly process: Process;
  readonly fd: number;
  /** Frames of the guest, whose words count up from 500. */
  readonly gfns: readonly number[];
}

/** dom0 with privcmd open, and a guest with four pages that it does not grant. Ends by `signal`. */
function inDom0(program: (privcmd: Privcmd) => Program, signal = 0): void {
  const gfns: number[] = [];
  const ended = { signal: -1 };
  function* guest(kernel: Kernel): Program {
    for (let i = 0; i < 4; i++) {
      const page = allocPage(kernel.memory.pages);
      if (page === undefined) throw new Error("no page");
      yield* storeWord(kernel.cpu, pageToPhys(page), 500 + i);
      gfns.push(page);
    }
    while (ended.signal < 0) yield* rest(kernel);
  }
  function* dom0(kernel: Kernel): Program {
    while (gfns.length < 4) yield* rest(kernel);
    const before = inventoryOf(kernel);
    ended.signal = yield* runProcess(kernel, "toolstack", function* (process) {
      yield* program({ process, fd: yield* sysOpen(process, "/dev/xen/privcmd"), gfns });
    });
    expect(inventoryOf(kernel)).toEqual(before);
  }
  const model = guestModel([testDom0({ extendedRegions: [EXTENDED] }), testDomain("guest")]);
  expect(runGuests(model, { dom0, guest }).findings).toEqual([]);
  expect(ended.signal).toBe(signal);
}

const reserve = ({ process, fd }: Privcmd, pages: number) =>
  sysMmap(process, { fd, length: pages * PAGE, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED });

/** An MMAPBATCH request: its result, and what it wrote: errors, or the frame numbers of version 1. */
function* mapBatch(
  { process, fd }: Privcmd,
  address: number,
  gfns: readonly number[],
  dom: number = GUEST,
  version: 1 | 2 = 2,
): Program<{ readonly rc: number; readonly wrote: readonly number[] }> {
  const args = structure(32 + gfns.length * 12);
  const { view, bytes } = args;
  for (const [i, gfn] of gfns.entries()) view.setUint32(32 + i * 8, gfn, true);
  // The arrays follow the structure, whose address is known only when it is staged.
  const at = yield* stage(process, bytes);
  const pointer = (offset: number, value: number): void => {
    view.setUint32(offset, value % 2 ** 32, true);
    view.setUint32(offset + 4, Math.floor(value / 2 ** 32), true);
  };
  view.setUint32(0, gfns.length, true);
  view.setUint16(4, dom, true);
  pointer(8, address);
  pointer(16, at + 32);
  if (version === 2) pointer(24, at + 32 + gfns.length * 8);
  yield* stage(process, bytes);
  const request = version === 2 ? IOCTL_PRIVCMD_MMAPBATCH_V2 : IOCTL_PRIVCMD_MMAPBATCH;
  const rc = yield* sysIoctl(process, fd, request, at);
  const wrote: number[] = [];
  for (let i = 0; i < gfns.length; i++) {
    const where = version === 2 ? at + 32 + gfns.length * 8 + i * 4 : at + 32 + i * 8;
    const word = yield* loadUserWord(process, where);
    wrote.push(version === 2 ? word | 0 : word);
  }
  return { rc, wrote };
}

describe("hypercalls of user space", () => {
  test("reach the hypervisor, whose answer is the result", () => {
    inDom0(function* ({ process, fd }) {
      const at = yield* staged(process, HYPERVISOR_xen_version, 0, XENVER_version, ...zeroes(9));
      expect(yield* sysIoctl(process, fd, IOCTL_PRIVCMD_HYPERCALL, at)).toBeGreaterThan(0);
      const unknown = yield* staged(process, 60, 0, ...zeroes(10));
      expect(yield* sysIoctl(process, fd, IOCTL_PRIVCMD_HYPERCALL, unknown)).toBe(-ENOSYS);
      expect(yield* sysIoctl(process, fd, IOCTL_PRIVCMD_HYPERCALL, NOWHERE)).toBe(-EFAULT);
      expect(yield* sysIoctl(process, fd, 0x1234, at)).toBe(-ENOTTY);
      // Frames by number are for paravirtualised guests.
      expect(yield* sysIoctl(process, fd, IOCTL_PRIVCMD_MMAP, at)).toBe(-ENOSYS);
    });
  });

  test("guest case 60: a file is restricted once; then it makes no hypercall and names no other domain", () => {
    inDom0(function* (privcmd) {
      const { process, fd, gfns } = privcmd;
      const restrict = function* (domid: number): Program<number> {
        const at = yield* staged(process, domid);
        return yield* sysIoctl(process, fd, IOCTL_PRIVCMD_RESTRICT, at);
      };
      expect(yield* sysIoctl(process, fd, IOCTL_PRIVCMD_RESTRICT, NOWHERE)).toBe(-EFAULT);
      expect(yield* restrict(GUEST)).toBe(0);
      expect(yield* restrict(6)).toBe(-EINVAL);
      expect(yield* restrict(GUEST)).toBe(0);
      // Before the argument is looked at.
      expect(yield* sysIoctl(process, fd, IOCTL_PRIVCMD_HYPERCALL, NOWHERE)).toBe(-EPERM);
      const address = yield* reserve(privcmd, 4);
      expect((yield* mapBatch(privcmd, address, gfns, 6)).rc).toBe(-EPERM);
      expect((yield* mapBatch(privcmd, address, gfns, 6, 1)).rc).toBe(-EPERM);
      const dmOp = yield* staged(process, 6, 0, 0, 0);
      expect(yield* sysIoctl(process, fd, IOCTL_PRIVCMD_DM_OP, dmOp)).toBe(-EPERM);
      const resource = yield* staged(process, 6, 0, 0, 0, 0, 0, 0, 0);
      expect(yield* sysIoctl(process, fd, IOCTL_PRIVCMD_MMAP_RESOURCE, resource)).toBe(-EPERM);
      expect(yield* mapBatch(privcmd, address, gfns)).toEqual({ rc: 0, wrote: [0, 0, 0, 0] });
    });
  });

  test("DM_OP checks how many buffers there are and how large, before it looks for them", () => {
    inDom0(function* ({ process, fd }) {
      const dmOp = function* (count: number, ...buffers: number[]): Program<number> {
        const at = yield* staged(process, GUEST | (count << 16), 0, 0, 0, ...buffers);
        yield* storeUserWord(process, at + 8, (at + 16) % 2 ** 32);
        yield* storeUserWord(process, at + 12, Math.floor(at / 2 ** 32));
        return yield* sysIoctl(process, fd, IOCTL_PRIVCMD_DM_OP, at);
      };
      expect(yield* sysIoctl(process, fd, IOCTL_PRIVCMD_DM_OP, NOWHERE)).toBe(-EFAULT);
      expect(yield* dmOp(0)).toBe(0);
      expect(yield* dmOp(17)).toBe(-E2BIG);
      expect(yield* dmOp(1, NOWHERE, 0, 4097, 0)).toBe(-E2BIG);
      expect(yield* dmOp(1, NOWHERE, 0, 8, 0)).toBe(-EFAULT);
      const { scratch } = process;
      // Device models are not answered, but the call is made.
      const [low, high] = [scratch % 2 ** 32, Math.floor(scratch / 2 ** 32)];
      expect(yield* dmOp(1, low, high, 8, 0)).toBe(-ENOSYS);
    });
  });
});

const zeroes = (count: number): number[] => new Array<number>(count).fill(0);

describe("MMAPBATCH", () => {
  test("shows a guest's memory, both ways", () => {
    inDom0(function* (privcmd) {
      const { process, gfns } = privcmd;
      const address = yield* reserve(privcmd, 4);
      expect(yield* mapBatch(privcmd, address, gfns)).toEqual({ rc: 0, wrote: [0, 0, 0, 0] });
      for (let i = 0; i < 4; i++) {
        expect(yield* loadUserWord(process, address + i * PAGE)).toBe(500 + i);
      }
      const again = yield* reserve(privcmd, 4);
      yield* mapBatch(privcmd, again, gfns);
      yield* storeUserWord(process, address + 8, 9);
      expect(yield* loadUserWord(process, again + 8)).toBe(9);
      expect(yield* sysMunmap(process, address, 4 * PAGE)).toBe(0);
    });
  });

  test("guest case 61: a frame that cannot be mapped fails alone: the request answers 0", () => {
    inDom0(function* (privcmd) {
      const address = yield* reserve(privcmd, 3);
      const frames = [item(privcmd.gfns, 0), 0x12345, item(privcmd.gfns, 1)];
      const { rc, wrote } = yield* mapBatch(privcmd, address, frames);
      expect([rc, wrote[0], wrote[2]]).toEqual([0, 0, 0]);
      expect(wrote[1]).toBeLessThan(0);
      expect(yield* loadUserWord(privcmd.process, address + 2 * PAGE)).toBe(501);
    });
  });

  test("the older version marks a frame number that could not be mapped", () => {
    inDom0(function* (privcmd) {
      const address = yield* reserve(privcmd, 2);
      const frames = [item(privcmd.gfns, 0), 0x12345];
      const { rc, wrote } = yield* mapBatch(privcmd, address, frames, GUEST, 1);
      expect(rc).toBe(0);
      expect(wrote).toEqual([frames[0], 0xf0012345]);
    });
  });

  test("guest case 62: the first request covers the whole mapping, a later one only its holes", () => {
    inDom0(function* (privcmd) {
      const { process, gfns } = privcmd;
      const address = yield* reserve(privcmd, 4);
      expect((yield* mapBatch(privcmd, address, gfns.slice(0, 2))).rc).toBe(-EINVAL);
      const holes = [item(gfns, 0), 0x12345, 0x12346, item(gfns, 3)];
      expect((yield* mapBatch(privcmd, address, holes)).rc).toBe(0);
      expect((yield* mapBatch(privcmd, address, gfns)).rc).toBe(-EINVAL);
      const middle = gfns.slice(1, 3);
      expect((yield* mapBatch(privcmd, address + 2 * PAGE, [...middle, 1])).rc).toBe(-EINVAL);
      expect((yield* mapBatch(privcmd, address + PAGE, middle)).rc).toBe(0);
      expect(yield* loadUserWord(process, address + 2 * PAGE)).toBe(502);
    });
  });

  test("no frames, arrays that are not there, and addresses of no mapping of its are refused in this order", () => {
    inDom0(function* (privcmd) {
      const { process, fd, gfns } = privcmd;
      const ioctl = (at: number) => sysIoctl(process, fd, IOCTL_PRIVCMD_MMAPBATCH_V2, at);
      expect(yield* ioctl(NOWHERE)).toBe(-EFAULT);
      expect(yield* ioctl(yield* staged(process, 0, GUEST, ...zeroes(6)))).toBe(-EINVAL);
      expect(yield* ioctl(yield* staged(process, -1, GUEST, ...zeroes(6)))).toBe(-EINVAL);
      expect(yield* ioctl(yield* staged(process, 1, GUEST, 0, 0, NOWHERE, ...zeroes(3)))).toBe(
        -EFAULT,
      );
      expect((yield* mapBatch(privcmd, process.scratch, gfns)).rc).toBe(-EINVAL);
      expect((yield* mapBatch(privcmd, NOWHERE, gfns)).rc).toBe(-EINVAL);
    });
  });

  test("a domain that does not exist fails every frame", () => {
    inDom0(function* (privcmd) {
      const address = yield* reserve(privcmd, 2);
      const { rc, wrote } = yield* mapBatch(privcmd, address, privcmd.gfns.slice(0, 2), 6);
      expect([rc, ...wrote]).toEqual([0, -ESRCH, -ESRCH]);
    });
  });

  test("touching what is not mapped is a bus error", () => {
    inDom0(function* (privcmd) {
      const address = yield* reserve(privcmd, 1);
      yield* loadUserWord(privcmd.process, address);
      throw new Error("the process is dead");
    }, SIGBUS);
  });

  test("its mappings are neither cut nor inherited", () => {
    inDom0(function* (privcmd) {
      const { process, gfns } = privcmd;
      const address = yield* reserve(privcmd, 4);
      yield* mapBatch(privcmd, address, gfns);
      expect(yield* sysMunmap(process, address + PAGE, PAGE)).toBe(-EINVAL);
      expect(yield* loadUserWord(process, address + PAGE)).toBe(501);
      const seen = { vmas: -1 };
      const child = yield* sysFork(process, function* (forked) {
        seen.vmas = forked.vmas.filter((vma) => vma.start === address).length;
        yield* userLoad(forked, address, 4);
      });
      if (typeof child === "number") throw new Error(`fork answered ${child}`);
      expect(yield* sysWaitpid(process, child)).toBe(SIGSEGV);
      expect(seen.vmas).toBe(0);
    });
  });
});

describe("MMAP_RESOURCE", () => {
  /** u16 dom, u32 type, id, idx, u64 num, addr. */
  const request = (address: number, count: number): number[] => [
    GUEST,
    XENMEM_resource_grant_table,
    XENMEM_resource_grant_table_id_shared,
    0,
    count,
    0,
    address % 2 ** 32,
    Math.floor(address / 2 ** 32),
  ];

  test("asks for a size with neither address nor count, and refuses one without the other", () => {
    inDom0(function* (privcmd) {
      const { process, fd } = privcmd;
      const ioctl = (at: number) => sysIoctl(process, fd, IOCTL_PRIVCMD_MMAP_RESOURCE, at);
      const at = yield* staged(process, ...request(0, 0));
      expect(yield* ioctl(at)).toBe(0);
      expect(yield* loadUserWord(process, at + 16)).toBeGreaterThan(0);
      expect(yield* ioctl(yield* staged(process, ...request(0, 1)))).toBe(-EINVAL);
      expect(yield* ioctl(yield* staged(process, ...request(NOWHERE, 0)))).toBe(-EINVAL);
      expect(yield* ioctl(yield* staged(process, ...request(NOWHERE, 1)))).toBe(-EINVAL);
      expect(yield* ioctl(NOWHERE)).toBe(-EFAULT);
      const address = yield* reserve(privcmd, 1);
      expect(yield* ioctl(yield* staged(process, ...request(address, 2)))).toBe(-EINVAL);
    });
  });

  test("maps a guest's grant table, where the guest's own entries are seen", () => {
    inDom0(function* (privcmd) {
      const { process, fd } = privcmd;
      const address = yield* reserve(privcmd, 1);
      const at = yield* staged(process, ...request(address, 1));
      expect(yield* sysIoctl(process, fd, IOCTL_PRIVCMD_MMAP_RESOURCE, at)).toBe(0);
      // Reference 8 was never granted.
      expect(yield* loadUserWord(process, address + 8 * 8)).toBe(0);
    });
  });
});
