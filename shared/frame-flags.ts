/**
 * Flags and counts of a frame: the word of the reference count, and the one of the page type (x86 PV).
 * Behaviour: xen/arch/arm/include/asm/mm.h, xen/arch/x86/include/asm/mm.h: struct page_info, count_info and type_info.
 */
/** Frame flags beside the count (FrameTable.count). The count is the low 26 bits. */
export const PGC_allocated = 1 << 30;
export const PGC_xen_heap = 1 << 29;
/** In no list and never handed out: the frame is on the heap's free list. */
export const PGC_state_free = 1 << 28;
export const PGC_static = 1 << 27;
export const PGC_count_mask = (1 << 26) - 1;

/** Page types (FrameTable.type). A frame has one type at a time; it may change only while the type count is 0. */
export const PGT_none = 0;
export const PGT_l1_page_table = 1;
export const PGT_l4_page_table = 4;
export const PGT_writable_page = 7;
export const PGT_type_shift = 26;
export const PGT_type_mask = 7 << PGT_type_shift;
/** The guest holds on to the table: one type reference, and one of the page. */
export const PGT_pinned = 1 << 29;
/** The entries of a table have been checked, and each refers to what it names. */
export const PGT_validated = 1 << 30;
export const PGT_count_mask = (1 << 26) - 1;
