/**
 * Numbers and layouts of xen/include/public/grant_table.h. Offsets are bytes, little endian.
 *
 * A version 1 entry is two 32-bit cells: header (flags in the low half, domid in the high half) and
 * frame. Both sides use 32-bit atomics only, so that they synchronise (stress W2).
 */
export const GNTTABOP_map_grant_ref = 0;
export const GNTTABOP_unmap_grant_ref = 1;
export const GNTTABOP_setup_table = 2;
export const GNTTABOP_dump_table = 3;
export const GNTTABOP_transfer = 4;
export const GNTTABOP_copy = 5;
export const GNTTABOP_query_size = 6;
export const GNTTABOP_unmap_and_replace = 7;
export const GNTTABOP_set_version = 8;
export const GNTTABOP_get_status_frames = 9;
export const GNTTABOP_get_version = 10;
export const GNTTABOP_swap_grant_ref = 11;
export const GNTTABOP_cache_flush = 12;
/** Low bits of the command that name the operation; the rest is continuation data. */
export const GNTTABOP_CMD_MASK = 0xfff;

export const GTF_invalid = 0;
export const GTF_permit_access = 1;
export const GTF_accept_transfer = 2;
export const GTF_transitive = 3;
export const GTF_type_mask = 3;
export const GTF_readonly = 0x4;
export const GTF_reading = 0x8;
export const GTF_writing = 0x10;
export const GTF_sub_page = 0x100;
/** Of an entry that accepts a page; the same bits as others above. */
export const GTF_transfer_committed = 0x4;
export const GTF_transfer_completed = 0x8;

/** Grant references 0 to 7 belong to the toolstack: 0 console, 1 xenstore. */
export const GNTTAB_NR_RESERVED_ENTRIES = 8;
export const GNTTAB_RESERVED_CONSOLE = 0;
export const GNTTAB_RESERVED_XENSTORE = 1;

/** struct grant_entry_v1: header u32@0 [GST,XEN] cmpxchg only; frame u32@4 [GST]. */
export const GRANT_ENTRY_HEADER = 0;
export const GRANT_ENTRY_FRAME = 4;

/** struct grant_entry_v2, a whole page: header u32@0 [GST], frame u64@8 [GST]; Xen writes the status word only. */
export const GRANT_ENTRY_FRAME_V2 = 8;
/** Set in an index of XENMAPSPACE_grant_table: a status frame, not a grant frame. */
export const XENMAPIDX_grant_table_status = 0x8000_0000;

export const GNTMAP_device_map = 1;
export const GNTMAP_host_map = 2;
export const GNTMAP_readonly = 4;
export const GNTMAP_application_map = 8;
export const GNTMAP_contains_pte = 16;

/** gnttab_map_grant_ref: 32 bytes. */
export const MAP_SIZE = 32;
export const MAP_HOST_ADDR = 0; // u64 in
export const MAP_FLAGS = 8; // u32 in
export const MAP_REF = 12; // u32 in
export const MAP_DOM = 16; // u16 in
export const MAP_STATUS = 18; // i16 out
export const MAP_HANDLE = 20; // u32 out
export const MAP_DEV_BUS_ADDR = 24; // u64 out

/** gnttab_unmap_grant_ref: 24 bytes. */
export const UNMAP_SIZE = 24;
export const UNMAP_HOST_ADDR = 0; // u64 in
export const UNMAP_DEV_BUS_ADDR = 8; // u64 in
export const UNMAP_HANDLE = 16; // u32 in
export const UNMAP_STATUS = 20; // i16 out

/** gnttab_transfer: 24 bytes. */
export const TRANSFER_SIZE = 24;
export const TRANSFER_MFN = 0; // u64 in
export const TRANSFER_DOMID = 8; // u16 in
export const TRANSFER_REF = 12; // u32 in
export const TRANSFER_STATUS = 16; // i16 out

/** gnttab_setup_table: 24 bytes. */
export const SETUP_SIZE = 24;
export const SETUP_DOM = 0; // u16 in
export const SETUP_NR_FRAMES = 4; // u32 in
export const SETUP_STATUS = 8; // i16 out
export const SETUP_FRAME_LIST = 16; // u64 in: guest address of u64[nr_frames]

/** gnttab_query_size: 16 bytes. */
export const QUERY_SIZE_SIZE = 16;
export const QUERY_DOM = 0; // u16 in
export const QUERY_NR_FRAMES = 4; // u32 out
export const QUERY_MAX_NR_FRAMES = 8; // u32 out
export const QUERY_STATUS = 12; // i16 out

/** gnttab_copy: 40 bytes; source and dest are the same 16-byte pointer. */
export const COPY_SIZE = 40;
export const COPY_SOURCE = 0;
export const COPY_DEST = 16;
export const COPY_PTR_REF_OR_GMFN = 0; // u64 in: ref in the low half, or gmfn
export const COPY_PTR_DOMID = 8; // u16 in
export const COPY_PTR_OFFSET = 10; // u16 in
export const COPY_LEN = 32; // u16 in
export const COPY_FLAGS = 34; // u16 in
export const COPY_STATUS = 36; // i16 out
export const GNTCOPY_source_gref = 1;
export const GNTCOPY_dest_gref = 2;

/** gnttab_cache_flush: 16 bytes. */
export const CACHE_FLUSH_SIZE = 16;
export const CACHE_FLUSH_DEV_BUS_ADDR = 0; // u64 in, or u32 ref with GNTTAB_CACHE_SOURCE_GREF
export const CACHE_FLUSH_OFFSET = 8; // u16 in
export const CACHE_FLUSH_LENGTH = 10; // u16 in
export const CACHE_FLUSH_OP = 12; // u32 in
export const GNTTAB_CACHE_CLEAN = 1;
export const GNTTAB_CACHE_INVAL = 2;
export const GNTTAB_CACHE_SOURCE_GREF = 0x8000_0000;

/** gnttab_set_version: 4 bytes. */
export const SET_VERSION_SIZE = 4;
export const SET_VERSION_VERSION = 0; // u32 in and out

/** gnttab_get_status_frames: 16 bytes. */
export const STATUS_FRAMES_SIZE = 16;
export const STATUS_FRAMES_NR_FRAMES = 0; // u32 in
export const STATUS_FRAMES_DOM = 4; // u16 in
export const STATUS_FRAMES_STATUS = 6; // i16 out
export const STATUS_FRAMES_FRAME_LIST = 8; // u64 in: guest address of u64[nr_frames]

/** gnttab_get_version: 8 bytes. */
export const GET_VERSION_SIZE = 8;
export const GET_VERSION_DOM = 0; // u16 in
export const GET_VERSION_VERSION = 4; // u32 out

/** gnttab_swap_grant_ref: 12 bytes. */
export const SWAP_SIZE = 12;
export const SWAP_REF_A = 0; // u32 in
export const SWAP_REF_B = 4; // u32 in
export const SWAP_STATUS = 8; // i16 out
