/**
 * Foreign frames and resources in mappings of privcmd: the requests that fill a mapping, and its end.
 * Behaviour: Linux drivers/xen/privcmd.c, privcmd_ioctl_mmap_batch(), privcmd_ioctl_mmap_resource(), privcmd_close().
 */
import {
  MMAP_RESOURCE_ADDR,
  MMAP_RESOURCE_DOM,
  MMAP_RESOURCE_ID,
  MMAP_RESOURCE_IDX,
  MMAP_RESOURCE_NUM,
  MMAP_RESOURCE_SIZE,
  MMAP_RESOURCE_TYPE,
  MMAPBATCH_ADDR,
  MMAPBATCH_ARR,
  MMAPBATCH_DOM,
  MMAPBATCH_ERR,
  MMAPBATCH_NUM,
  MMAPBATCH_SIZE,
  MMAPBATCH_V2_SIZE,
  PRIVCMD_MMAPBATCH_MFN_ERROR,
  PRIVCMD_MMAPBATCH_PAGED_ERROR,
} from "../shared/abi/privcmd.ts";
import { item } from "../shared/assert.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import { EFAULT, EINVAL, ENOENT, ENOMEM, EPERM } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import type { Pfn } from "../shared/units.ts";
import { copyToUser, findVma, structFromUser, structToUser } from "./address-space.ts";
import { bugOn } from "./bug.ts";
import {
  mapForeignFrame,
  mapResource,
  type Resource,
  resourceFrames,
  unmapForeignFrames,
} from "./foreign-map.ts";
import { getU64, setU64 } from "./hypercalls.ts";
import type { Kernel } from "./kernel.ts";
import type { Process, Vma, VmaOps } from "./process.ts";
import { type Structure, structure } from "./structure.ts";
import { xenAllocUnpopulatedPages, xenFreeUnpopulatedPages } from "./unpopulated.ts";

interface PrivcmdVmaData {
  readonly kernel: Kernel;
  /** Empty pages, one an address page, once a request has taken them. */
  pages: readonly Pfn[] | undefined;
}

const dataOf = (vma: Vma): PrivcmdVmaData => vma.data as PrivcmdVmaData;

export const PRIVCMD_VMA_OPS: VmaOps = {
  maySplit: () => -EINVAL,
  *close(vma) {
    const { kernel, pages } = dataOf(vma);
    if (pages === undefined) return;
    yield* unmapForeignFrames(kernel, pages);
    xenFreeUnpopulatedPages(kernel, pages);
  },
};

/** Empty pages for a whole mapping: 0 or -ENOMEM. A second time is a bug of the kernel, as in Linux. */
function* allocEmptyPages(vma: Vma): Program<number> {
  const data = dataOf(vma);
  const pages = yield* xenAllocUnpopulatedPages(data.kernel, vma.pages.length);
  if (typeof pages === "number") return -ENOMEM;
  bugOn(data.pages !== undefined, "a privcmd mapping gets its pages twice");
  data.pages = pages;
  return 0;
}

function privcmdVma(process: Process, address: number): Vma | undefined {
  const vma = findVma(process, address);
  return vma?.ops === PRIVCMD_VMA_OPS ? vma : undefined;
}

interface BatchRequest {
  readonly count: number;
  readonly domid: number;
  readonly address: number;
  readonly arr: number;
  readonly err: number;
}

function batchOf(view: DataView, version: 1 | 2): BatchRequest {
  return {
    count: view.getInt32(MMAPBATCH_NUM, true),
    domid: view.getUint16(MMAPBATCH_DOM, true),
    address: getU64(view, MMAPBATCH_ADDR),
    arr: getU64(view, MMAPBATCH_ARR),
    err: version === 2 ? getU64(view, MMAPBATCH_ERR) : 0,
  };
}

/**
 * MMAPBATCH, both versions: 0, and the errno of each frame where the version puts it. -EFAULT, -EPERM, -EINVAL (count),
 * -EFAULT (arrays), -EINVAL: no mapping of privcmd, the first request not over the whole of it, a later one over
 * frames that are mapped; -ENOMEM. Frames that are paged out do not fail the request in a translated guest.
 */
export function* mmapBatch(
  process: Process,
  argument: number,
  version: 1 | 2,
  allowed: (domid: number) => boolean,
): Program<number> {
  const size = version === 2 ? MMAPBATCH_V2_SIZE : MMAPBATCH_SIZE;
  const from = yield* structFromUser(process, argument, size);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const request = batchOf(view, version);
  const { count, domid, address, arr, err } = request;
  if (!allowed(domid)) return -EPERM;
  if (count <= 0) return -EINVAL;
  const gfns = yield* structFromUser(process, arr, count * 8);
  if (gfns === undefined) return -EFAULT;
  const zeroes = new Uint8Array(count * 4);
  if (version === 2 && !(yield* copyToUser(process, err, zeroes))) return -EFAULT;
  const vma = privcmdVma(process, address);
  if (vma === undefined) return -EINVAL;
  const rc = yield* preparePages(vma, address, count);
  if (rc < 0) return rc;
  const errors: number[] = [];
  const first = (address - vma.start) / PAGE_SIZE;
  for (let i = 0; i < count; i++) {
    errors.push(yield* mapOne(vma, first + i, domid, getU64(gfns.view, i * 8)));
  }
  if (errors.every((error) => error === 0)) return 0;
  const answer = version === 2 ? errorArray(errors) : markedFrames(gfns, errors);
  return (yield* structToUser(process, version === 2 ? err : arr, answer)) ? 0 : -EFAULT;
}

/** The first request takes pages for the whole mapping, a later one only fills holes. */
function* preparePages(vma: Vma, address: number, count: number): Program<number> {
  const end = address + count * PAGE_SIZE;
  if (dataOf(vma).pages === undefined) {
    if (address !== vma.start || end !== vma.end) return -EINVAL;
    return yield* allocEmptyPages(vma);
  }
  if (address < vma.start || end > vma.end) return -EINVAL;
  const first = (address - vma.start) / PAGE_SIZE;
  const mapped = vma.pages.slice(first, first + count).some((page) => page !== undefined);
  return mapped ? -EINVAL : 0;
}

function* mapOne(vma: Vma, index: number, domid: number, gfn: number): Program<number> {
  const { kernel, pages } = dataOf(vma);
  const page = item(pages ?? [], index);
  const rc = yield* mapForeignFrame(kernel, domid, gfn, page);
  if (rc === 0) vma.pages[index] = page;
  return rc;
}

function errorArray(errors: readonly number[]): Structure {
  const array = structure(errors.length * 4);
  for (const [i, error] of errors.entries()) array.view.setInt32(i * 4, error, true);
  return array;
}

/** Version 1 marks a frame number in its upper bits of 32: all there was room for. */
function markedFrames(gfns: Structure, errors: readonly number[]): Structure {
  const { view } = gfns;
  for (const [i, error] of errors.entries()) {
    if (error === 0) continue;
    const mark = error === -ENOENT ? PRIVCMD_MMAPBATCH_PAGED_ERROR : PRIVCMD_MMAPBATCH_MFN_ERROR;
    view.setUint32(i * 8, (view.getUint32(i * 8, true) | mark) >>> 0, true);
  }
  return gfns;
}

/**
 * MMAP_RESOURCE: 0; with neither address nor count, the size of the resource in the count. -EFAULT, -EPERM, -EINVAL
 * (one of the two only; no mapping of privcmd; beyond its end), -ENOMEM, or the hypervisor's refusal.
 */
export function* mmapResource(
  process: Process,
  argument: number,
  allowed: (domid: number) => boolean,
): Program<number> {
  const from = yield* structFromUser(process, argument, MMAP_RESOURCE_SIZE);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const resource: Resource = {
    domid: view.getUint16(MMAP_RESOURCE_DOM, true),
    type: view.getUint32(MMAP_RESOURCE_TYPE, true),
    id: view.getUint32(MMAP_RESOURCE_ID, true),
    frame: view.getUint32(MMAP_RESOURCE_IDX, true),
  };
  if (!allowed(resource.domid)) return -EPERM;
  const address = getU64(view, MMAP_RESOURCE_ADDR);
  const count = getU64(view, MMAP_RESOURCE_NUM);
  if ((address === 0) !== (count === 0)) return -EINVAL;
  if (count === 0) {
    const frames = yield* resourceFrames(process.kernel, { ...resource, frame: 0 });
    if (frames < 0) return frames;
    setU64(view, MMAP_RESOURCE_NUM, frames);
    return (yield* structToUser(process, argument, from)) ? 0 : -EFAULT;
  }
  const vma = privcmdVma(process, address);
  // Linux leaves a count beyond the mapping to the page tables.
  if (vma === undefined || address < vma.start || address + count * PAGE_SIZE > vma.end) {
    return -EINVAL;
  }
  const rc = yield* allocEmptyPages(vma);
  if (rc < 0) return rc;
  const { kernel, pages } = dataOf(vma);
  const used = (pages ?? []).slice(0, count);
  const mapped = yield* mapResource(kernel, resource, used);
  if (mapped < 0) return mapped;
  const first = Math.floor((address - vma.start) / PAGE_SIZE);
  for (const [i, page] of used.entries()) vma.pages[first + i] = page;
  return 0;
}
