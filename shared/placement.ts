/**
 * Where a resolved machine's parts lie: banks, Xen heap, the RAM of direct-mapped domains, grant table
 * regions and extended regions.
 *
 *   first bank, arm64:  | Xen heap | dom0 (1:1) | other 1:1 domains | what the allocator hands out … |
 *   first bank, x86:    | what the allocator hands out …                                | Xen heap |
 *
 * Behaviour: xen/arch/arm/domain_build.c, allocate_memory_11(), find_unallocated_memory(),
 * find_memory_holes(), find_domU_holes(), find_gnttab_region(). Regions are capped, see docs/FIDELITY.md.
 */
import { CHUNK_FRAMES, PAGE_SIZE } from "./limits.ts";
import type { DeviceModel, MachineModel, Range } from "./machine.ts";
import {
  GUEST_GNTTAB_BASE,
  GUEST_RAM0_BASE,
  GUEST_RAM0_SIZE,
  HVM_GNTTAB_BASE,
  HVM_HOLE_BASE,
} from "./presets.ts";
import { align, endOf, overlaps, subtract } from "./ranges.ts";
import { ScenarioError } from "./scenario.ts";
import { formatHex, formatSize } from "./sizes.ts";

export const CHUNK_BYTES = CHUNK_FRAMES * PAGE_SIZE;
/** One extended region is at most this long: a kernel takes a section at a time, from the lowest one. */
const REGION_MAX = 512 * 1024 ** 2;
/** The hypervisor announces no smaller region (Xen: 64 MiB, on boards a thousand times larger). */
const REGION_MIN = CHUNK_BYTES;
/** dom0's grant table region is where Xen itself lies: this far into its heap, so that it is never gfn 0. */
const DOM0_GNTTAB_OFFSET = 1024 ** 2;

/** Refuses banks that are unordered, overlap or are not made of whole 2 MiB chunks. */
export function checkBanks(banks: readonly Range[]): void {
  if (banks.length === 0) throw new ScenarioError("machine.banks", "a machine needs a bank");
  for (const [i, bank] of banks.entries()) {
    const path = `machine.banks.${i}`;
    for (const value of [bank.base, bank.size]) {
      if (value % CHUNK_BYTES !== 0) {
        throw new ScenarioError(path, `${formatHex(value)} is not a multiple of 2 MiB`);
      }
    }
    const before = banks[i - 1];
    if (before !== undefined && endOf(before) > bank.base) {
      throw new ScenarioError(path, "banks must ascend and not overlap");
    }
  }
}

/** The part of the first bank that is Xen's own: its bottom, or on x86 its top, to which Xen moves itself. */
export function xenHeapRange(
  arch: MachineModel["arch"],
  banks: readonly Range[],
  pages: number,
): Range {
  const { base = 0, size: room = 0 } = banks[0] ?? {};
  const size = pages * PAGE_SIZE;
  return { base: arch === "x86" ? base + Math.max(0, room - size) : base, size };
}

/** Takes the RAM of a direct-mapped domain from the lowest RAM that nobody owns, in 2 MiB steps. */
export function placeDirect(
  path: string,
  pages: number,
  banks: readonly Range[],
  taken: readonly Range[],
): readonly Range[] {
  const wanted = pages * PAGE_SIZE;
  const free = align(subtract(banks, taken), CHUNK_BYTES);
  const whole = free.find((range) => range.size >= wanted);
  if (whole !== undefined) return [{ base: whole.base, size: wanted }];
  const largest = Math.max(0, ...free.map((range) => range.size));
  throw new ScenarioError(
    path,
    `${formatSize(wanted)} of direct-mapped RAM do not fit; the largest free range is ${formatSize(largest)}`,
  );
}

/** Refuses static memory outside RAM, or that somebody else already has. */
export function checkStatic(
  path: string,
  ranges: readonly Range[],
  banks: readonly Range[],
  taken: readonly Range[],
): void {
  for (const range of ranges) {
    const text = `${formatHex(range.base)}..${formatHex(endOf(range))}`;
    if (subtract([range], banks).length > 0) {
      throw new ScenarioError(path, `${text} is not RAM of this machine`);
    }
    if (taken.some((other) => overlaps(range, other))) {
      throw new ScenarioError(path, `${text} is taken by Xen or another domain`);
    }
  }
}

/** Gfn of the region offered for dom0's grant table: machine frames of Xen's own, never dom0's RAM. */
export const dom0GrantTableGfn = (heap: Range): number =>
  (heap.base + DOM0_GNTTAB_OFFSET) / PAGE_SIZE;
export const guestGrantTableGfn = (arch: MachineModel["arch"]): number =>
  (arch === "x86" ? HVM_GNTTAB_BASE : GUEST_GNTTAB_BASE) / PAGE_SIZE;

const registerPages = (devices: readonly DeviceModel[]): readonly Range[] =>
  devices.map((device) => ({ base: device.registers, size: PAGE_SIZE }));

/** Cuts to whole chunks and to the length that is announced. */
const announce = (ranges: readonly Range[]): readonly Range[] =>
  align(ranges, CHUNK_BYTES)
    .filter((range) => range.size >= REGION_MIN)
    .map((range) => ({ base: range.base, size: Math.min(range.size, REGION_MAX) }));

/** Without an IOMMU: RAM of the host that dom0 does not own (and Xen does not lie in). */
export const unallocatedMemory = (
  banks: readonly Range[],
  heap: Range,
  own: readonly Range[],
): readonly Range[] => announce(subtract(banks, [heap, ...own]));

/** With an IOMMU: holes of the host's address map. */
export const memoryHoles = (
  banks: readonly Range[],
  reserved: readonly Range[],
  devices: readonly DeviceModel[],
  ipaBits: number,
): readonly Range[] =>
  announce(
    subtract([{ base: 0, size: 2 ** ipaBits }], [...banks, ...reserved, ...registerPages(devices)]),
  ).filter((range) => range.base > 0);

/** A guest that is not direct-mapped: what its RAM leaves of its first RAM bank. */
export function guestHoles(
  arch: MachineModel["arch"],
  ram: Range,
  devices: readonly DeviceModel[],
): readonly Range[] {
  const bank =
    arch === "x86"
      ? { base: 0, size: HVM_HOLE_BASE }
      : { base: GUEST_RAM0_BASE, size: GUEST_RAM0_SIZE };
  const above = { base: endOf(ram), size: Math.max(0, endOf(bank) - endOf(ram)) };
  return announce(subtract([above], registerPages(devices)));
}
