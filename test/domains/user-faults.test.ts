// Every allocation and every hypercall of a process's grants fails in turn: an errno that the interface knows, and
// nothing is left behind.
import { describe, expect, test } from "vitest";
import type { GntdevMap } from "../../domains/gntdev-map.ts";
import { unmapOp } from "../../domains/grant-calls.ts";
import { gnttabUnmapRefs } from "../../domains/grant-map.ts";
import { gnttabDmaFreePages, gnttabFreePages } from "../../domains/grant-pages.ts";
import { differences, inventoryOf } from "../../domains/inventory.ts";
import type { Kernel } from "../../domains/kernel.ts";
import { pageToPhys } from "../../domains/pages.ts";
import { runProcess, sysClose, sysOpen } from "../../domains/syscalls.ts";
import {
  dmabufExpFromRefs,
  dmabufImpRelease,
  dmabufImpToRefs,
  dmaHeapAlloc,
  GNTDEV,
  mapGrants,
  type UserFile,
  unmapGrants,
} from "../../domains/xengnttab.ts";
import { GNTDEV_DMA_FLAG_WC } from "../../shared/abi/gntdev.ts";
import { item } from "../../shared/assert.ts";
import { EINVAL, ENOMEM } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { FRONT, gntdevBehind, named, withGrants } from "./user.ts";

/** What a process does once; its result, and the map it worked on, if there was one. */
type Life = (
  file: UserFile,
  refs: readonly number[],
) => Program<{ readonly rc: number; readonly map?: GntdevMap | undefined }>;

const mapAndUnmap: Life = function* (file, refs) {
  const mapping = yield* mapGrants(file, named(refs));
  if (typeof mapping === "number") return { rc: mapping };
  const map = item(gntdevBehind(file).maps, 0);
  return { rc: yield* unmapGrants(file, mapping), map };
};

const exportAndClose: Life = function* (file, refs) {
  const fd = yield* dmabufExpFromRefs(file, GNTDEV_DMA_FLAG_WC, FRONT, refs);
  if (fd < 0) return { rc: fd };
  const map = item(gntdevBehind(file).maps, 0);
  return { rc: yield* sysClose(file.process, fd), map };
};

const importAndRelease: Life = function* (file) {
  const fd = yield* dmaHeapAlloc(file.process, 2);
  if (fd < 0) return { rc: fd };
  const refs = yield* dmabufImpToRefs(file, fd, FRONT, 2);
  return { rc: typeof refs === "number" ? refs : yield* dmabufImpRelease(file, fd) };
};

/** A refused unmap is told to nobody: the pages are kept, and given back here so that the next round begins equal. */
function* takeBack(kernel: Kernel, map: GntdevMap): Program {
  expect(map.liveGrants).toBe(map.count);
  const ops = map.handles.map((handle, i) => unmapOp(pageToPhys(item(map.pages, i)), handle));
  expect(yield* gnttabUnmapRefs(kernel, ops, map.pages)).toBe(0);
  if (map.dma === undefined) gnttabFreePages(kernel, map.pages);
  else yield* gnttabDmaFreePages(kernel, map.dma);
}

interface Seen {
  /** Errno of each round in which something failed. */
  readonly answers: number[];
  /** Rounds whose pages were kept. */
  kept: number;
}

/** Lives of processes, one after the other, with the first, second, … point of the kernel failing, until none is left. */
function* livesOf(kernel: Kernel, life: Life, refs: readonly number[]): Program<Seen> {
  const seen: Seen = { answers: [], kept: 0 };
  const { faults } = kernel;
  for (let n = 0; ; n++) {
    const before = inventoryOf(kernel);
    const lived: { rc: number; map: GntdevMap | undefined } = { rc: 0, map: undefined };
    const signal = yield* runProcess(kernel, `life ${n}`, function* (process) {
      const file = { process, fd: yield* sysOpen(process, GNTDEV) };
      faults.failedSite = undefined;
      faults.failAt = faults.passed + n;
      const { rc, map } = yield* life(file, refs);
      faults.failAt = -1;
      Object.assign(lived, { rc, map });
    });
    expect(signal).toBe(0);
    if (faults.failedSite === undefined) return seen;
    seen.answers.push(lived.rc);
    if (lived.map !== undefined && lived.map.liveGrants > 0) {
      seen.kept++;
      yield* takeBack(kernel, lived.map);
    }
    expect(differences(before, inventoryOf(kernel)), `point ${n}`).toEqual([]);
  }
}

/**
 * Twice: the first time what a kernel needs once fails too, the second time every later point comes in its turn.
 */
function enumerate(life: Life): { readonly cold: Seen; readonly warm: Seen } {
  const seen: Seen[] = [];
  withGrants(function* ({ process }, { refs }) {
    seen.push(yield* livesOf(process.kernel, life, refs));
    seen.push(yield* livesOf(process.kernel, life, refs));
  });
  return { cold: item(seen, 0), warm: item(seen, 1) };
}

/** The process's buffer for arguments, the map, the foreign entry of each of three pages, the unmap. */
const LIFE = [-ENOMEM, -ENOMEM, -EINVAL, -EINVAL, -EINVAL, 0];

describe("every allocation and every hypercall of a process's grants fails in turn", () => {
  test("mapping and unmapping: -ENOMEM, -EINVAL for a status, or success with the pages kept", () => {
    const { cold, warm } = enumerate(mapAndUnmap);
    expect(warm).toEqual({ answers: LIFE, kept: 1 });
    expect(new Set(cold.answers)).toEqual(new Set([-ENOMEM]));
  });

  test("an export and its end", () => {
    const { cold, warm } = enumerate(exportAndClose);
    expect(warm).toEqual({ answers: LIFE, kept: 1 });
    expect(cold.answers.every((rc) => [-ENOMEM, -EINVAL, 0].includes(rc))).toBe(true);
  });

  test("an import: its arguments and its buffer need memory, and nothing else", () => {
    const { warm } = enumerate(importAndRelease);
    expect(warm).toEqual({ answers: [-ENOMEM, -ENOMEM], kept: 0 });
  });
});
