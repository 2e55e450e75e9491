/** Numbers and layouts of xen/include/public/memory.h. Offsets are bytes, little endian. */
export const XENMEM_increase_reservation = 0;
export const XENMEM_decrease_reservation = 1;
export const XENMEM_maximum_ram_page = 2;
export const XENMEM_current_reservation = 3;
export const XENMEM_maximum_reservation = 4;
export const XENMEM_populate_physmap = 6;
export const XENMEM_add_to_physmap = 7;
export const XENMEM_exchange = 11;
export const XENMEM_machphys_mapping = 12;
export const XENMEM_maximum_gpfn = 14;
export const XENMEM_remove_from_physmap = 15;
export const XENMEM_get_sharing_freed_pages = 18;
export const XENMEM_get_sharing_shared_pages = 19;
export const XENMEM_add_to_physmap_batch = 23;
export const XENMEM_claim_pages = 24;
export const XENMEM_get_vnumainfo = 26;
export const XENMEM_reserved_device_memory_map = 27;
export const XENMEM_acquire_resource = 28;
/** The low bits of the command name the operation, the rest is start_extent. */
export const MEMOP_EXTENT_SHIFT = 6;
export const MEMOP_CMD_MASK = 63;

/** xen_memory_reservation: 32 bytes. */
export const RESERVATION_SIZE = 32;
export const RESERVATION_EXTENT_START = 0; // u64 in: guest address of u64[nr_extents], or 0
export const RESERVATION_NR_EXTENTS = 8; // u64 in
export const RESERVATION_EXTENT_ORDER = 16; // u32 in
export const RESERVATION_MEM_FLAGS = 20; // u32 in
export const RESERVATION_DOMID = 24; // u16 in

/** mem_flags: bits 0 to 7 address bits, 8 to 15 node + 1, then single flags. */
export const XENMEMF_populate_on_demand = 1 << 16;
export const XENMEMF_exact_node_request = 1 << 17;
export const XENMEMF_vnode = 1 << 18;

/** xen_memory_exchange: two reservations, in and out, then nr_exchanged: 72 bytes. */
export const EXCHANGE_SIZE = 72;
export const EXCHANGE_OUT = 32;
export const EXCHANGE_NR_EXCHANGED = 64; // u64 in and out

/** xen_memory_domain: domid u16@0. */
export const MEMORY_DOMAIN_SIZE = 2;

/** xen_add_to_physmap: 24 bytes. */
export const ADD_TO_PHYSMAP_SIZE = 24;
export const ADD_TO_PHYSMAP_DOMID = 0; // u16 in
export const ADD_TO_PHYSMAP_LENGTH = 2; // u16 in, gmfn_range only
export const ADD_TO_PHYSMAP_SPACE = 4; // u32 in
export const ADD_TO_PHYSMAP_IDX = 8; // u64 in
export const ADD_TO_PHYSMAP_GPFN = 16; // u64 in
export const XENMAPSPACE_shared_info = 0;
export const XENMAPSPACE_grant_table = 1;
export const XENMAPSPACE_gmfn = 2;
export const XENMAPSPACE_gmfn_range = 3;
export const XENMAPSPACE_gmfn_foreign = 4;
export const XENMAPSPACE_dev_mmio = 5;

/** xen_remove_from_physmap: 16 bytes. */
export const REMOVE_FROM_PHYSMAP_SIZE = 16;
export const REMOVE_FROM_PHYSMAP_DOMID = 0; // u16 in
export const REMOVE_FROM_PHYSMAP_GPFN = 8; // u64 in

/** xen_add_to_physmap_batch: 32 bytes. */
export const PHYSMAP_BATCH_SIZE = 32;
export const PHYSMAP_BATCH_DOMID = 0; // u16 in
export const PHYSMAP_BATCH_SPACE = 2; // u16 in
export const PHYSMAP_BATCH_COUNT = 4; // u16 in
export const PHYSMAP_BATCH_EXTRA = 6; // u16 in: foreign_domid for gmfn_foreign, else res0
export const PHYSMAP_BATCH_IDXS = 8; // u64 in: guest address of u64[count]
export const PHYSMAP_BATCH_GPFNS = 16; // u64 in: guest address of u64[count]
export const PHYSMAP_BATCH_ERRS = 24; // u64 in: guest address of i32[count], written

/** xen_mem_acquire_resource: 32 bytes. */
export const ACQUIRE_SIZE = 32;
export const ACQUIRE_DOMID = 0; // u16 in
export const ACQUIRE_TYPE = 2; // u16 in
export const ACQUIRE_ID = 4; // u32 in
export const ACQUIRE_NR_FRAMES = 8; // u32 in, out when there is no list
export const ACQUIRE_PAD = 12; // u32 in: 0
export const ACQUIRE_FRAME = 16; // u64 in: first frame of the resource
export const ACQUIRE_FRAME_LIST = 24; // u64 in: guest address of u64[nr_frames], or 0
export const XENMEM_resource_ioreq_server = 0;
export const XENMEM_resource_grant_table = 1;
export const XENMEM_resource_vmtrace_buf = 2;
export const XENMEM_resource_grant_table_id_shared = 0;
export const XENMEM_resource_grant_table_id_status = 1;

/** xen_vnuma_topology_info: 40 bytes. */
export const VNUMA_INFO_SIZE = 40;
export const VNUMA_INFO_DOMID = 0; // u16 in
export const VNUMA_INFO_PAD = 2; // u16 in: 0

/** xen_reserved_device_memory_map: 24 bytes. */
export const RDM_MAP_SIZE = 24;
export const RDM_MAP_FLAGS = 0; // u32 in
export const RDM_MAP_NR_ENTRIES = 4; // u32 in and out
export const XENMEM_RDM_ALL = 1;
