/** Numbers and layouts of include/uapi/xen/gntalloc.h. Offsets are bytes, little endian. */
export const IOCTL_GNTALLOC_ALLOC_GREF = 0x00184705;
export const IOCTL_GNTALLOC_DEALLOC_GREF = 0x00104706;
/** Its structure is ioctl_gntdev_unmap_notify's. */
export const IOCTL_GNTALLOC_SET_UNMAP_NOTIFY = 0x00104707;

/** ioctl_gntalloc_alloc_gref: 16 bytes, then 4 a reference; 24 with one, since a u64 aligns it. */
export const ALLOC_GREF_SIZE = 24;
export const ALLOC_GREF_DOMID = 0; // u16 in
export const ALLOC_GREF_FLAGS = 2; // u16 in
export const ALLOC_GREF_COUNT = 4; // u32 in
export const ALLOC_GREF_INDEX = 8; // u64 out
export const ALLOC_GREF_IDS = 16; // u32[count] out
export const GNTALLOC_FLAG_WRITABLE = 1;

/** ioctl_gntalloc_dealloc_gref: 16 bytes. */
export const DEALLOC_GREF_SIZE = 16;
export const DEALLOC_GREF_INDEX = 0; // u64 in
export const DEALLOC_GREF_COUNT = 8; // u32 in
