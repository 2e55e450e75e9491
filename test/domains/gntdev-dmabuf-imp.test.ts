import { describe, expect, test } from "vitest";
import { dmaBufExport, dmaBufPut } from "../../domains/dma-buf.ts";
import { mapOp, unmapOp } from "../../domains/grant-calls.ts";
import { gnttabMapRefs, gnttabUnmapRefs } from "../../domains/grant-map.ts";
import { gnttabAllocPages, gnttabFreePages } from "../../domains/grant-pages.ts";
import {
  allocGrantReferences,
  drainDeferred,
  freeGrantReferences,
} from "../../domains/grant-table.ts";
import { loadWord } from "../../domains/memory.ts";
import { pageToPhys } from "../../domains/pages.ts";
import { installFile } from "../../domains/process.ts";
import { sysClose, sysIoctl, sysMmap } from "../../domains/syscalls.ts";
import {
  dmabufImpRelease,
  dmabufImpToRefs,
  dmaHeapAlloc,
  mapGrants,
} from "../../domains/xengnttab.ts";
import {
  IOCTL_GNTDEV_DMABUF_IMP_RELEASE,
  IOCTL_GNTDEV_DMABUF_IMP_TO_REFS,
} from "../../shared/abi/gntdev.ts";
import { GNTMAP_host_map } from "../../shared/abi/grant.ts";
import { MAP_SHARED, O_RDWR, PROT_READ, PROT_WRITE } from "../../shared/abi/linux.ts";
import { item } from "../../shared/assert.ts";
import { EBADF, EFAULT, EINVAL, ENOENT, ENOSPC, GNTST_okay } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { Pfn } from "../../shared/units.ts";
import {
  BACK,
  bufferAt,
  FRONT,
  type Front,
  gntdevBehind,
  inFront,
  loadUserWord,
  NOWHERE,
  PAGE,
  storeUserWord,
  withGrants,
} from "./user.ts";

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
      const fd = yield* dmaHeapAlloc(process, 2);
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
      const buffer = yield* dmaHeapAlloc(process, 2);
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
        const fd = yield* dmaHeapAlloc(file.process, 8);
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
      const fd = yield* dmaHeapAlloc(process, 1);
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
      const fd = yield* dmaHeapAlloc(process, 1);
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
        const fd = yield* dmaHeapAlloc(process, 2);
        expect(yield* dmabufImpToRefs(file, fd, FRONT, 2)).toHaveLength(2);
        yield* sysClose(process, fd);
      }
      expect(refs.freeCount).toBe(before - 4);
      yield* sysClose(process, file.fd);
      expect(refs.freeCount).toBe(before);
    });
  });
});
