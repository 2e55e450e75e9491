/**
 * The page-table entry: arm64 stage-2 format with a 4 KiB granule, 8 bytes.
 *
 *   word 0: 0 valid, 1 table (also set for 4 KiB pages), 5:2 memory attribute, 6 read, 7 write,
 *           9:8 shareability, 10 access flag, 31:12 low 20 bits of the frame
 *   word 1: 15:0 high 16 bits of the frame, 20 contiguous, 22 xn, 26:23 p2m type (software)
 *
 * An entry is in use when word 0 is not zero. Word 1 is written before word 0, and is left as it is when the
 * entry is cleared: a walk that has read word 0 finds the word 1 that belongs to it until the flush is over.
 * Behaviour: xen/arch/arm/include/asm/lpae.h, xen/arch/arm/include/asm/p2m.h (enum p2m_type_t).
 */
export const p2m_invalid = 0;
export const p2m_ram_rw = 1;
export const p2m_ram_ro = 2;
export const p2m_mmio_direct_dev = 3;
export const p2m_mmio_direct_nc = 4;
export const p2m_mmio_direct_c = 5;
export const p2m_map_foreign_rw = 6;
export const p2m_map_foreign_ro = 7;
export const p2m_grant_map_rw = 8;
export const p2m_grant_map_ro = 9;
export const p2m_iommu_map_rw = 10;
export const p2m_iommu_map_ro = 11;

export const P2M_TYPE_NAMES = [
  "invalid",
  "ram_rw",
  "ram_ro",
  "mmio_direct_dev",
  "mmio_direct_nc",
  "mmio_direct_c",
  "map_foreign_rw",
  "map_foreign_ro",
  "grant_map_rw",
  "grant_map_ro",
  "iommu_map_rw",
  "iommu_map_ro",
] as const;

export const PTE_VALID = 1;
export const PTE_TABLE = 2;
export const PTE_READ = 1 << 6;
export const PTE_WRITE = 1 << 7;
export const PTE_AF = 1 << 10;
export const PTE_HIGH_XN = 1 << 22;
export const PTE_HIGH_CONTIG = 1 << 20;

export const isRam = (type: number): boolean => type === p2m_ram_rw || type === p2m_ram_ro;
export const isForeign = (type: number): boolean =>
  type === p2m_map_foreign_rw || type === p2m_map_foreign_ro;
export const isGrant = (type: number): boolean =>
  type === p2m_grant_map_rw || type === p2m_grant_map_ro;
/** RAM, grant and foreign entries; the iommu_map types are not among them. */
export const isAnyRam = (type: number): boolean => isRam(type) || isForeign(type) || isGrant(type);

const isDevice = (type: number): boolean =>
  type >= p2m_mmio_direct_dev && type <= p2m_mmio_direct_c;
const isWritable = (type: number): boolean =>
  type === p2m_ram_rw ||
  isDevice(type) ||
  type === p2m_map_foreign_rw ||
  type === p2m_grant_map_rw ||
  type === p2m_iommu_map_rw;

const MATTR_NORMAL_WB = 15;
const SH_INNER = 3;
const SH_OUTER = 2;

/** Word 0 of a leaf for frame `mfn`: a page at level 3, a block above. */
export function leafWord(mfn: number, type: number, level: number): number {
  // mmio_direct_dev is Device-nGnRE (1), mmio_direct_nc Normal non-cacheable (5).
  const mattr =
    type === p2m_mmio_direct_dev ? 1 : type === p2m_mmio_direct_nc ? 5 : MATTR_NORMAL_WB;
  const sh = isDevice(type) ? SH_OUTER : SH_INNER;
  const table = level === 3 ? PTE_TABLE : 0;
  const write = isWritable(type) ? PTE_WRITE : 0;
  const low = (mfn % 1048576) << 12;
  return PTE_VALID | table | (mattr << 2) | PTE_READ | write | (sh << 8) | PTE_AF | low;
}

/** Word 1 of a leaf. RAM is executable, nothing else is. */
export const leafHigh = (mfn: number, type: number): number =>
  Math.floor(mfn / 1048576) | (isRam(type) ? 0 : PTE_HIGH_XN) | (type << 23);

/** Word 0 of an entry that points to a table page. A table carries type ram_rw so that it reads as in use. */
export const tableWord = (mfn: number): number => PTE_VALID | PTE_TABLE | ((mfn % 1048576) << 12);
export const tableHigh = (mfn: number): number => Math.floor(mfn / 1048576) | (p2m_ram_rw << 23);

/** Frame an entry names. */
export const pteMfn = (word: number, high: number): number =>
  (word >>> 12) + (high & 0xffff) * 1048576;
export const pteType = (high: number): number => (high >>> 23) & 15;
/** Whether an entry at `level` is a table, not a block or page. */
export const isTable = (word: number, level: number): boolean =>
  level < 3 && (word & PTE_TABLE) !== 0;

/** Frames that one entry of a level covers: 2^(9 * (3 - level)). */
export const levelFrames = (level: number): number => 1 << (27 - 9 * level);

/**
 * The bits of a frame number that levels 0 and 1 and the choice of the root page look at. A gfn may have 36 bits, which
 * no shift takes; split once, every level of a walk is shifts.
 */
export const upperBits = (frame: number): number =>
  frame < 0x8000_0000 ? frame >>> 18 : Math.floor(frame / 0x4_0000);

/** Slot of `frame` in the table of a level: 0 to 511. `upper` is its upperBits. */
export const levelSlot = (frame: number, upper: number, level: number): number =>
  (level < 2 ? upper >>> (9 - 9 * level) : frame >>> (27 - 9 * level)) & 511;

/** Root page that a frame with these upperBits falls on, for a walk that starts at `level`. */
export const rootPageOf = (upper: number, level: number): number => upper >>> (18 - 9 * level);

/** Place of `frame` among those that one entry of a level covers. */
export const offsetInLevel = (frame: number, level: number): number =>
  frame & (levelFrames(level) - 1);
