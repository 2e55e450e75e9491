/**
 * The page-table entry of x86-64, 8 bytes, as a PV guest writes it and the walk of mmu.ts reads it at all four levels.
 *
 *   word 0: 0 present, 1 writable, 2 user, 3 PWT, 4 PCD, 5 accessed, 6 dirty, 7 PAT (1 GiB and 2 MiB: PSE), 8 global,
 *           11:9 available, 31:12 low 20 bits of the frame
 *   word 1: 19:0 high 20 bits of the frame, 20 guest kernel (software), 30:21 the guest's own, 31 no-execute
 *
 * Behaviour: xen/arch/x86/include/asm/page.h (flags), xen/arch/x86/pv/mm.h, adjust_guest_l1e(); xen/arch/x86/mm.c, l1_disallow_mask().
 */
export const _PAGE_PRESENT = 0x001;
export const _PAGE_RW = 0x002;
export const _PAGE_USER = 0x004;
export const _PAGE_ACCESSED = 0x020;
export const _PAGE_DIRTY = 0x040;
export const _PAGE_PSE = 0x080;
export const _PAGE_GLOBAL = 0x100;
/** First of the three bits that are the guest's own. */
export const _PAGE_AVAIL0 = 0x200;
export const _PAGE_AVAIL = 0xe00;
/** PWT, PCD and PAT: for domains with device memory only. */
const PAGE_CACHE_ATTRS = 0x098;

/** Bits of word 1. */
export const HIGH_GUEST_KERNEL = 1 << 20;
export const HIGH_NX = 1 << 31;

/** Bits that a guest may not set in a page's entry, and in that of a table. */
export const L1_DISALLOW = PAGE_CACHE_ATTRS;
export const TABLE_DISALLOW = PAGE_CACHE_ATTRS | _PAGE_PSE | _PAGE_GLOBAL;

/** Slots of a level 4 table that belong to Xen. */
export const ROOT_XEN_FIRST = 256;
export const ROOT_XEN_LAST = 271;

/** Virtual page numbers end here: the lower half of the canonical addresses, 47 bits. */
export const VPN_END = 2 ** 35;

/** An entry: its two words. */
export interface PteX86 {
  readonly low: number;
  readonly high: number;
}

export const PTE_EMPTY: PteX86 = { low: 0, high: 0 };

/** An entry for frame `mfn` with bits of both words. */
export const pteX86 = (mfn: number, flags: number, highFlags = 0): PteX86 => ({
  low: ((mfn % 1048576) << 12) | flags,
  high: Math.floor(mfn / 1048576) | highFlags,
});

/** Frame that an entry names. */
export const mfnOfX86 = ({ low, high }: PteX86): number =>
  (low >>> 12) + (high & 0xfffff) * 1048576;

export const isPresentX86 = ({ low }: PteX86): boolean => (low & _PAGE_PRESENT) !== 0;

/**
 * What Xen makes of a page's entry: a 64-bit guest kernel runs outside ring 0, so its pages are user pages that Xen
 * remembers as the kernel's, and those of its programs are global.
 */
export function adjustGuestPte({ low, high }: PteX86): PteX86 {
  if ((low & _PAGE_PRESENT) === 0) return { low, high };
  if ((low & _PAGE_USER) === 0) return { low: low | _PAGE_USER, high: high | HIGH_GUEST_KERNEL };
  return (high & HIGH_GUEST_KERNEL) === 0 ? { low: low | _PAGE_GLOBAL, high } : { low, high };
}
