/**
 * Domain control. Numbers of xen/include/public/domctl.h. The toolstack's control slot passes the
 * arguments in the record itself, since it has no guest memory; a privileged guest passes a structure
 * whose first words are cmd u32@0, interface_version u32@4, domain u16@8.
 */
export const XEN_DOMCTL_createdomain = 1;
export const XEN_DOMCTL_destroydomain = 2;
export const XEN_DOMCTL_pausedomain = 3;
export const XEN_DOMCTL_unpausedomain = 4;
export const XEN_DOMCTL_getdomaininfo = 5;
export const XEN_DOMCTL_max_mem = 11;
export const XEN_DOMCTL_resumedomain = 27;
export const XEN_DOMCTL_subscribe = 29;
export const XEN_DOMCTL_assign_device = 37;
export const XEN_DOMCTL_test_assign_device = 45;
export const XEN_DOMCTL_deassign_device = 47;
export const XEN_DOMCTL_set_target = 50;
export const XEN_DOMCTL_get_paging_mempool_size = 85;
export const XEN_DOMCTL_set_paging_mempool_size = 86;

/** struct xen_domctl header, then the union at 16. */
export const DOMCTL_SIZE = 128;
export const DOMCTL_CMD = 0;
export const DOMCTL_DOMAIN = 8;
/** xen_domctl_getdomaininfo inside the union: domain u16@16, flags u32@20, tot_pages u64@24, max_pages u64@32. */
export const DOMINFO_DOMAIN = 16;
export const DOMINFO_FLAGS = 20;
export const DOMINFO_TOT_PAGES = 24;
export const DOMINFO_MAX_PAGES = 32;
/** outstanding_pages, shr_pages and paged_pages: u64 each. */
export const DOMINFO_OUTSTANDING_PAGES = 40;
export const DOMINFO_SHR_PAGES = 48;
export const DOMINFO_PAGED_PAGES = 56;
/** Bytes of it that are filled. */
export const DOMINFO_SIZE = 48;
/** xen_domctl_max_mem inside the union: max_memkb u64@16. */
export const MAX_MEM_MAX_MEMKB = 16;
/** Argument of the toolstack's own resumedomain: the suspension was given up (libxc writes it into the vCPU's register). */
export const SUSPEND_CANCELLED = 1;
export const XEN_DOMINF_dying = 1;
export const XEN_DOMINF_shutdown = 4;
export const XEN_DOMINF_paused = 8;
/** Place of the shutdown code in the flags. */
export const XEN_DOMINF_shutdownshift = 16;
/** xen_domctl_subscribe inside the union: port u32@16; xen_domctl_set_target: target u16@16. */
export const SUBSCRIBE_PORT = 16;
export const SET_TARGET_TARGET = 16;
/** xen_domctl_paging_mempool inside the union: size u64@16, bytes. */
export const PAGING_MEMPOOL_SIZE = 16;
/** xen_domctl_assign_device inside the union: dev u32@16, flags u32@20, then machine_sbdf u32@24 or size u32@24, path@32. */
export const ASSIGN_DEV = 16;
export const ASSIGN_FLAGS = 20;
export const ASSIGN_SBDF = 24;
export const ASSIGN_PATH_SIZE = 24;
export const ASSIGN_PATH = 32;
export const XEN_DOMCTL_DEV_PCI = 0;
export const XEN_DOMCTL_DEV_DT = 1;
export const XEN_DOMCTL_DEV_RDM_RELAXED = 1;
