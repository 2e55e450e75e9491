/** Numbers and layouts of xen/include/public/sched.h. Offsets are bytes, little endian. */
export const SCHEDOP_yield = 0;
export const SCHEDOP_shutdown = 2;
export const SCHEDOP_poll = 3;

/** struct sched_shutdown: reason u32@0. */
export const SHUTDOWN_suspend = 2;

/** struct sched_poll: list of u32 ports, their number, and an absolute time in nanoseconds (0: none). */
export const SCHED_POLL_SIZE = 24;
export const SCHED_POLL_PORTS = 0; // u64 in
export const SCHED_POLL_NR_PORTS = 8; // u32 in
export const SCHED_POLL_TIMEOUT = 16; // u64 in
