/** Hypercalls, statuses and trace records in words, by the names that Xen's headers give them. */
import * as events from "../shared/abi/event-channel.ts";
import * as grants from "../shared/abi/grant.ts";
import * as memory from "../shared/abi/memory.ts";
import * as numbers from "../shared/abi/xen.ts";
import { at } from "../shared/assert.ts";
import * as traces from "../shared/trace.ts";
import * as traps from "../shared/trap.ts";

function nameOf(table: Readonly<Record<string, unknown>>, prefix: string, value: number): string {
  const found = Object.entries(table).find(
    ([name, entry]) => name.startsWith(prefix) && entry === value,
  );
  return found === undefined ? String(value) : found[0].slice(prefix.length).toLowerCase();
}

/** What a record asks for: `map_grant_ref`, `populate_physmap`, `send`. */
export function callName(record: Int32Array): string {
  const op = at(record, traps.RECORD_OP);
  const command = traps.recordArg(record, 0);
  switch (op) {
    case numbers.HYPERVISOR_grant_table_op:
      return nameOf({ ...grants }, "GNTTABOP_", command & grants.GNTTABOP_CMD_MASK);
    case numbers.HYPERVISOR_memory_op:
      return nameOf({ ...memory }, "XENMEM_", command & 0x3f);
    case numbers.HYPERVISOR_event_channel_op:
      return nameOf({ ...events }, "EVTCHNOP_", command);
    case traps.CONTROL_DOMCTL:
      return `domctl ${command} of domain ${traps.recordArg(record, 1)}`;
    default:
      return op < 0x100
        ? nameOf({ ...numbers }, "HYPERVISOR_", op)
        : nameOf({ ...traps }, op < 0x200 ? "DEVICE_" : "CONTROL_", op).replaceAll("_", " ");
  }
}

/** One trace record of the hypervisor as a phrase; undefined: it says nothing that a report wants. */
export function tracePhrase(
  record: Int32Array,
  domain: (domid: number) => string,
): string | undefined {
  const [, type = 0, a = 0, b = 0, c = 0, d = 0, e = 0] = record;
  const hex = (value: number): string => `0x${(value >>> 0).toString(16)}`;
  switch (type) {
    case traces.TRACE_GRANT_MAP:
      return `${domain(a)} maps ref ${c} of ${domain(b)} at gfn ${hex(d)}, frame ${e}`;
    case traces.TRACE_GRANT_UNMAP:
      return `${domain(a)} unmaps ref ${c} of ${domain(b)}, frame ${d}`;
    case traces.TRACE_GRANT_REFUSED:
      return `${domain(a)} is refused ref ${c} of ${domain(b)}: status ${d}`;
    case traces.TRACE_P2M_SET:
      return `p2m of ${domain(a)}: gfn ${hex(b)} := frame ${c}`;
    case traces.TRACE_P2M_CLEAR:
      return `p2m of ${domain(a)}: gfn ${hex(b)} := none`;
    case traces.TRACE_FLUSH:
      return `flush for ${domain(a)} waits for ${b}`;
    case traces.TRACE_FRAME_FREED:
      return `frame ${a} of ${domain(b)} is free`;
    case traces.TRACE_EVENT:
      return `event for port ${b} of ${domain(a)}`;
    case traces.TRACE_DOMAIN:
      return `${domain(a)}: life-cycle stage ${b}`;
    default:
      return undefined;
  }
}
