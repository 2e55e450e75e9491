import { describe, expect, test } from "vitest";
import { mapOp, unmapOp } from "../../domains/grant-calls.ts";
import { gnttabMapRefs, gnttabUnmapRefs } from "../../domains/grant-map.ts";
import { gnttabAllocPages, gnttabFreePages } from "../../domains/grant-pages.ts";
import {
  allocGrantReferences,
  drainDeferred,
  freeGrantReferences,
} from "../../domains/grant-table.ts";
import { loadWord, storeWord } from "../../domains/memory.ts";
import { allocPages, freePages, pageToPhys } from "../../domains/pages.ts";
import type { Process } from "../../domains/process.ts";
import { structure } from "../../domains/structure.ts";
import {
  ioctlOn,
  sysClose,
  sysIoctl,
  sysMmap,
  sysMunmap,
  sysOpen,
} from "../../domains/syscalls.ts";
import { setUnmapNotify, type UserFile } from "../../domains/xengnttab.ts";
import {
  GNTALLOC_FLAG_WRITABLE,
  IOCTL_GNTALLOC_ALLOC_GREF,
  IOCTL_GNTALLOC_DEALLOC_GREF,
  IOCTL_GNTALLOC_SET_UNMAP_NOTIFY,
} from "../../shared/abi/gntalloc.ts";
import {
  IOCTL_GNTDEV_MAP_GRANT_REF,
  UNMAP_NOTIFY_CLEAR_BYTE,
  UNMAP_NOTIFY_SEND_EVENT,
} from "../../shared/abi/gntdev.ts";
import { GNTMAP_host_map, GNTMAP_readonly } from "../../shared/abi/grant.ts";
import { MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE } from "../../shared/abi/linux.ts";
import { item } from "../../shared/assert.ts";
import { EFAULT, EINVAL, ENOENT, ENOMEM, ENOSPC, ENOTTY, GNTST_okay } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { Pfn } from "../../shared/units.ts";
import {
  BACK,
  FRONT,
  type Front,
  inFront,
  loadUserWord,
  NOWHERE,
  PAGE,
  staged,
  storeUserWord,
  type UserOptions,
  withGrants,
} from "./user.ts";

const GNTALLOC = "/dev/xen/gntalloc";

/** A test whose process has gntalloc open. */
function withGntalloc(
  program: (file: UserFile, front: Front) => Program,
  options: UserOptions = {},
): void {
  withGrants(function* ({ process }, front) {
    yield* program({ process, fd: yield* sysOpen(process, GNTALLOC) }, front);
  }, options);
}

interface Allocated {
  readonly rc: number;
  readonly index: number;
  readonly refs: readonly number[];
}

function* alloc({ process, fd }: UserFile, count: number, flags: number = 1): Program<Allocated> {
  const args = structure(16 + Math.max(2, count) * 4);
  args.view.setUint16(0, FRONT, true);
  args.view.setUint16(2, flags, true);
  args.view.setUint32(4, count, true);
  const rc = yield* ioctlOn(process, fd, IOCTL_GNTALLOC_ALLOC_GREF, args);
  const refs = Array.from({ length: count }, (_, i) => args.view.getUint32(16 + i * 4, true));
  return { rc, index: args.view.getUint32(8, true), refs };
}

function* dealloc({ process, fd }: UserFile, index: number, count: number): Program<number> {
  const at = yield* staged(process, index, 0, count, 0);
  return yield* sysIoctl(process, fd, IOCTL_GNTALLOC_DEALLOC_GREF, at);
}

const mmap = (process: Process, fd: number, offset: number, pages: number, flags: number) =>
  sysMmap(process, { fd, offset, length: pages * PAGE, prot: PROT_READ | PROT_WRITE, flags });

/** Maps a reference of the backend in the frontend: what the map answered, and a word of the page. */
function peerOf(front: Front, ref: number) {
  const held = { status: 1, handle: 0, page: Pfn(0) };
  function* map(flags: number = GNTMAP_host_map): Program {
    const pages = yield* gnttabAllocPages(front.kernel, 1);
    if (typeof pages === "number") throw new Error(`no pages: ${pages}`);
    held.page = item(pages, 0);
    const op = mapOp(pageToPhys(held.page), flags, ref, BACK);
    expect(yield* gnttabMapRefs(front.kernel, [op], pages)).toBe(0);
    held.status = op.status;
    held.handle = op.handle;
  }
  function* unmap(): Program {
    const op = unmapOp(pageToPhys(held.page), held.handle);
    expect(yield* gnttabUnmapRefs(front.kernel, [op], [held.page])).toBe(0);
    gnttabFreePages(front.kernel, [held.page]);
  }
  const at = (offset: number) => pageToPhys(held.page) + offset;
  return { held, map, unmap, at };
}

describe("gntalloc", () => {
  test("grants zeroed pages that the process maps and the peer maps", () => {
    withGntalloc(function* (file, front) {
      const { process } = file;
      const { rc, index, refs } = yield* alloc(file, 2);
      expect([rc, index]).toEqual([0, 0]);
      const at = yield* mmap(process, file.fd, 0, 2, MAP_SHARED);
      expect(yield* loadUserWord(process, at + PAGE)).toBe(0);
      yield* storeUserWord(process, at + PAGE, 4711);
      const peer = peerOf(front, item(refs, 1));
      const seen = { word: 0 };
      yield* inFront(
        process,
        front,
        (function* () {
          yield* peer.map();
          seen.word = yield* loadWord(front.kernel.cpu, peer.at(0));
          yield* storeWord(front.kernel.cpu, peer.at(4), 11);
          yield* peer.unmap();
        })(),
      );
      expect(seen.word).toBe(4711);
      expect(yield* loadUserWord(process, at + PAGE + 4)).toBe(11);
    });
  });

  test("a page without the writable flag is granted read-only", () => {
    withGntalloc(function* (file, front) {
      const { refs } = yield* alloc(file, 1, 0);
      const peer = peerOf(front, item(refs, 0));
      yield* inFront(
        file.process,
        front,
        (function* () {
          yield* peer.map();
          expect(peer.held.status).not.toBe(GNTST_okay);
          gnttabFreePages(front.kernel, [peer.held.page]);
          yield* peer.map(GNTMAP_host_map | GNTMAP_readonly);
          expect(peer.held.status).toBe(GNTST_okay);
          yield* peer.unmap();
        })(),
      );
    });
  });

  test("offsets go on with every request and are never used twice", () => {
    withGntalloc(function* (file) {
      expect((yield* alloc(file, 3)).index).toBe(0);
      expect((yield* alloc(file, 1)).index).toBe(3 * PAGE);
      expect(yield* dealloc(file, 0, 3)).toBe(0);
      expect((yield* alloc(file, 1)).index).toBe(4 * PAGE);
      const other: UserFile = { ...file, fd: yield* sysOpen(file.process, GNTALLOC) };
      expect((yield* alloc(other, 1)).index).toBe(0);
    });
  });

  test("guest case 58: more than 1024 pages, at once or together, are beyond the bound", () => {
    withGntalloc(
      function* (file) {
        expect((yield* alloc(file, 1025)).rc).toBe(-ENOSPC);
        expect((yield* alloc(file, 1000)).rc).toBe(0);
        const other: UserFile = { ...file, fd: yield* sysOpen(file.process, GNTALLOC) };
        expect((yield* alloc(other, 100)).rc).toBe(-ENOSPC);
        expect((yield* alloc(other, 24)).rc).toBe(0);
        expect(yield* dealloc(file, 0, 1000)).toBe(0);
        expect((yield* alloc(other, 100)).rc).toBe(0);
      },
      { back: { memoryPages: 1280 }, machine: { banks: [{ base: 0x4000_0000, size: 2 ** 24 }] } },
    );
  });

  test("without a page or a reference for all of them nothing is granted", () => {
    withGntalloc(
      function* (file) {
        const { kernel } = file.process;
        const { pages, grants } = kernel.memory;
        yield* staged(file.process, 0);
        const head = yield* allocGrantReferences(kernel, 502);
        const free = pages.freeCount;
        expect((yield* alloc(file, 3)).rc).toBe(-ENOSPC);
        expect([pages.freeCount, grants.refs.freeCount]).toEqual([free, 2]);
        freeGrantReferences(kernel, head);
        const taken = pages.freeCount - 2;
        const first = allocPages(pages, taken) ?? Pfn(0);
        expect((yield* alloc(file, 3)).rc).toBe(-ENOMEM);
        expect([pages.freeCount, grants.refs.freeCount]).toEqual([2, 504]);
        freePages(pages, first, taken);
      },
      { back: { maxGrantFrames: 1 } },
    );
  });

  test("an answer that cannot be written leaves the pages until the file is closed", () => {
    withGntalloc(function* (file) {
      const { process, fd } = file;
      // The structure with one reference ends with the buffer's page, and three references do not fit.
      const before = new Array<number>(1018).fill(0);
      const args = [FRONT | (GNTALLOC_FLAG_WRITABLE << 16), 3, 0, 0, 0, 0];
      const at = (yield* staged(process, ...before, ...args)) + 1018 * 4;
      expect(yield* sysIoctl(process, fd, IOCTL_GNTALLOC_ALLOC_GREF, at)).toBe(-EFAULT);
      expect(process.kernel.user.grefs.length).toBe(3);
      expect(yield* sysIoctl(process, fd, IOCTL_GNTALLOC_ALLOC_GREF, NOWHERE)).toBe(-EFAULT);
      yield* sysClose(process, fd);
      expect(process.kernel.user.grefs.length).toBe(0);
    });
  });

  test("a number that it does not know is no request of its", () => {
    withGntalloc(function* ({ process, fd }) {
      expect(yield* sysIoctl(process, fd, IOCTL_GNTDEV_MAP_GRANT_REF, NOWHERE)).toBe(-ENOTTY);
    });
  });

  test("guest case 58: DEALLOC over a gap, and beyond the last page, is refused as a whole", () => {
    withGntalloc(function* (file) {
      yield* alloc(file, 4);
      expect(yield* dealloc(file, PAGE, 1)).toBe(0);
      expect(yield* dealloc(file, 0, 3)).toBe(-EINVAL);
      expect(yield* dealloc(file, 2 * PAGE, 3)).toBe(-EINVAL);
      expect(yield* dealloc(file, PAGE, 1)).toBe(-EINVAL);
      expect(file.process.kernel.user.grefs.length).toBe(3);
      const request = IOCTL_GNTALLOC_DEALLOC_GREF;
      expect(yield* sysIoctl(file.process, file.fd, request, NOWHERE)).toBe(-EFAULT);
    });
  });

  test("guest case 58: mmap of an unknown range, and a private mapping, are refused", () => {
    withGntalloc(function* ({ process, fd }) {
      yield* alloc({ process, fd }, 2);
      expect(yield* mmap(process, fd, 0, 2, MAP_PRIVATE)).toBe(-EINVAL);
      expect(yield* mmap(process, fd, 2 * PAGE, 1, MAP_SHARED)).toBe(-ENOENT);
      expect(yield* mmap(process, fd, 0, 3, MAP_SHARED)).toBe(-ENOENT);
    });
  });

  test("pages that were given back live while they are mapped, in every part of the mapping", () => {
    withGntalloc(function* (file) {
      const { process } = file;
      const { user } = process.kernel;
      yield* alloc(file, 3);
      const at = yield* mmap(process, file.fd, 0, 3, MAP_SHARED);
      expect(yield* dealloc(file, 0, 3)).toBe(0);
      expect(user.grefs.length).toBe(3);
      yield* sysMunmap(process, at + PAGE, PAGE);
      expect(user.grefs.length).toBe(3);
      yield* sysMunmap(process, at, PAGE);
      yield* sysMunmap(process, at + 2 * PAGE, PAGE);
      expect(user.grefs.length).toBe(0);
    });
  });

  test("guest case 59: DEALLOC while the peer maps answers 0, and the page goes and counts until the peer lets go", () => {
    withGntalloc(function* (file, front) {
      const { process } = file;
      const { kernel } = process;
      const { refs } = yield* alloc(file, 1);
      const peer = peerOf(front, item(refs, 0));
      yield* inFront(process, front, peer.map());
      const free = kernel.memory.pages.freeCount;
      expect(yield* dealloc(file, 0, 1)).toBe(0);
      expect(kernel.memory.pages.freeCount).toBe(free);
      expect(kernel.user.endedRefs).toEqual(refs);
      yield* inFront(process, front, peer.unmap());
      expect(yield* drainDeferred(kernel, 3)).toBe(0);
      expect(kernel.memory.pages.freeCount).toBe(free + 1);
      yield* alloc(file, 1);
      expect(kernel.user.endedRefs).toEqual([]);
    });
  });
});

describe("SET_UNMAP_NOTIFY of gntalloc", () => {
  test("refuses an unknown page before an unknown action, and that before a port nobody has bound", () => {
    withGntalloc(function* (file) {
      yield* alloc(file, 1);
      const notify = (offset: number, action: number, port = 0) =>
        setUnmapNotify(file, { offset, action, port }, IOCTL_GNTALLOC_SET_UNMAP_NOTIFY);
      expect(yield* notify(PAGE, 4)).toBe(-ENOENT);
      expect(yield* notify(8, 4)).toBe(-EINVAL);
      expect(yield* notify(8, UNMAP_NOTIFY_SEND_EVENT, 5)).toBe(-EINVAL);
      expect(yield* notify(8, UNMAP_NOTIFY_CLEAR_BYTE)).toBe(0);
      const request = IOCTL_GNTALLOC_SET_UNMAP_NOTIFY;
      expect(yield* sysIoctl(file.process, file.fd, request, NOWHERE)).toBe(-EFAULT);
    });
  });

  test("the peer sees the byte cleared when the file goes, and not before", () => {
    withGntalloc(function* (file, front) {
      const { process } = file;
      const { kernel } = front;
      const { refs } = yield* alloc(file, 1);
      const at = yield* mmap(process, file.fd, 0, 1, MAP_SHARED);
      yield* storeUserWord(process, at, 0xffffffff);
      const clear = { offset: 1, action: UNMAP_NOTIFY_CLEAR_BYTE };
      yield* setUnmapNotify(file, clear, IOCTL_GNTALLOC_SET_UNMAP_NOTIFY);
      const peer = peerOf(front, item(refs, 0));
      yield* inFront(process, front, peer.map());
      const look = function* (): Program<number> {
        const seen = { word: 0 };
        yield* inFront(
          process,
          front,
          (function* () {
            seen.word = (yield* loadWord(kernel.cpu, peer.at(0))) >>> 0;
          })(),
        );
        return seen.word;
      };
      yield* sysClose(process, file.fd);
      expect(yield* look()).toBe(0xffffffff);
      yield* sysMunmap(process, at, PAGE);
      expect(yield* look()).toBe(0xffff00ff);
      yield* inFront(process, front, peer.unmap());
      expect(yield* drainDeferred(process.kernel, 3)).toBe(0);
    });
  });
});
