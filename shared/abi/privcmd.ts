/** Numbers and layouts of include/uapi/xen/privcmd.h. Offsets are bytes, little endian. */
export const IOCTL_PRIVCMD_HYPERCALL = 0x00305000;
export const IOCTL_PRIVCMD_MMAP = 0x00105002;
export const IOCTL_PRIVCMD_MMAPBATCH = 0x00185003;
export const IOCTL_PRIVCMD_MMAPBATCH_V2 = 0x00205004;
export const IOCTL_PRIVCMD_DM_OP = 0x00105005;
export const IOCTL_PRIVCMD_RESTRICT = 0x00025006;
export const IOCTL_PRIVCMD_MMAP_RESOURCE = 0x00205007;

/** privcmd_hypercall: u64 op, u64 arg[5]. */
export const PRIVCMD_HYPERCALL_SIZE = 48;
export const PRIVCMD_HYPERCALL_ARGS = 5;

/** privcmd_mmapbatch: 24 bytes, and its second version with an array of errors: 32 bytes. */
export const MMAPBATCH_SIZE = 24;
export const MMAPBATCH_V2_SIZE = 32;
export const MMAPBATCH_NUM = 0; // u32 in
export const MMAPBATCH_DOM = 4; // u16 in
export const MMAPBATCH_ADDR = 8; // u64 in: virtual address
export const MMAPBATCH_ARR = 16; // u64 in: pointer to u64[num]; version 1 writes errors into them
export const MMAPBATCH_ERR = 24; // u64 in: pointer to s32[num] out
export const PRIVCMD_MMAPBATCH_MFN_ERROR = 0xf0000000;
export const PRIVCMD_MMAPBATCH_PAGED_ERROR = 0x80000000;

/** privcmd_dm_op: 16 bytes, and one of its buffers. */
export const PRIVCMD_DM_OP_SIZE = 16;
export const PRIVCMD_DM_OP_DOM = 0; // u16 in
export const PRIVCMD_DM_OP_NUM = 2; // u16 in
export const PRIVCMD_DM_OP_BUFS = 8; // u64 in: pointer
export const DM_OP_BUF_SIZE = 16;
export const DM_OP_BUF_UPTR = 0; // u64 in: pointer
export const DM_OP_BUF_BYTES = 8; // u64 in

/** privcmd_mmap_resource: 32 bytes. */
export const MMAP_RESOURCE_SIZE = 32;
export const MMAP_RESOURCE_DOM = 0; // u16 in
export const MMAP_RESOURCE_TYPE = 4; // u32 in
export const MMAP_RESOURCE_ID = 8; // u32 in
export const MMAP_RESOURCE_IDX = 12; // u32 in
export const MMAP_RESOURCE_NUM = 16; // u64 in, out when it and the address are 0
export const MMAP_RESOURCE_ADDR = 24; // u64 in: virtual address
