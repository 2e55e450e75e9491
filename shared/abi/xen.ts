/**
 * Numbers of xen/include/public/xen.h, hvm/hvm_op.h, hvm/params.h and features.h, and the layout of
 * the shared info page (arm64: one legacy vcpu_info, 64-bit event words).
 */
export const HYPERVISOR_mmu_update = 1;
export const HYPERVISOR_memory_op = 12;
export const HYPERVISOR_update_va_mapping = 14;
export const HYPERVISOR_xen_version = 17;
export const HYPERVISOR_grant_table_op = 20;
export const HYPERVISOR_mmuext_op = 26;
export const HYPERVISOR_sched_op = 29;
export const HYPERVISOR_event_channel_op = 32;
export const HYPERVISOR_hvm_op = 34;
export const HYPERVISOR_domctl = 36;
export const HYPERVISOR_dm_op = 41;

export const DOMID_FIRST_RESERVED = 0x7ff0;
export const DOMID_SELF = 0x7ff0;
export const DOMID_IO = 0x7ff1;
export const DOMID_XEN = 0x7ff2;
export const DOMID_COW = 0x7ff3;
export const DOMID_INVALID = 0x7ff4;
export const DOMID_IDLE = 0x7fff;

export const HVMOP_set_param = 0;
export const HVMOP_get_param = 1;
/** struct xen_hvm_param: domid u16@0, pad u16@2, index u32@4, value u64@8. */
export const HVM_PARAM_SIZE = 16;
export const HVM_PARAM_DOMID = 0;
export const HVM_PARAM_INDEX = 4;
export const HVM_PARAM_VALUE = 8;
export const HVM_PARAM_STORE_PFN = 1;
export const HVM_PARAM_STORE_EVTCHN = 2;
/** Indexes from here on do not exist. */
export const HVM_NR_PARAMS = 40;

export const XENVER_version = 0;
export const XENVER_extraversion = 1;
export const XENVER_compile_info = 2;
export const XENVER_capabilities = 3;
export const XENVER_changeset = 4;
export const XENVER_platform_parameters = 5;
export const XENVER_get_features = 6;
export const XENVER_pagesize = 7;
export const XENVER_guest_handle = 8;
export const XENVER_commandline = 9;
export const XENVER_build_id = 10;
/** struct xen_feature_info: submap_idx u32@0 in, submap u32@4 out. */
export const FEATURE_INFO_SIZE = 8;
export const FEATURE_INFO_SUBMAP_IDX = 0;
export const FEATURE_INFO_SUBMAP = 4;
export const XENFEAT_writable_page_tables = 0;
export const XENFEAT_auto_translated_physmap = 2;
export const XENFEAT_dom0 = 11;
export const XENFEAT_memory_op_vnode_supported = 13;
export const XENFEAT_ARM_SMCCC_supported = 14;
export const XENFEAT_not_direct_mapped = 16;
export const XENFEAT_direct_mapped = 17;

/** struct vcpu_info: evtchn_upcall_pending u8@0, evtchn_upcall_mask u8@1, evtchn_pending_sel u64@8. */
export const VCPU_INFO_SIZE = 64;
export const VCPU_INFO_UPCALL_PENDING = 0;
export const VCPU_INFO_PENDING_SEL = 8;
/** struct shared_info on arm64: one legacy vcpu_info, then evtchn_pending and evtchn_mask, 512 bytes each. */
export const SHARED_INFO_EVTCHN_PENDING = 64;
export const SHARED_INFO_EVTCHN_MASK = 64 + 512;
