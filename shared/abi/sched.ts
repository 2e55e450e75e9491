/** Numbers and layouts of xen/include/public/sched.h. Offsets are bytes, little endian. */
export const SCHEDOP_yield = 0;
export const SCHEDOP_block = 1;
export const SCHEDOP_shutdown = 2;
export const SCHEDOP_poll = 3;
export const SCHEDOP_remote_shutdown = 4;
export const SCHEDOP_shutdown_code = 5;

/** struct sched_poll: list of u32 ports, their number, and an absolute time in nanoseconds (0: none). */
export const SCHED_POLL_SIZE = 24;
export const SCHED_POLL_PORTS = 0; // u64 in
export const SCHED_POLL_NR_PORTS = 8; // u32 in
export const SCHED_POLL_TIMEOUT = 16; // u64 in

/** struct sched_shutdown: reason u32@0. */
export const SCHED_SHUTDOWN_SIZE = 4;
export const SCHED_SHUTDOWN_REASON = 0; // u32 in
/** struct sched_remote_shutdown: domain_id u16@0, reason u32@4. */
export const SCHED_REMOTE_SHUTDOWN_SIZE = 8;
export const SCHED_REMOTE_SHUTDOWN_DOMAIN = 0; // u16 in
export const SCHED_REMOTE_SHUTDOWN_REASON = 4; // u32 in

export const SHUTDOWN_poweroff = 0;
export const SHUTDOWN_reboot = 1;
export const SHUTDOWN_suspend = 2;
export const SHUTDOWN_crash = 3;
