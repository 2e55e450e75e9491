import { describe, expect, test } from "vitest";
import {
  copyToUser,
  pinUserPage,
  structFromUser,
  unpinUserPage,
} from "../../domains/address-space.ts";
import { differences, inventoryOf } from "../../domains/inventory.ts";
import { pageRefcount } from "../../domains/pages.ts";
import { fileOf, type Process } from "../../domains/process.ts";
import {
  killProcess,
  runProcess,
  SIGKILL,
  SIGSEGV,
  sysClose,
  sysFork,
  sysIoctl,
  sysMmap,
  sysMunmap,
  sysOpen,
  sysPoll,
  sysRead,
  sysWaitpid,
  sysWrite,
} from "../../domains/syscalls.ts";
import { GNTDEV, mapGrants } from "../../domains/xengnttab.ts";
import {
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MAP_SHARED,
  POLLIN,
  PROT_READ,
  PROT_WRITE,
} from "../../shared/abi/linux.ts";
import { item } from "../../shared/assert.ts";
import { EBADF, EINVAL, ENODEV, ENOENT, ENOMEM, ENOTTY } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import type { Pfn } from "../../shared/units.ts";
import {
  gntdevBehind,
  loadUserWord,
  NOWHERE,
  named,
  PAGE,
  storeUserWord,
  withGrants,
} from "./user.ts";

const RW = PROT_READ | PROT_WRITE;

const anonymous = (process: Process, pages: number, kind: number = MAP_PRIVATE) =>
  sysMmap(process, { length: pages * PAGE, prot: RW, flags: kind | MAP_ANONYMOUS });

describe("the address space of a process", () => {
  test("anonymous memory is zeroed, its own, and given back when the process ends", () => {
    withGrants(function* ({ process }) {
      const at = yield* anonymous(process, 2);
      expect(yield* loadUserWord(process, at + PAGE)).toBe(0);
      yield* storeUserWord(process, at + PAGE - 2, 0x11223344);
      expect(yield* loadUserWord(process, at + PAGE - 2)).toBe(0x11223344);
      expect((yield* loadUserWord(process, at + PAGE)) & 0xffff).toBe(0x1122);
    });
  });

  test("more than there is answers -ENOMEM and keeps nothing", () => {
    withGrants(function* ({ process }) {
      const { pages } = process.kernel.memory;
      const free = pages.freeCount;
      expect(yield* anonymous(process, free + 1)).toBe(-ENOMEM);
      expect(pages.freeCount).toBe(free);
    });
  });

  test("malformed requests of mmap and munmap are refused", () => {
    withGrants(function* ({ process, fd }) {
      const ask = (request: Partial<Parameters<typeof sysMmap>[1]>) =>
        sysMmap(process, { length: PAGE, prot: RW, flags: MAP_SHARED, fd, ...request });
      expect(yield* ask({ length: 0 })).toBe(-EINVAL);
      expect(yield* ask({ offset: 1 })).toBe(-EINVAL);
      expect(yield* ask({ flags: 0 })).toBe(-EINVAL);
      expect(yield* ask({ flags: MAP_SHARED | MAP_PRIVATE })).toBe(-EINVAL);
      expect(yield* ask({ fd: 99 })).toBe(-EBADF);
      expect(yield* ask({ fd: yield* sysOpen(process, "/dev/xen/evtchn") })).toBe(-ENODEV);
      const at = yield* anonymous(process, 1);
      expect(yield* sysMunmap(process, at + 1, PAGE)).toBe(-EINVAL);
      expect(yield* sysMunmap(process, at, 0)).toBe(-EINVAL);
      // Nothing there is no error.
      expect(yield* sysMunmap(process, NOWHERE, PAGE)).toBe(0);
    });
  });

  test("munmap cuts mappings, over several of them and over gaps", () => {
    withGrants(function* ({ process }) {
      const one = yield* anonymous(process, 3);
      const other = yield* anonymous(process, 3);
      yield* storeUserWord(process, one, 1);
      yield* storeUserWord(process, other + 2 * PAGE, 2);
      expect(yield* sysMunmap(process, one + PAGE, other + 2 * PAGE - one - PAGE)).toBe(0);
      expect(yield* loadUserWord(process, one)).toBe(1);
      expect(yield* loadUserWord(process, other + 2 * PAGE)).toBe(2);
      expect(process.vmas.map(({ start, end }) => (end - start) / PAGE)).toEqual([1, 1]);
    });
  });

  test("the kernel copies across pages, and not where the process could not", () => {
    withGrants(function* (file, { refs }) {
      const { process } = file;
      const at = yield* anonymous(process, 2);
      const bytes = Uint8Array.from({ length: 5000 }, (_, i) => i & 0xff);
      expect(yield* copyToUser(process, at + 100, bytes)).toBe(true);
      expect((yield* structFromUser(process, at + 100, 5000))?.bytes).toEqual(bytes);
      expect(yield* structFromUser(process, at + PAGE, PAGE + 1)).toBeUndefined();
      const readonly = yield* mapGrants(file, named(refs), PROT_READ);
      if (typeof readonly === "number") throw new Error(`mapping answered ${readonly}`);
      expect(yield* copyToUser(process, readonly.address, bytes)).toBe(false);
      expect(yield* structFromUser(process, readonly.address, 4)).toBeDefined();
    });
  });
});

describe("files of a process", () => {
  test("the lowest free number is given, and what is closed is gone", () => {
    withGrants(function* ({ process, fd }) {
      expect(fd).toBe(0);
      expect(yield* sysOpen(process, GNTDEV)).toBe(1);
      expect(yield* sysOpen(process, GNTDEV)).toBe(2);
      expect(yield* sysClose(process, 1)).toBe(0);
      expect(yield* sysClose(process, 1)).toBe(-EBADF);
      expect(yield* sysOpen(process, GNTDEV)).toBe(1);
      expect(yield* sysOpen(process, "/dev/null")).toBe(-ENOENT);
    });
  });

  test("a file that lacks an operation, or is not there, refuses it", () => {
    withGrants(function* (file, { refs }) {
      const { process, fd } = file;
      const at = yield* anonymous(process, 1);
      expect(yield* sysRead(process, fd, at, 4)).toBe(-EINVAL);
      expect(yield* sysWrite(process, fd, at, 4)).toBe(-EINVAL);
      expect(yield* sysPoll(process, fd, POLLIN)).toBe(POLLIN);
      for (const call of [sysRead, sysWrite]) expect(yield* call(process, 99, at, 4)).toBe(-EBADF);
      expect(yield* sysPoll(process, 99)).toBe(-EBADF);
      const mapping = yield* mapGrants(file, named(refs));
      expect(mapping).not.toBeTypeOf("number");
      const heap = yield* sysOpen(process, "/dev/dma_heap/reserved");
      expect(yield* sysIoctl(process, heap, 1, at)).toBe(-ENOTTY);
    });
  });
});

describe("a fork", () => {
  /** Runs `program` in a child and waits for its end. */
  function* child(process: Process, program: (forked: Process) => Program): Program<number> {
    const forked = yield* sysFork(process, program);
    if (typeof forked === "number") throw new Error(`fork answered ${forked}`);
    return yield* sysWaitpid(process, forked);
  }

  test("copies private memory and shares what is shared", () => {
    withGrants(function* ({ process }) {
      const own = yield* anonymous(process, 1);
      const common = yield* anonymous(process, 1, MAP_SHARED);
      yield* storeUserWord(process, own, 1);
      yield* storeUserWord(process, common, 1);
      expect(
        yield* child(process, function* (forked) {
          expect(yield* loadUserWord(forked, own)).toBe(1);
          yield* storeUserWord(forked, own, 2);
          yield* storeUserWord(forked, common, 2);
        }),
      ).toBe(0);
      expect(yield* loadUserWord(process, own)).toBe(1);
      expect(yield* loadUserWord(process, common)).toBe(2);
    });
  });

  test("has the grants too: they stay until the last of both unmaps them", () => {
    withGrants(function* (file, { refs }) {
      const { process } = file;
      const mapping = yield* mapGrants(file, named(refs));
      if (typeof mapping === "number") throw new Error(`mapping answered ${mapping}`);
      const map = item(gntdevBehind(file).maps, 0);
      const page = item(map.pages, 0);
      const { pages } = process.kernel.memory;
      const forked = yield* sysFork(process, function* (other) {
        expect(pageRefcount(pages, page)).toBe(2);
        expect(yield* loadUserWord(other, mapping.address)).toBe(1000);
      });
      if (typeof forked === "number") throw new Error(`fork answered ${forked}`);
      // The list of the file, the mapping of each process.
      expect([map.users, fileOf(process, file.fd)?.count]).toEqual([3, 4]);
      expect(pageRefcount(pages, page)).toBe(3);
      yield* sysMunmap(process, mapping.address, 3 * PAGE);
      yield* sysClose(process, file.fd);
      expect(map.liveGrants).toBe(3);
      yield* sysWaitpid(process, forked);
      expect(map.liveGrants).toBe(0);
    });
  });

  test("without memory for the copy leaves no child", () => {
    withGrants(function* ({ process }) {
      const { pages } = process.kernel.memory;
      yield* anonymous(process, pages.freeCount - 5);
      const free = pages.freeCount;
      expect(yield* sysFork(process, function* () {})).toBe(-ENOMEM);
      expect(pages.freeCount).toBe(free);
    });
  });

  test("a child that touches what is not there dies alone", () => {
    withGrants(function* ({ process }) {
      const signal = yield* child(process, function* (forked) {
        yield* loadUserWord(forked, NOWHERE);
      });
      expect(signal).toBe(SIGSEGV);
    });
  });
});

test("a killed process makes no further call, and its waiting parent hears of it", () => {
  withGrants(function* ({ process }) {
    const { kernel } = process;
    const calls = { made: 0 };
    const signal = yield* runProcess(kernel, "victim", function* (victim) {
      yield* sysOpen(victim, GNTDEV);
      calls.made++;
      killProcess(victim);
      yield* sysOpen(victim, GNTDEV);
      calls.made++;
    });
    expect([signal, calls.made]).toEqual([SIGKILL, 1]);
  });
});

test("a page and a mapping that somebody forgets are named by the inventory", () => {
  withGrants(function* (file, { refs }) {
    const { process } = file;
    const { kernel } = process;
    const before = inventoryOf(kernel);
    let forgotten: Pfn | undefined;
    yield* runProcess(kernel, "forgetful", function* (forgetful) {
      forgotten = pinUserPage(forgetful, yield* anonymous(forgetful, 1), { write: true });
    });
    expect(differences(before, inventoryOf(kernel))).toEqual(["freePages"]);
    if (forgotten !== undefined) unpinUserPage(process, forgotten);
    const mapping = yield* mapGrants(file, named(refs));
    expect(mapping).not.toBeTypeOf("number");
    expect(differences(before, inventoryOf(kernel))).toContain("foreign");
  });
});
