/**
 * Numbers and layouts of include/uapi/xen/gntdev.h. Offsets are bytes, little endian; `out` fields are written back.
 * A request number is _IOC(_IOC_NONE, 'G', nr, size): size << 16 | 'G' << 8 | nr.
 */
export const IOCTL_GNTDEV_MAP_GRANT_REF = 0x00184700;
export const IOCTL_GNTDEV_UNMAP_GRANT_REF = 0x00104701;
export const IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR = 0x00184702;
/** Defined, and handled by no kernel since 4.18: -ENOTTY. */
export const IOCTL_GNTDEV_SET_MAX_GRANTS = 0x00044703;
export const IOCTL_GNTDEV_SET_UNMAP_NOTIFY = 0x00104707;
export const IOCTL_GNTDEV_GRANT_COPY = 0x00104708;
export const IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS = 0x00144709;
export const IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED = 0x0008470a;
export const IOCTL_GNTDEV_DMABUF_IMP_TO_REFS = 0x0014470b;
export const IOCTL_GNTDEV_DMABUF_IMP_RELEASE = 0x0008470c;

/** ioctl_gntdev_map_grant_ref: 16 bytes, then 8 a reference; 24 with one. */
export const MAP_REFS_SIZE = 24;
export const MAP_REFS_COUNT = 0; // u32 in
export const MAP_REFS_INDEX = 8; // u64 out
export const MAP_REFS_LIST = 16; // { u32 domid; u32 ref }[count] in
export const MAP_REFS_STRIDE = 8;

/** ioctl_gntdev_unmap_grant_ref: 16 bytes. */
export const UNMAP_REFS_SIZE = 16;
export const UNMAP_REFS_INDEX = 0; // u64 in
export const UNMAP_REFS_COUNT = 8; // u32 in; 0: whatever the count

/** ioctl_gntdev_get_offset_for_vaddr: 24 bytes. */
export const GET_OFFSET_SIZE = 24;
export const GET_OFFSET_VADDR = 0; // u64 in
export const GET_OFFSET_OFFSET = 8; // u64 out
export const GET_OFFSET_COUNT = 16; // u32 out

/** ioctl_gntdev_unmap_notify, and the same of gntalloc.h: 16 bytes. */
export const UNMAP_NOTIFY_SIZE = 16;
export const UNMAP_NOTIFY_INDEX = 0; // u64 in
export const UNMAP_NOTIFY_ACTION = 8; // u32 in
export const UNMAP_NOTIFY_PORT = 12; // u32 in
export const UNMAP_NOTIFY_CLEAR_BYTE = 1;
export const UNMAP_NOTIFY_SEND_EVENT = 2;

/** ioctl_gntdev_grant_copy: 16 bytes. */
export const GRANT_COPY_SIZE = 16;
export const GRANT_COPY_COUNT = 0; // u32 in
export const GRANT_COPY_SEGMENTS = 8; // u64 in: pointer

/** gntdev_grant_copy_segment: 24 bytes. A side is a virtual address or a granted place. */
export const SEGMENT_SIZE = 24;
export const SEGMENT_SOURCE = 0;
export const SEGMENT_DEST = 8;
export const SEGMENT_LEN = 16; // u16 in
export const SEGMENT_FLAGS = 18; // u16 in: GNTCOPY_*
export const SEGMENT_STATUS = 20; // s16 out: GNTST_*
export const SEGMENT_FOREIGN_REF = 0; // u32 in
export const SEGMENT_FOREIGN_OFFSET = 4; // u16 in
export const SEGMENT_FOREIGN_DOMID = 6; // u16 in

export const GNTDEV_DMA_FLAG_WC = 1;
export const GNTDEV_DMA_FLAG_COHERENT = 2;

/** ioctl_gntdev_dmabuf_exp_from_refs: 16 bytes, then 4 a reference; 20 with one. */
export const EXP_FROM_REFS_SIZE = 20;
export const EXP_FLAGS = 0; // u32 in
export const EXP_COUNT = 4; // u32 in
export const EXP_FD = 8; // u32 out
export const EXP_DOMID = 12; // u32 in
export const EXP_REFS = 16; // u32[count] in

/** ioctl_gntdev_dmabuf_exp_wait_released: 8 bytes. */
export const EXP_WAIT_SIZE = 8;
export const EXP_WAIT_FD = 0; // u32 in
export const EXP_WAIT_TIMEOUT_MS = 4; // u32 in

/** ioctl_gntdev_dmabuf_imp_to_refs: 16 bytes, then 4 a reference; 20 with one. */
export const IMP_TO_REFS_SIZE = 20;
export const IMP_FD = 0; // u32 in
export const IMP_COUNT = 4; // u32 in
export const IMP_DOMID = 8; // u32 in
export const IMP_REFS = 16; // u32[count] out

/** ioctl_gntdev_dmabuf_imp_release: 8 bytes. */
export const IMP_RELEASE_SIZE = 8;
export const IMP_RELEASE_FD = 0; // u32 in
