/** Numbers and layouts of include/uapi/linux/dma-heap.h. Offsets are bytes, little endian. */
export const DMA_HEAP_IOCTL_ALLOC = 0xc0184800;

/** dma_heap_allocation_data: 24 bytes. */
export const HEAP_ALLOC_SIZE = 24;
export const HEAP_ALLOC_LEN = 0; // u64 in: bytes
export const HEAP_ALLOC_FD = 8; // u32 in: 0, out
export const HEAP_ALLOC_FD_FLAGS = 12; // u32 in: O_RDWR, O_CLOEXEC
export const HEAP_ALLOC_HEAP_FLAGS = 16; // u64 in: 0
