/**
 * Numbers and layouts of the memory management calls of PV guests, xen/include/public/xen.h. Offsets are bytes, little
 * endian.
 */
/** struct mmu_update: u64 ptr, whose low two bits are the command, and u64 val. */
export const MMU_UPDATE_SIZE = 16;
export const MMU_UPDATE_PTR = 0;
export const MMU_UPDATE_VAL = 8;
export const MMU_NORMAL_PT_UPDATE = 0;
export const MMU_MACHPHYS_UPDATE = 1;
export const MMU_PT_UPDATE_PRESERVE_AD = 2;

/** struct mmuext_op: u32 cmd, u64 arg1 (mfn or address), u64 arg2. */
export const MMUEXT_OP_SIZE = 24;
export const MMUEXT_OP_CMD = 0;
export const MMUEXT_OP_ARG1 = 8;
export const MMUEXT_OP_ARG2 = 16;
export const MMUEXT_PIN_L1_TABLE = 0;
export const MMUEXT_PIN_L4_TABLE = 3;
export const MMUEXT_UNPIN_TABLE = 4;
export const MMUEXT_NEW_BASEPTR = 5;
export const MMUEXT_TLB_FLUSH_LOCAL = 6;
export const MMUEXT_INVLPG_LOCAL = 7;
export const MMUEXT_TLB_FLUSH_MULTI = 8;
export const MMUEXT_INVLPG_MULTI = 9;
export const MMUEXT_TLB_FLUSH_ALL = 10;
export const MMUEXT_INVLPG_ALL = 11;
export const MMUEXT_CLEAR_PAGE = 16;
export const MMUEXT_COPY_PAGE = 17;

/** Flags of update_va_mapping: what is flushed, and where. */
export const UVMF_NONE = 0;
export const UVMF_TLB_FLUSH = 1;
export const UVMF_INVLPG = 2;
export const UVMF_FLUSHTYPE_MASK = 3;
export const UVMF_LOCAL = 0;
export const UVMF_ALL = 4;
