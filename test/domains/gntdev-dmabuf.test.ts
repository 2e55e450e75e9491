import { describe, expect, test } from "vitest";
import {
  type DmaAttachment,
  type DmaBuf,
  dmaBufAttach,
  dmaBufDetach,
  dmaBufExport,
  dmaBufGet,
  dmaBufMapAttachment,
  dmaBufPut,
} from "../../domains/dma-buf.ts";
import {
  DMA_BIDIRECTIONAL,
  DMA_FROM_DEVICE,
  DMA_NONE,
  DMA_TO_DEVICE,
  type DmaDevice,
  dmaBitMask,
} from "../../domains/dma-device.ts";
import { mapOp, unmapOp } from "../../domains/grant-calls.ts";
import { gnttabMapRefs, gnttabUnmapRefs } from "../../domains/grant-map.ts";
import { gnttabAllocPages, gnttabFreePages } from "../../domains/grant-pages.ts";
import {
  allocGrantReferences,
  drainDeferred,
  freeGrantReferences,
} from "../../domains/grant-table.ts";
import { loadWord } from "../../domains/memory.ts";
import { getPage, pageToPhys, putPage } from "../../domains/pages.ts";
import { installFile, type Process } from "../../domains/process.ts";
import { structure } from "../../domains/structure.ts";
import { ioctlOn, sysClose, sysFork, sysIoctl, sysMmap, sysOpen } from "../../domains/syscalls.ts";
import {
  dmabufExpFromRefs,
  dmabufExpWaitReleased,
  dmabufImpRelease,
  dmabufImpToRefs,
  mapGrants,
  type UserFile,
} from "../../domains/xengnttab.ts";
import { DMA_HEAP_IOCTL_ALLOC, HEAP_ALLOC_SIZE } from "../../shared/abi/dma-heap.ts";
import {
  GNTDEV_DMA_FLAG_COHERENT,
  GNTDEV_DMA_FLAG_WC,
  IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS,
  IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED,
  IOCTL_GNTDEV_DMABUF_IMP_RELEASE,
  IOCTL_GNTDEV_DMABUF_IMP_TO_REFS,
} from "../../shared/abi/gntdev.ts";
import { GNTMAP_host_map } from "../../shared/abi/grant.ts";
import { MAP_SHARED, O_RDWR, PROT_READ, PROT_WRITE } from "../../shared/abi/linux.ts";
import { item } from "../../shared/assert.ts";
import { MACHINE } from "../../shared/layout.ts";
import { PROCESS_FILES_MAX } from "../../shared/limits.ts";
import {
  EBADF,
  EBUSY,
  EFAULT,
  EINVAL,
  EMFILE,
  ENOENT,
  ENOMEM,
  ENOSPC,
  ETIMEDOUT,
  GNTST_okay,
} from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { Pfn } from "../../shared/units.ts";
import { EXTENDED_BASE } from "./guest.ts";
import {
  BACK,
  FRONT,
  type Front,
  gntdevBehind,
  inFront,
  loadUserWord,
  NOWHERE,
  PAGE,
  rest,
  staged,
  storeUserWord,
  withGrants,
} from "./user.ts";

const WC = GNTDEV_DMA_FLAG_WC;

const DISPLAY: DmaDevice = {
  name: "display",
  dmaRanges: [],
  mask: dmaBitMask(64),
  busLimit: 0,
  coherent: true,
};

/** A domain whose frames are the machine's, so that swiotlb-xen makes its addresses. */
const DIRECT = {
  directMapped: true,
  staticMemory: [{ base: 0x4040_0000, size: 2 ** 20 }],
  ramGfn: 0x40400,
};

function* exported(file: UserFile, refs: readonly number[], flags: number = WC): Program<number> {
  const fd = yield* dmabufExpFromRefs(file, flags, FRONT, refs);
  if (fd < 0) throw new Error(`export answered ${fd}`);
  return fd;
}

/** The buffer behind a descriptor, with one more user. */
function bufferAt(process: Process, fd: number): DmaBuf {
  const buf = dmaBufGet(process, fd);
  if (typeof buf === "number") throw new Error(`no buffer: ${buf}`);
  return buf;
}

function* heapBuffer(process: Process, pages: number): Program<number> {
  const heap = yield* sysOpen(process, "/dev/dma_heap/reserved");
  const args = structure(HEAP_ALLOC_SIZE);
  args.view.setUint32(0, pages * PAGE, true);
  args.view.setUint32(12, O_RDWR, true);
  expect(yield* ioctlOn(process, heap, DMA_HEAP_IOCTL_ALLOC, args)).toBe(0);
  yield* sysClose(process, heap);
  return args.view.getUint32(8, true);
}

describe("a buffer exported from references", () => {
  test("trace T1: it is contiguous, mapped at once, and one segment for a device behind an IOMMU", () => {
    withGrants(function* (file, { refs }) {
      const { process } = file;
      const fd = yield* exported(file, refs);
      expect(item(gntdevBehind(file).maps, 0).liveGrants).toBe(3);
      const buf = bufferAt(process, fd);
      expect(buf.pages.map(pageToPhys)).toEqual([0, 1, 2].map((i) => EXTENDED_BASE + i * PAGE));
      const attachment = dmaBufAttach(buf, DISPLAY);
      const mapping = yield* dmaBufMapAttachment(attachment, DMA_BIDIRECTIONAL);
      expect(mapping).toMatchObject({ segments: [{ address: EXTENDED_BASE, length: 3 * PAGE }] });
      yield* dmaBufDetach(attachment);
      yield* dmaBufPut(buf);
      expect(yield* sysClose(process, fd)).toBe(0);
      expect(gntdevBehind(file).maps).toEqual([]);
      expect(process.kernel.memory.foreign.entries).toEqual([]);
    });
  });

  test("trace T2: without extended regions it silently lies in RAM that was given to Xen", () => {
    withGrants(
      function* (file, { refs }) {
        const { memory } = file.process.kernel;
        const free = memory.pages.freeCount;
        const fd = yield* exported(file, refs);
        expect(free - memory.pages.freeCount).toBeGreaterThanOrEqual(3);
        const buf = bufferAt(file.process, fd);
        const [first = 0] = buf.pages;
        expect(buf.pages).toEqual([first, first + 1, first + 2]);
        expect(first * PAGE).toBeLessThan(EXTENDED_BASE);
        yield* dmaBufPut(buf);
        yield* sysClose(file.process, fd);
      },
      { back: { extendedRegions: [] } },
    );
  });

  test("trace T3: in a direct-mapped domain its one segment straddles machine frames: bounced, or refused when too long", () => {
    withGrants(
      function* (file, { refs }) {
        const attach = function* (count: number): Program<DmaAttachment> {
          const fd = yield* exported(file, refs.slice(0, count));
          const buf = bufferAt(file.process, fd);
          yield* sysClose(file.process, fd);
          return dmaBufAttach(buf, DISPLAY);
        };
        // The first two granted frames stand in descending order, as single pages come from the allocator.
        const short = yield* attach(3);
        expect(yield* dmaBufMapAttachment(short, DMA_BIDIRECTIONAL)).toMatchObject({ bounced: 1 });
        const long = yield* attach(20);
        expect(yield* dmaBufMapAttachment(long, DMA_BIDIRECTIONAL)).toBe(-ENOMEM);
        // A driver that takes a page at a time has no such trouble.
        const paged = dmaBufAttach(long.buf, DISPLAY, PAGE);
        const mapping = yield* dmaBufMapAttachment(paged, DMA_BIDIRECTIONAL);
        expect(mapping).toMatchObject({ bounced: 0, maker: "xen_phys_to_dma" });
        for (const attachment of [short, paged]) {
          yield* dmaBufDetach(attachment);
          yield* dmaBufPut(attachment.buf);
        }
      },
      { back: DIRECT, pages: 20 },
    );
  });

  test("guest case 52: both flags at once, and a bad reference, are refused with nothing left", () => {
    withGrants(function* (file, { refs }) {
      const { process, fd } = file;
      const both = WC | GNTDEV_DMA_FLAG_COHERENT;
      expect(yield* dmabufExpFromRefs(file, both, FRONT, refs)).toBe(-EINVAL);
      expect(yield* dmabufExpFromRefs(file, WC, FRONT, [item(refs, 0), 5000])).toBe(-EINVAL);
      expect(gntdevBehind(file).maps).toEqual([]);
      expect(process.kernel.memory.foreign.entries).toEqual([]);
      const request = IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS;
      expect(yield* sysIoctl(process, fd, request, NOWHERE)).toBe(-EFAULT);
      const ioctl = (at: number) => sysIoctl(process, fd, request, at);
      expect(yield* ioctl(yield* staged(process, WC, 0, 0, FRONT, 8))).toBe(-EINVAL);
      expect(yield* ioctl(yield* staged(process, WC, 65537, 0, FRONT, 8))).toBe(-EINVAL);
      expect(yield* ioctl(yield* staged(process, WC, 2000, 0, FRONT, 8))).toBe(-EFAULT);
      // The references are read before the flags are looked at.
      expect(yield* ioctl(yield* staged(process, both, 2000, 0, FRONT, 8))).toBe(-EFAULT);
    });
  });

  test("a buffer without a flag need not be contiguous, and can be exported all the same", () => {
    withGrants(function* (file, { refs }) {
      const fd = yield* exported(file, refs, 0);
      expect(item(gntdevBehind(file).maps, 0).dma).toBeUndefined();
      yield* sysClose(file.process, fd);
    });
  });

  test("without room for a descriptor nothing is exported and nothing stays mapped", () => {
    withGrants(function* (file, { refs }) {
      const { process } = file;
      // Every number is taken by the same file.
      const own = item(process.files, file.fd);
      const taken = process.files.length;
      for (let fd = taken; fd < PROCESS_FILES_MAX; fd++) process.files[fd] = own;
      expect(yield* dmabufExpFromRefs(file, WC, FRONT, refs)).toBe(-EMFILE);
      expect(gntdevBehind(file).maps).toEqual([]);
      process.files.length = taken;
    });
  });

  test("guest case 53: a wait for a buffer in use times out; one that is gone, or an import, is not there", () => {
    withGrants(function* (file, { refs }) {
      const { process } = file;
      const { words } = process.kernel.cpu;
      const fd = yield* exported(file, refs);
      const started = words[MACHINE.TICK] ?? 0;
      expect(yield* dmabufExpWaitReleased(file, fd, 100)).toBe(-ETIMEDOUT);
      expect((words[MACHINE.TICK] ?? 0) - started).toBeGreaterThanOrEqual(100);
      const before = words[MACHINE.TICK];
      expect(yield* dmabufExpWaitReleased(file, fd, 0)).toBe(-ETIMEDOUT);
      expect(words[MACHINE.TICK]).toBe(before);
      yield* sysClose(process, fd);
      expect(yield* dmabufExpWaitReleased(file, fd, 100)).toBe(-ENOENT);
      const imported = yield* heapBuffer(process, 1);
      expect(Array.isArray(yield* dmabufImpToRefs(file, imported, FRONT, 1))).toBe(true);
      expect(yield* dmabufExpWaitReleased(file, imported, 100)).toBe(-ENOENT);
      const request = IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED;
      expect(yield* sysIoctl(process, file.fd, request, NOWHERE)).toBe(-EFAULT);
    });
  });

  test("a wait that began before the last user went ends with 0", () => {
    withGrants(function* (file, { refs }) {
      const { process } = file;
      const fd = yield* exported(file, refs);
      const child = yield* sysFork(process, function* (forked) {
        for (let i = 0; i < 5; i++) yield* sysIoctl(forked, file.fd, 0, 0);
      });
      expect(child).not.toBeTypeOf("number");
      yield* sysClose(process, fd);
      expect(yield* dmabufExpWaitReleased(file, fd, 50)).toBe(0);
    });
  });

  test("guest case 54: an attachment has one direction; the same one answers the same table", () => {
    withGrants(function* (file, { refs }) {
      const fd = yield* exported(file, refs);
      const buf = bufferAt(file.process, fd);
      const attachment = dmaBufAttach(buf, DISPLAY);
      expect(yield* dmaBufMapAttachment(attachment, DMA_NONE)).toBe(-EINVAL);
      const table = yield* dmaBufMapAttachment(attachment, DMA_BIDIRECTIONAL);
      expect(yield* dmaBufMapAttachment(attachment, DMA_TO_DEVICE)).toBe(-EBUSY);
      expect(yield* dmaBufMapAttachment(attachment, DMA_BIDIRECTIONAL)).toBe(table);
      // Another device's attachment is free to choose.
      const other = dmaBufAttach(buf, DISPLAY);
      expect(yield* dmaBufMapAttachment(other, DMA_FROM_DEVICE)).not.toBeTypeOf("number");
      yield* dmaBufDetach(attachment);
      yield* dmaBufDetach(other);
      yield* dmaBufPut(buf);
    });
  });

  test("guest case 57: the device file that was closed lives until the buffer goes", () => {
    withGrants(function* (file, { refs }) {
      const { process } = file;
      const fd = yield* exported(file, refs);
      const gntdev = gntdevBehind(file);
      yield* sysClose(process, file.fd);
      expect(gntdev.maps.length).toBe(1);
      yield* sysClose(process, fd);
      expect(gntdev.maps).toEqual([]);
    });
  });

  test("its number may be another file's by the time somebody waits: the old buffer is still found by it", () => {
    withGrants(function* (file, { refs }) {
      const { process } = file;
      const fd = yield* exported(file, refs);
      const buf = bufferAt(process, fd);
      yield* sysClose(process, fd);
      expect(yield* sysOpen(process, "/dev/xen/evtchn")).toBe(fd);
      expect(yield* dmabufExpWaitReleased(file, fd, 1)).toBe(-ETIMEDOUT);
      yield* dmaBufPut(buf);
      expect(yield* dmabufExpWaitReleased(file, fd, 1)).toBe(-ENOENT);
    });
  });

  test("pages that a device still uses hold the unmap back, and the file is gone before", () => {
    withGrants(function* (file, { refs }) {
      const { process } = file;
      const { pages, foreign } = process.kernel.memory;
      const fd = yield* exported(file, refs);
      const buf = bufferAt(process, fd);
      const page = item(buf.pages, 0);
      yield* dmaBufPut(buf);
      getPage(pages, page);
      yield* sysClose(process, fd);
      expect(yield* dmabufExpWaitReleased(file, fd, 5)).toBe(-ENOENT);
      expect(foreign.entries.length).toBe(3);
      putPage(pages, page);
      for (let ms = 0; ms < 100 && foreign.entries.length > 0; ms++) yield* rest(process.kernel);
      expect(foreign.entries.length).toBe(0);
    });
  });

  test("an answer that cannot be written is an error, and the descriptor stays", () => {
    withGrants(function* (file, { refs }) {
      const { process } = file;
      const grants = [{ domid: FRONT, ref: item(refs, 0) }];
      const here = yield* mapGrants(file, grants);
      const there = yield* mapGrants(file, grants, PROT_READ);
      if (typeof here === "number" || typeof there === "number") throw new Error("no mapping");
      for (const [i, word] of [WC, 1, 0, FRONT, item(refs, 1)].entries()) {
        yield* storeUserWord(process, here.address + i * 4, word);
      }
      const request = IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS;
      const next = process.files.length;
      expect(yield* sysIoctl(process, file.fd, request, there.address)).toBe(-EFAULT);
      expect(yield* sysClose(process, next)).toBe(0);
    });
  });
});

/** Maps one reference of the backend in the frontend, and holds it until it is told to let go. */
function mapInFront(front: Front, ref: number) {
  const held = { handle: 0, word: 0, page: Pfn(0) };
  function* map(): Program {
    const { kernel } = front;
    const pages = yield* gnttabAllocPages(kernel, 1);
    if (typeof pages === "number") throw new Error(`no pages: ${pages}`);
    held.page = item(pages, 0);
    const op = mapOp(pageToPhys(held.page), GNTMAP_host_map, ref, BACK);
    expect(yield* gnttabMapRefs(kernel, [op], pages)).toBe(0);
    expect(op.status).toBe(GNTST_okay);
    held.handle = op.handle;
    held.word = yield* loadWord(kernel.cpu, pageToPhys(held.page));
  }
  function* unmap(): Program {
    const op = unmapOp(pageToPhys(held.page), held.handle);
    expect(yield* gnttabUnmapRefs(front.kernel, [op], [held.page])).toBe(0);
    gnttabFreePages(front.kernel, [held.page]);
  }
  return { held, map: map(), unmap: unmap() };
}

describe("a buffer that becomes references", () => {
  test("the peer maps its pages, and sees what the process wrote", () => {
    withGrants(function* (file, front) {
      const { process } = file;
      const fd = yield* heapBuffer(process, 2);
      const prot = PROT_READ | PROT_WRITE;
      const at = yield* sysMmap(process, { length: 2 * PAGE, prot, flags: MAP_SHARED, fd });
      yield* storeUserWord(process, at + PAGE, 77);
      const refs = yield* dmabufImpToRefs(file, fd, FRONT, 2);
      if (typeof refs === "number") throw new Error(`import answered ${refs}`);
      const peer = mapInFront(front, item(refs, 1));
      yield* inFront(process, front, peer.map);
      expect(peer.held.word).toBe(77);
      yield* inFront(process, front, peer.unmap);
      expect(yield* dmabufImpRelease(file, fd)).toBe(0);
      expect(yield* loadUserWord(process, at + PAGE)).toBe(77);
    });
  });

  test("guest case 55: count, descriptor, offset and size are refused in this order, and nothing is granted", () => {
    withGrants(function* (file) {
      const { process, fd } = file;
      const { kernel } = process;
      const buffer = yield* heapBuffer(process, 2);
      const source = bufferAt(process, buffer);
      yield* dmaBufPut(source);
      const offset = { ...source, offset: 0x80, *release() {} };
      const shifted = installFile(process, dmaBufExport(offset, O_RDWR).file);
      expect(yield* dmabufImpToRefs(file, 99, FRONT, 0)).toBe(-EINVAL);
      expect(yield* dmabufImpToRefs(file, 99, FRONT, 2)).toBe(-EBADF);
      expect(yield* dmabufImpToRefs(file, fd, FRONT, 2)).toBe(-EINVAL);
      expect(yield* dmabufImpToRefs(file, shifted, FRONT, 2)).toBe(-EINVAL);
      expect(yield* dmabufImpToRefs(file, buffer, FRONT, 3)).toBe(-EINVAL);
      const request = IOCTL_GNTDEV_DMABUF_IMP_TO_REFS;
      expect(yield* sysIoctl(process, fd, request, NOWHERE)).toBe(-EFAULT);
      expect(kernel.memory.grants.refs.freeCount).toBe(504);
      expect(gntdevBehind(file).imports).toEqual([]);
    });
  });

  test("guest case 55: without references for all of it nothing is granted", () => {
    withGrants(
      function* (file) {
        const { kernel } = file.process;
        const head = yield* allocGrantReferences(kernel, 500);
        const fd = yield* heapBuffer(file.process, 8);
        expect(yield* dmabufImpToRefs(file, fd, FRONT, 8)).toBe(-ENOSPC);
        expect(kernel.memory.grants.refs.freeCount).toBe(4);
        freeGrantReferences(kernel, head);
      },
      { back: { maxGrantFrames: 1 } },
    );
  });

  test("references that cannot be written back are ended again", () => {
    withGrants(function* (file, { refs }) {
      const { process } = file;
      const grants = [{ domid: FRONT, ref: item(refs, 0) }];
      const here = yield* mapGrants(file, grants);
      const there = yield* mapGrants(file, grants, PROT_READ);
      if (typeof here === "number" || typeof there === "number") throw new Error("no mapping");
      const fd = yield* heapBuffer(process, 1);
      for (const [i, word] of [fd, 1, FRONT, 0, 0].entries()) {
        yield* storeUserWord(process, here.address + i * 4, word);
      }
      const request = IOCTL_GNTDEV_DMABUF_IMP_TO_REFS;
      expect(yield* sysIoctl(process, file.fd, request, there.address)).toBe(-EFAULT);
      expect(gntdevBehind(file).imports).toEqual([]);
    });
  });

  test("guest case 56: a release is made once, also while the peer maps: the reference is ended later", () => {
    withGrants(function* (file, front) {
      const { process } = file;
      const { kernel } = process;
      const fd = yield* heapBuffer(process, 1);
      const refs = yield* dmabufImpToRefs(file, fd, FRONT, 1);
      if (typeof refs === "number") throw new Error(`import answered ${refs}`);
      const peer = mapInFront(front, item(refs, 0));
      yield* inFront(process, front, peer.map);
      expect(yield* dmabufImpRelease(file, fd)).toBe(0);
      expect(yield* dmabufImpRelease(file, fd)).toBe(-ENOENT);
      const request = IOCTL_GNTDEV_DMABUF_IMP_RELEASE;
      expect(yield* sysIoctl(process, file.fd, request, NOWHERE)).toBe(-EFAULT);
      const { deferred } = kernel.memory.grants;
      expect(deferred.map(({ ref }) => ref)).toEqual(refs);
      yield* sysClose(process, fd);
      yield* inFront(process, front, peer.unmap);
      expect(yield* drainDeferred(kernel, 3)).toBe(0);
    });
  });

  test("the last close of the device file releases every import", () => {
    withGrants(function* (file) {
      const { process } = file;
      const { refs } = process.kernel.memory.grants;
      const before = refs.freeCount;
      for (let i = 0; i < 2; i++) {
        const fd = yield* heapBuffer(process, 2);
        expect(yield* dmabufImpToRefs(file, fd, FRONT, 2)).toHaveLength(2);
        yield* sysClose(process, fd);
      }
      expect(refs.freeCount).toBe(before - 4);
      yield* sysClose(process, file.fd);
      expect(refs.freeCount).toBe(before);
    });
  });
});
