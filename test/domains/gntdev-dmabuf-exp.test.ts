import { describe, expect, test } from "vitest";
import {
  type DmaAttachment,
  dmaBufAttach,
  dmaBufDetach,
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
import { getPage, pageToPhys, putPage } from "../../domains/pages.ts";
import { sysClose, sysFork, sysIoctl, sysOpen } from "../../domains/syscalls.ts";
import {
  dmabufExpFromRefs,
  dmabufExpWaitReleased,
  dmabufImpToRefs,
  dmaHeapAlloc,
  mapGrants,
  type UserFile,
} from "../../domains/xengnttab.ts";
import {
  GNTDEV_DMA_FLAG_COHERENT,
  GNTDEV_DMA_FLAG_WC,
  IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS,
  IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED,
} from "../../shared/abi/gntdev.ts";
import { PROT_READ } from "../../shared/abi/linux.ts";
import { item } from "../../shared/assert.ts";
import { MACHINE } from "../../shared/layout.ts";
import { PROCESS_FILES_MAX } from "../../shared/limits.ts";
import { EBUSY, EFAULT, EINVAL, EMFILE, ENOENT, ENOMEM, ETIMEDOUT } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { EXTENDED_BASE } from "./guest.ts";
import {
  bufferAt,
  FRONT,
  gntdevBehind,
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
      const imported = yield* dmaHeapAlloc(process, 1);
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
