/**
 * The argument structure of each hypercall, as the recordings name its fields. Offsets are bytes, from the public
 * headers of Xen; a field that is not named here cannot be replayed.
 *
 * Ours: written out once more instead of importing shared/abi, so that a wrong offset there is a disagreement.
 */
import { type FlagNames, MAP_FLAG_NAMES } from "./conform-values.ts";

export interface Field {
  readonly name: string;
  readonly offset: number;
  readonly size: 1 | 2 | 4 | 8;
  /** Fields that Xen writes are filled with 0xA5 before the call. */
  readonly dir: "in" | "out" | "inout";
  /** Whether a value read back is signed. */
  readonly signed?: true;
  /** Names of its bits, or of its values. */
  readonly flags?: FlagNames;
  readonly names?: readonly string[];
  /** The field is this bit of its word: 0 or 1. */
  readonly bit?: number;
}

/** A list in guest memory that the structure points to. */
export interface List {
  /** Field of the step with its elements. */
  readonly name: string;
  readonly pointer: number;
  readonly element: 4 | 8;
  /** The elements are Xen's answer; their number stands in this field of the arguments. */
  readonly answerCount?: string;
  /** Or as many as this list of the arguments has, whatever the field says. */
  readonly alike?: string;
  /** Output that tells how many elements Xen has changed. */
  readonly rewritten?: string;
}

export interface Struct {
  readonly cmd: number;
  readonly size: number;
  readonly fields: readonly Field[];
  readonly lists: readonly List[];
  /** Words that every such structure begins with: offset and value. */
  readonly header?: readonly (readonly [offset: number, value: number])[];
}

const input = (name: string, offset: number, size: Field["size"]): Field => ({
  name,
  offset,
  size,
  dir: "in",
});
const output = (name: string, offset: number, size: Field["size"]): Field => ({
  name,
  offset,
  size,
  dir: "out",
});
const status = (offset: number): Field => ({ ...output("status", offset, 2), signed: true });
const struct = (
  cmd: number,
  size: number,
  fields: readonly Field[],
  lists: readonly List[] = [],
): Struct => ({ cmd, size, fields, lists });

const frameList = (pointer: number): List => ({
  name: "frame_list",
  pointer,
  element: 8,
  answerCount: "nr_frames",
});

/** xen/include/public/grant_table.h */
const grantOps: Readonly<Record<string, Struct>> = {
  map_grant_ref: struct(0, 32, [
    input("host_addr", 0, 8),
    { ...input("flags", 8, 4), flags: MAP_FLAG_NAMES },
    input("ref", 12, 4),
    input("dom", 16, 2),
    status(18),
    output("handle", 20, 4),
    output("dev_bus_addr", 24, 8),
  ]),
  unmap_grant_ref: struct(1, 24, [
    input("host_addr", 0, 8),
    input("dev_bus_addr", 8, 8),
    input("handle", 16, 4),
    status(20),
  ]),
  setup_table: struct(
    2,
    24,
    [input("dom", 0, 2), input("nr_frames", 4, 4), status(8)],
    [frameList(16)],
  ),
  dump_table: struct(3, 4, [input("dom", 0, 2), status(2)]),
  transfer: struct(4, 24, [
    input("mfn", 0, 8),
    input("domid", 8, 2),
    input("ref", 12, 4),
    status(16),
  ]),
  copy: struct(5, 40, [
    input("source.ref", 0, 4),
    input("source.gfn", 0, 8),
    input("source.domid", 8, 2),
    input("source.offset", 10, 2),
    input("dest.ref", 16, 4),
    input("dest.gfn", 16, 8),
    input("dest.domid", 24, 2),
    input("dest.offset", 26, 2),
    input("len", 32, 2),
    input("flags", 34, 2),
    status(36),
  ]),
  query_size: struct(6, 16, [
    input("dom", 0, 2),
    output("nr_frames", 4, 4),
    output("max_nr_frames", 8, 4),
    status(12),
  ]),
  unmap_and_replace: struct(7, 24, [
    input("host_addr", 0, 8),
    input("new_addr", 8, 8),
    input("handle", 16, 4),
    status(20),
  ]),
  set_version: struct(8, 4, [{ ...input("version", 0, 4), dir: "inout" }]),
  get_status_frames: struct(
    9,
    16,
    [input("nr_frames", 0, 4), input("dom", 4, 2), status(6)],
    [frameList(8)],
  ),
  get_version: struct(10, 8, [input("dom", 0, 2), output("version", 4, 4)]),
  swap_grant_ref: struct(11, 12, [input("ref_a", 0, 4), input("ref_b", 4, 4), status(8)]),
  cache_flush: struct(12, 16, [
    input("dev_bus_addr", 0, 8),
    input("ref", 0, 4),
    input("offset", 8, 2),
    input("length", 10, 2),
    input("op", 12, 4),
  ]),
};

/** xen_memory_reservation. */
const reservation = (cmd: number): Struct =>
  struct(
    cmd,
    32,
    [
      input("nr_extents", 8, 8),
      input("extent_order", 16, 4),
      input("mem_flags", 20, 4),
      input("domid", 24, 2),
    ],
    [{ name: "extents", pointer: 0, element: 8, rewritten: "extents_rewritten" }],
  );
const domainOnly = (cmd: number): Struct => struct(cmd, 8, [input("domid", 0, 2)]);
const SPACE_NAMES: FlagNames = {
  shared_info: 0,
  grant_table: 1,
  gmfn: 2,
  gmfn_range: 3,
  gmfn_foreign: 4,
  dev_mmio: 5,
};
const RESOURCE_NAMES: FlagNames = { ioreq_server: 0, grant_table: 1, vmtrace_buf: 2 };

/** xen/include/public/memory.h */
const memoryOps: Readonly<Record<string, Struct>> = {
  increase_reservation: reservation(0),
  decrease_reservation: reservation(1),
  maximum_ram_page: domainOnly(2),
  current_reservation: domainOnly(3),
  maximum_reservation: domainOnly(4),
  populate_physmap: reservation(6),
  add_to_physmap: struct(7, 24, [
    input("domid", 0, 2),
    input("size", 2, 2),
    { ...input("space", 4, 4), flags: SPACE_NAMES },
    input("idx", 8, 8),
    input("gpfn", 16, 8),
  ]),
  exchange: struct(
    11,
    72,
    [
      input("in.nr_extents", 8, 8),
      input("in.extent_order", 16, 4),
      input("in.mem_flags", 20, 4),
      input("in.domid", 24, 2),
      input("out.nr_extents", 40, 8),
      input("out.extent_order", 48, 4),
      input("out.mem_flags", 52, 4),
      input("out.domid", 56, 2),
      { ...input("nr_exchanged", 64, 8), dir: "inout" },
    ],
    [
      { name: "in.extents", pointer: 0, element: 8 },
      { name: "out.extents", pointer: 32, element: 8, rewritten: "out_extents_rewritten" },
    ],
  ),
  maximum_gpfn: domainOnly(14),
  remove_from_physmap: struct(15, 16, [input("domid", 0, 2), input("gpfn", 8, 8)]),
  add_to_physmap_batch: struct(
    23,
    32,
    [
      input("domid", 0, 2),
      { ...input("space", 2, 2), flags: SPACE_NAMES },
      input("size", 4, 2),
      input("u", 6, 2),
    ],
    [
      { name: "idxs", pointer: 8, element: 8 },
      { name: "gpfns", pointer: 16, element: 8 },
      { name: "errs", pointer: 24, element: 4, answerCount: "size", alike: "idxs" },
    ],
  ),
  claim_pages: struct(24, 32, [
    input("extents", 0, 8),
    input("nr_extents", 8, 8),
    input("extent_order", 16, 4),
    input("mem_flags", 20, 4),
    input("domid", 24, 2),
  ]),
  acquire_resource: struct(
    28,
    32,
    [
      input("domid", 0, 2),
      { ...input("type", 2, 2), flags: RESOURCE_NAMES },
      input("id", 4, 4),
      { ...input("nr_frames", 8, 4), dir: "inout" },
      input("pad", 12, 4),
      input("frame", 16, 8),
    ],
    [{ name: "frame_list", pointer: 24, element: 8, rewritten: "frame_list_rewritten" }],
  ),
};

const STATUS_NAMES = ["closed", "unbound", "interdomain", "pirq", "virq", "ipi"] as const;

/** xen/include/public/event_channel.h */
const eventOps: Readonly<Record<string, Struct>> = {
  bind_interdomain: struct(0, 12, [
    input("remote_dom", 0, 2),
    input("remote_port", 4, 4),
    output("local_port", 8, 4),
  ]),
  bind_virq: struct(1, 12, [input("virq", 0, 4), input("vcpu", 4, 4), output("port", 8, 4)]),
  bind_pirq: struct(2, 12, [input("pirq", 0, 4), input("flags", 4, 4), output("port", 8, 4)]),
  close: struct(3, 4, [input("port", 0, 4)]),
  send: struct(4, 4, [input("port", 0, 4)]),
  status: struct(5, 24, [
    input("dom", 0, 2),
    input("port", 4, 4),
    { ...output("status", 8, 4), names: STATUS_NAMES },
    output("vcpu", 12, 4),
    output("u.dom", 16, 2),
    output("u.virq", 16, 4),
    output("u.port", 20, 4),
  ]),
  alloc_unbound: struct(6, 8, [
    input("dom", 0, 2),
    input("remote_dom", 2, 2),
    output("port", 4, 4),
  ]),
  bind_ipi: struct(7, 8, [input("vcpu", 0, 4), output("port", 4, 4)]),
  bind_vcpu: struct(8, 8, [input("port", 0, 4), input("vcpu", 4, 4)]),
  unmask: struct(9, 4, [input("port", 0, 4)]),
  reset: struct(10, 2, [input("dom", 0, 2)]),
  init_control: struct(11, 24, [
    input("control_gfn", 0, 8),
    input("offset", 8, 4),
    input("vcpu", 12, 4),
    output("link_bits", 16, 1),
  ]),
  expand_array: struct(12, 8, [input("array_gfn", 0, 8)]),
  set_priority: struct(13, 8, [input("port", 0, 4), input("priority", 4, 4)]),
};

/** xen/include/public/sched.h */
const schedOps: Readonly<Record<string, Struct>> = {
  poll: struct(
    3,
    24,
    [input("nr_ports", 8, 4), input("timeout", 16, 8)],
    [{ name: "ports", pointer: 0, element: 4 }],
  ),
};

/** xen/include/public/domctl.h: command and interface version, then the domain, then the union at 16. */
const DOMCTL_INTERFACE_VERSION = 0x15;
const domctl = (cmd: number, fields: readonly Field[]): Struct => ({
  ...struct(cmd, 128, [input("domain", 8, 2), ...fields]),
  header: [
    [0, cmd],
    [4, DOMCTL_INTERFACE_VERSION],
  ],
});
const domctls: Readonly<Record<string, Struct>> = {
  destroydomain: domctl(2, []),
  pausedomain: domctl(3, []),
  unpausedomain: domctl(4, []),
  getdomaininfo: domctl(5, [
    output("domain", 16, 2),
    { ...output("dying", 20, 4), bit: 1 },
    { ...output("shutdown", 20, 4), bit: 4 },
    { ...output("paused", 20, 4), bit: 8 },
    output("tot_pages", 24, 8),
    output("max_pages", 32, 8),
    output("outstanding_pages", 40, 8),
    output("shr_pages", 48, 8),
    output("paged_pages", 56, 8),
  ]),
  max_mem: domctl(11, [input("max_memkb", 16, 8)]),
  get_paging_mempool_size: domctl(85, [output("size", 16, 8)]),
  set_paging_mempool_size: domctl(86, [input("size", 16, 8)]),
};

/** xen/include/public/version.h */
const versions: Readonly<Record<string, Struct>> = {
  version: struct(0, 8, []),
  extraversion: struct(1, 16, []),
  compile_info: struct(2, 144, []),
  capabilities: struct(3, 1024, []),
  changeset: struct(4, 64, []),
  platform_parameters: struct(5, 8, [output("virt_start", 0, 8)]),
  get_features: struct(6, 8, [input("submap_idx", 0, 4), output("submap", 4, 4)]),
  pagesize: struct(7, 8, []),
  guest_handle: struct(8, 16, []),
  commandline: struct(9, 1024, []),
  build_id: struct(10, 8, []),
};

/** xen/include/public/features.h: names of the bits of submap 0. */
export const FEATURE_NAMES: FlagNames = {
  writable_page_tables: 1 << 0,
  auto_translated_physmap: 1 << 2,
  dom0: 1 << 11,
  memory_op_vnode_supported: 1 << 13,
  ARM_SMCCC_supported: 1 << 14,
  not_direct_mapped: 1 << 16,
  direct_mapped: 1 << 17,
};

export interface Call {
  readonly op: number;
  /** Register arguments: command and pointer; a count behind them; or the pointer alone. */
  readonly registers: "plain" | "counted" | "pointer";
  readonly commands: Readonly<Record<string, Struct>>;
}

/** Hypercalls by the name that the recordings give them. */
export const CALLS: Readonly<Record<string, Call>> = {
  memory_op: { op: 12, registers: "plain", commands: memoryOps },
  xen_version: { op: 17, registers: "plain", commands: versions },
  grant_table_op: { op: 20, registers: "counted", commands: grantOps },
  sched_op: { op: 29, registers: "plain", commands: schedOps },
  event_channel_op: { op: 32, registers: "plain", commands: eventOps },
  domctl: { op: 36, registers: "pointer", commands: domctls },
};

/** Number of a command that a step gives by name, by number or by digits; undefined: no layout knows it. */
export function commandNumber(call: Call, cmd: unknown): number | undefined {
  if (typeof cmd === "number") return cmd;
  if (typeof cmd !== "string") return undefined;
  return /^\d+$/.test(cmd) ? Number(cmd) : call.commands[cmd]?.cmd;
}
