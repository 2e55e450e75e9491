/** Numbers and layouts of xen/include/public/event_channel.h. Offsets are bytes, little endian. */
export const EVTCHNOP_bind_interdomain = 0;
export const EVTCHNOP_bind_virq = 1;
export const EVTCHNOP_bind_pirq = 2;
export const EVTCHNOP_close = 3;
export const EVTCHNOP_send = 4;
export const EVTCHNOP_status = 5;
export const EVTCHNOP_alloc_unbound = 6;
export const EVTCHNOP_bind_ipi = 7;
export const EVTCHNOP_bind_vcpu = 8;
export const EVTCHNOP_unmask = 9;
export const EVTCHNOP_reset = 10;
export const EVTCHNOP_init_control = 11;
export const EVTCHNOP_expand_array = 12;
export const EVTCHNOP_set_priority = 13;
/** Continuation of a reset: not for guests, but a guest can utter it. */
export const EVTCHNOP_reset_cont = 14;

/** evtchn_bind_interdomain: 12 bytes. */
export const BIND_INTERDOMAIN_SIZE = 12;
export const BIND_INTERDOMAIN_REMOTE_DOM = 0; // u16 in
export const BIND_INTERDOMAIN_REMOTE_PORT = 4; // u32 in
export const BIND_INTERDOMAIN_LOCAL_PORT = 8; // u32 out
/** evtchn_bind_virq: 12 bytes. */
export const BIND_VIRQ_SIZE = 12;
export const BIND_VIRQ_VIRQ = 0; // u32 in
export const BIND_VIRQ_VCPU = 4; // u32 in
export const BIND_VIRQ_PORT = 8; // u32 out
/** evtchn_bind_pirq: 12 bytes. */
export const BIND_PIRQ_SIZE = 12;
export const BIND_PIRQ_PIRQ = 0; // u32 in
export const BIND_PIRQ_PORT = 8; // u32 out
/** evtchn_close, evtchn_send and evtchn_unmask: port u32@0. */
export const PORT_SIZE = 4;
/** evtchn_status: 24 bytes. */
export const STATUS_SIZE = 24;
export const STATUS_DOM = 0; // u16 in
export const STATUS_PORT = 4; // u32 in
export const STATUS_STATUS = 8; // u32 out
export const STATUS_VCPU = 12; // u32 out
export const STATUS_UNION_PORT = 20; // u32 out: peer's port
export const STATUS_UNION = 16; // out: unbound.dom u16; interdomain {dom u16, port u32@20}; virq u32
/** evtchn_alloc_unbound: 8 bytes. */
export const ALLOC_UNBOUND_SIZE = 8;
export const ALLOC_UNBOUND_DOM = 0; // u16 in
export const ALLOC_UNBOUND_REMOTE_DOM = 2; // u16 in
export const ALLOC_UNBOUND_PORT = 4; // u32 out
/** evtchn_bind_ipi: 8 bytes. */
export const BIND_IPI_SIZE = 8;
export const BIND_IPI_VCPU = 0; // u32 in
export const BIND_IPI_PORT = 4; // u32 out
/** evtchn_bind_vcpu: 8 bytes. */
export const BIND_VCPU_SIZE = 8;
export const BIND_VCPU_PORT = 0; // u32 in
export const BIND_VCPU_VCPU = 4; // u32 in
/** evtchn_reset: dom u16@0. */
export const RESET_SIZE = 2;
export const RESET_DOM = 0; // u16 in
/** evtchn_init_control: 24 bytes. */
export const INIT_CONTROL_SIZE = 24;
export const INIT_CONTROL_GFN = 0; // u64 in
export const INIT_CONTROL_OFFSET = 8; // u32 in
export const INIT_CONTROL_VCPU = 12; // u32 in
export const INIT_CONTROL_LINK_BITS = 16; // u8 out
/** Control block that a vCPU of the FIFO ABI registers: ready u32@0, reserved, 16 heads. */
export const FIFO_CONTROL_BLOCK_SIZE = 72;
export const FIFO_CONTROL_READY = 0; // [XEN] sets, [GST] clears a bit a priority: or, and
export const FIFO_CONTROL_HEAD = 8; // u32 a priority: [XEN] first port of a queue that was empty
/** Event word: one a port. [XEN] and [GST]: atomic operations only. */
export const EVTCHN_FIFO_PENDING = 1 << 31;
export const EVTCHN_FIFO_MASKED = 1 << 30;
export const EVTCHN_FIFO_LINKED = 1 << 29;
export const EVTCHN_FIFO_BUSY = 1 << 28;
export const EVTCHN_FIFO_LINK_BITS = 17;
export const EVTCHN_FIFO_LINK_MASK = (1 << EVTCHN_FIFO_LINK_BITS) - 1;
export const EVTCHN_FIFO_PRIORITY_DEFAULT = 7;
export const EVTCHN_FIFO_PRIORITY_MIN = 15;
/** evtchn_expand_array: array_gfn u64@0. */
export const EXPAND_ARRAY_SIZE = 8;
export const EXPAND_ARRAY_GFN = 0; // u64 in
/** evtchn_set_priority: port u32@0, priority u32@4. */
export const SET_PRIORITY_SIZE = 8;
export const SET_PRIORITY_PORT = 0; // u32 in
export const SET_PRIORITY_PRIORITY = 4; // u32 in

export const EVTCHNSTAT_closed = 0;
export const EVTCHNSTAT_unbound = 1;
export const EVTCHNSTAT_interdomain = 2;
export const EVTCHNSTAT_pirq = 3;
export const EVTCHNSTAT_virq = 4;
export const EVTCHNSTAT_ipi = 5;

export const VIRQ_TIMER = 0;
export const VIRQ_DEBUG = 1;
export const VIRQ_CONSOLE = 2;
export const VIRQ_DOM_EXC = 3;
export const VIRQ_XENOPROF = 7;
export const VIRQ_XENPMU = 13;
export const NR_VIRQS = 24;
