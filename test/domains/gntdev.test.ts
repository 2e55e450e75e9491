import { describe, expect, test } from "vitest";
import { tryEndForeignAccess } from "../../domains/grant-table.ts";
import { sysIoctl, sysMmap, sysMunmap } from "../../domains/syscalls.ts";
import {
  mapGrantRef,
  mapGrants,
  setUnmapNotify,
  type UserFile,
  type UserMapping,
  unmapGrantRef,
  unmapGrants,
} from "../../domains/xengnttab.ts";
import {
  IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR,
  IOCTL_GNTDEV_MAP_GRANT_REF,
  IOCTL_GNTDEV_SET_MAX_GRANTS,
  IOCTL_GNTDEV_SET_UNMAP_NOTIFY,
  IOCTL_GNTDEV_UNMAP_GRANT_REF,
  UNMAP_NOTIFY_CLEAR_BYTE,
  UNMAP_NOTIFY_SEND_EVENT,
} from "../../shared/abi/gntdev.ts";
import { MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE } from "../../shared/abi/linux.ts";
import { item } from "../../shared/assert.ts";
import { EBADF, EFAULT, EINVAL, ENOENT, ENOMEM, ENOTTY } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { GrantRef } from "../../shared/units.ts";
import {
  FRONT,
  gntdevBehind,
  loadUserWord,
  NOWHERE,
  named,
  PAGE,
  staged,
  storeUserWord,
  withGrants,
} from "./user.ts";

const anyGrants = (count: number) => Array.from({ length: count }, () => ({ domid: 1, ref: 8 }));

function* mapped(file: UserFile, refs: readonly number[], prot?: number): Program<UserMapping> {
  const mapping = yield* mapGrants(file, named(refs), prot);
  if (typeof mapping === "number") throw new Error(`mapping answered ${mapping}`);
  return mapping;
}

const asked = (file: UserFile, offset: number, pages: number) => ({
  fd: file.fd,
  offset,
  length: pages * PAGE,
  prot: PROT_READ | PROT_WRITE,
  flags: MAP_SHARED,
});

describe("MAP_GRANT_REF", () => {
  test("guest case 42: no grants, or more than 65536, are refused before anything is allocated", () => {
    withGrants(function* (file) {
      const { process, fd } = file;
      for (const count of [0, 65537]) {
        const at = yield* staged(process, count, 0, 0, 0, FRONT, 8);
        expect(yield* sysIoctl(process, fd, IOCTL_GNTDEV_MAP_GRANT_REF, at)).toBe(-EINVAL);
      }
      // 65536 pass the test of the count; here they fail for want of address space.
      const at = yield* staged(process, 65536, 0, 0, 0, FRONT, 8);
      expect(yield* sysIoctl(process, fd, IOCTL_GNTDEV_MAP_GRANT_REF, at)).toBe(-ENOMEM);
    });
  });

  test("guest case 43: the first map has offset 0, the next one begins behind it", () => {
    withGrants(function* (file) {
      expect(yield* mapGrantRef(file, anyGrants(3))).toBe(0);
      expect(yield* mapGrantRef(file, anyGrants(1))).toBe(0x3000);
    });
  });

  test("guest case 44: a gap of exactly the size is not reused, a larger one is", () => {
    withGrants(function* (file) {
      yield* mapGrantRef(file, anyGrants(3));
      yield* mapGrantRef(file, anyGrants(2));
      yield* mapGrantRef(file, anyGrants(2));
      yield* unmapGrantRef(file, 0x3000, 2);
      expect(yield* mapGrantRef(file, anyGrants(2))).toBe(0x7000);
      expect(yield* mapGrantRef(file, anyGrants(1))).toBe(0x3000);
    });
  });

  test("guest case 10: without a whole section of address space there are no pages, and no fallback", () => {
    const back = { extendedRegions: [{ base: 0x1_0000_0000, size: 8 * PAGE }] };
    withGrants(
      function* (file) {
        expect(yield* mapGrantRef(file, anyGrants(1))).toBe(-ENOMEM);
      },
      { back },
    );
  });

  test("a structure, or references, that are not there leave no map behind", () => {
    withGrants(function* (file) {
      const { process, fd } = file;
      const ioctl = (at: number) => sysIoctl(process, fd, IOCTL_GNTDEV_MAP_GRANT_REF, at);
      expect(yield* ioctl(NOWHERE)).toBe(-EFAULT);
      // The process's buffer is one page: a list of 511 references runs out of it.
      expect(yield* ioctl(yield* staged(process, 511, 0, 0, 0, FRONT, 8))).toBe(-EFAULT);
      expect(gntdevBehind(file).maps).toEqual([]);
    });
  });

  test("a request that cannot be answered is taken back", () => {
    withGrants(function* (file, { refs }) {
      const { process, fd } = file;
      // The structure lies in a page that is mapped twice, here for writing and there not.
      const here = yield* mapped(file, refs.slice(0, 1));
      const there = yield* mapped(file, refs.slice(0, 1), PROT_READ);
      for (const [i, word] of [1, 0, 0, 0, FRONT, item(refs, 1)].entries()) {
        yield* storeUserWord(process, here.address + i * 4, word);
      }
      const maps = gntdevBehind(file).maps.length;
      const request = IOCTL_GNTDEV_MAP_GRANT_REF;
      expect(yield* sysIoctl(process, fd, request, there.address)).toBe(-EFAULT);
      expect(gntdevBehind(file).maps.length).toBe(maps);
    });
  });
});

describe("requests of gntdev", () => {
  test("guest case 51: SET_MAX_GRANTS is defined and not known, like any other number", () => {
    withGrants(function* ({ process, fd }) {
      const at = yield* staged(process, 1024);
      expect(yield* sysIoctl(process, fd, IOCTL_GNTDEV_SET_MAX_GRANTS, at)).toBe(-ENOTTY);
      expect(yield* sysIoctl(process, fd, 0x1234, at)).toBe(-ENOTTY);
      expect(yield* sysIoctl(process, 77, IOCTL_GNTDEV_SET_MAX_GRANTS, at)).toBe(-EBADF);
    });
  });

  test("guest case 47: an unknown index is not there; a count of 0 matches by index alone", () => {
    withGrants(function* (file) {
      yield* mapGrantRef(file, anyGrants(3));
      expect(yield* unmapGrantRef(file, 0x1000, 0)).toBe(-ENOENT);
      expect(yield* unmapGrantRef(file, 0, 2)).toBe(-ENOENT);
      expect(yield* unmapGrantRef(file, 0, 0)).toBe(0);
      const { process, fd } = file;
      expect(yield* sysIoctl(process, fd, IOCTL_GNTDEV_UNMAP_GRANT_REF, NOWHERE)).toBe(-EFAULT);
    });
  });

  test("guest case 47: while it is mapped the request goes and the mapping stays", () => {
    withGrants(function* (file, { refs }) {
      const mapping = yield* mapped(file, refs);
      expect(yield* unmapGrantRef(file, mapping.offset, 3)).toBe(0);
      expect(yield* loadUserWord(file.process, mapping.address + 2 * PAGE)).toBe(1002);
      expect(yield* sysMunmap(file.process, mapping.address, 3 * PAGE)).toBe(0);
    });
  });

  test("GET_OFFSET_FOR_VADDR finds the first mapping that ends above the address", () => {
    withGrants(function* (file, { refs }) {
      const { process, fd } = file;
      yield* mapGrantRef(file, anyGrants(2));
      const mapping = yield* mapped(file, refs);
      const query = function* (address: number): Program<readonly number[]> {
        const high = Math.floor(address / 2 ** 32);
        const at = yield* staged(process, address >>> 0, high, 0, 0, 0, 0);
        const rc = yield* sysIoctl(process, fd, IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR, at);
        return [rc, yield* loadUserWord(process, at + 8), yield* loadUserWord(process, at + 16)];
      };
      expect(yield* query(mapping.address + 2 * PAGE)).toEqual([0, 0x2000, 3]);
      // Just below it nothing is mapped, and the mapping is still the first one that ends above.
      expect(yield* query(mapping.address - 1)).toEqual([0, 0x2000, 3]);
      expect((yield* query(mapping.address + 3 * PAGE))[0]).toBe(-EINVAL);
      expect((yield* query(process.scratch))[0]).toBe(-EINVAL);
      const request = IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR;
      expect(yield* sysIoctl(process, fd, request, NOWHERE)).toBe(-EFAULT);
    });
  });

  test("guest case 49: unknown action bits, a port nobody has bound, and a bad index are refused in this order", () => {
    withGrants(function* (file) {
      yield* mapGrantRef(file, anyGrants(1));
      const notify = (offset: number, action: number, port: number) =>
        setUnmapNotify(file, { offset, action, port });
      expect(yield* notify(0x9000, 4, 5)).toBe(-EINVAL);
      expect(yield* notify(0x9000, UNMAP_NOTIFY_SEND_EVENT, 5)).toBe(-EINVAL);
      expect(yield* notify(0x9000, UNMAP_NOTIFY_CLEAR_BYTE, 0)).toBe(-ENOENT);
      expect(yield* notify(0x10, UNMAP_NOTIFY_CLEAR_BYTE, 0)).toBe(0);
      const { process, fd } = file;
      expect(yield* sysIoctl(process, fd, IOCTL_GNTDEV_SET_UNMAP_NOTIFY, NOWHERE)).toBe(-EFAULT);
    });
  });

  test("guest case 48: a read-only map takes no byte to clear", () => {
    withGrants(function* (file, { refs }) {
      yield* mapGrantRef(file, named(refs));
      const clear = { offset: 0x10, action: UNMAP_NOTIFY_CLEAR_BYTE };
      expect(yield* setUnmapNotify(file, clear)).toBe(0);
      expect(yield* setUnmapNotify(file, { ...clear, action: 0 })).toBe(0);
      const { process } = file;
      yield* sysMmap(process, { ...asked(file, 0, 3), prot: PROT_READ });
      expect(yield* setUnmapNotify(file, clear)).toBe(-EINVAL);
    });
  });
});

describe("mmap of gntdev", () => {
  test("maps the grants, and the last user unmaps them", () => {
    withGrants(function* (file, { refs }) {
      const mapping = yield* mapped(file, refs);
      const map = item(gntdevBehind(file).maps, 0);
      expect(map.liveGrants).toBe(3);
      for (let i = 0; i < 3; i++) {
        expect(yield* loadUserWord(file.process, mapping.address + i * PAGE)).toBe(1000 + i);
      }
      expect(yield* unmapGrants(file, mapping)).toBe(0);
      expect(map.liveGrants).toBe(0);
      expect(map.users).toBe(0);
    });
  });

  test("guest case 45: wrong length, wrong offset, a private writable one and a second mmap are refused", () => {
    withGrants(function* (file, { refs }) {
      const { process } = file;
      yield* mapGrantRef(file, named(refs));
      expect(yield* sysMmap(process, asked(file, 0, 2))).toBe(-EINVAL);
      expect(yield* sysMmap(process, asked(file, PAGE, 3))).toBe(-EINVAL);
      expect(yield* sysMmap(process, { ...asked(file, 0, 3), flags: MAP_PRIVATE })).toBe(-EINVAL);
      const map = item(gntdevBehind(file).maps, 0);
      expect(map.users).toBe(1);
      const readable = { ...asked(file, 0, 3), prot: PROT_READ, flags: MAP_PRIVATE };
      expect(yield* sysMmap(process, readable)).toBeGreaterThan(0);
      expect(map.flags & 4).toBe(4);
      expect(yield* sysMmap(process, asked(file, 0, 3))).toBe(-EINVAL);
    });
  });

  test("guest case 46: with one bad reference mmap fails, fails again, and the unmap request still succeeds", () => {
    withGrants(function* (file, { refs }) {
      const grants = named([item(refs, 0), 5000, item(refs, 2)]);
      const offset = yield* mapGrantRef(file, grants);
      const map = item(gntdevBehind(file).maps, 0);
      expect(yield* sysMmap(file.process, asked(file, offset, 3))).toBe(-EINVAL);
      expect(map.liveGrants).toBe(2);
      expect(yield* sysMmap(file.process, asked(file, offset, 3))).toBe(-EINVAL);
      expect(yield* unmapGrantRef(file, offset, 3)).toBe(0);
      expect(map.liveGrants).toBe(0);
    });
  });

  test("guest case 99: a reference revoked between the request and mmap makes it fail", () => {
    withGrants(
      function* (file, { kernel, pages, refs }) {
        yield* mapGrantRef(file, named(refs));
        expect(yield* tryEndForeignAccess(kernel, GrantRef(item(refs, 0)))).toBe(1);
        expect(yield* sysMmap(file.process, asked(file, 0, 1))).toBe(-EINVAL);
        expect(pages.length).toBe(1);
      },
      { pages: 1 },
    );
  });

  test("a store through a read-only mapping kills the process, not its kernel", () => {
    withGrants(function* (file, { refs }) {
      const mapping = yield* mapped(file, refs, PROT_READ);
      expect(yield* loadUserWord(file.process, mapping.address)).toBe(1000);
      yield* storeUserWord(file.process, mapping.address, 1);
      throw new Error("the process is dead");
    });
  });

  test("a byte asked for before a read-only mmap is written through it in the end: the kernel faults, as Linux does", () => {
    expect(() =>
      withGrants(function* (file, { refs }) {
        yield* mapGrantRef(file, named(refs));
        yield* setUnmapNotify(file, { offset: 0, action: UNMAP_NOTIFY_CLEAR_BYTE });
        yield* sysMmap(file.process, { ...asked(file, 0, 3), prot: PROT_READ });
      }),
    ).toThrow("permission fault at a store");
  });

  test("cutting a mapping only counts users: the grants stay until its last part goes", () => {
    withGrants(function* (file, { refs }) {
      const { process } = file;
      const mapping = yield* mapped(file, refs);
      const map = item(gntdevBehind(file).maps, 0);
      yield* unmapGrantRef(file, mapping.offset, 3);
      expect(yield* sysMunmap(process, mapping.address + PAGE, PAGE)).toBe(0);
      expect([map.users, map.liveGrants]).toEqual([2, 3]);
      expect(yield* loadUserWord(process, mapping.address + 2 * PAGE)).toBe(1002);
      expect(yield* sysMunmap(process, mapping.address, PAGE)).toBe(0);
      expect([map.users, map.liveGrants]).toEqual([1, 3]);
      expect(yield* sysMunmap(process, mapping.address, 3 * PAGE)).toBe(0);
      expect([map.users, map.liveGrants]).toEqual([0, 0]);
    });
  });

  test("guest case 100: one reference may be mapped twice, and each mapping counts", () => {
    withGrants(function* (file, { refs }) {
      const one = yield* mapped(file, refs.slice(0, 1));
      const other = yield* mapped(file, refs.slice(0, 1));
      const { foreign } = file.process.kernel.memory;
      expect(new Set(foreign.entries.map(({ bfn }) => bfn)).size).toBe(1);
      expect(foreign.entries.length).toBe(2);
      yield* unmapGrants(file, one);
      expect(yield* loadUserWord(file.process, other.address)).toBe(1000);
    });
  });
});
