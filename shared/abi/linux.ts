/** Numbers that a Linux process hands to its kernel: asm-generic/fcntl.h, mman-common.h, poll.h (arm64 and x86 alike). */
export const O_RDWR = 2;
export const O_NONBLOCK = 0o4000;
export const O_CLOEXEC = 0o2000000;

export const PROT_READ = 1;
export const PROT_WRITE = 2;

export const MAP_SHARED = 1;
export const MAP_PRIVATE = 2;
export const MAP_ANONYMOUS = 0x20;

export const POLLIN = 1;
export const POLLOUT = 4;
export const POLLERR = 8;
export const POLLRDNORM = 0x40;
export const POLLWRNORM = 0x100;
