/**
 * The catalogue of points: each place where another task may step, what it stands before, and one sentence. Its hash is
 * in every replay file, because a schedule counts points.
 *
 * Rule: a point costs nothing on threads, where programs do not yield it and the hypervisor's memory has no hook. Which object a
 * point is about is seen at the access that follows it. Ours; groups are those of stress spec section 2.3.
 */
export type PointKind = "R" | "W" | "RMW" | "WAIT" | "FLUSH" | "GAP" | "ENTRY";

export interface Point {
  readonly id: string;
  readonly group: string;
  readonly kinds: readonly PointKind[];
  readonly stands: string;
}

const point = (id: string, group: string, kinds: readonly PointKind[], stands: string): Point => ({
  id,
  group,
  kinds,
  stands,
});

export const POINTS: readonly Point[] = [
  point(
    "guest.access",
    "guest",
    ["R", "W", "RMW"],
    "before each load, store, exchange or burst of a vCPU",
  ),
  point(
    "guest.inside",
    "guest",
    ["R", "W", "RMW"],
    "between translation and use of one access, where a flush may have to wait for it",
  ),
  point(
    "guest.hypercall",
    "channel",
    ["ENTRY"],
    "after a request has been published and before it is taken",
  ),
  point(
    "guest.sleep",
    "channel",
    ["WAIT"],
    "before a vCPU sleeps on its event word, and when that word has changed",
  ),
  point("hv.entry", "hypercall", ["ENTRY"], "before the hypervisor takes the next request"),
  point("hv.return", "hypercall", ["ENTRY"], "after a request has been answered"),
  point(
    "hv.gap.preempt",
    "hypercall",
    ["GAP"],
    "between elements of a batch, and between stages of a teardown",
  ),
  point(
    "hv.gap.flush",
    "TLB model",
    ["FLUSH"],
    "while the walkers that were inside an access have not left it",
  ),
  point("hv.gap.poll", "event channels", ["WAIT"], "while a vCPU polls"),
  point(
    "hv.arguments",
    "hypercall",
    ["R", "W"],
    "before each copy of a structure or a list entry from or to a guest",
  ),
  point(
    "hv.grant.header",
    "grant entry, hypervisor side",
    ["R", "RMW"],
    "before the header of a shared entry is loaded or exchanged",
  ),
  point(
    "hv.grant.frame",
    "grant entry, hypervisor side",
    ["R"],
    "before the frame word of a shared entry is loaded",
  ),
  point(
    "hv.event.word",
    "event channels",
    ["R", "RMW"],
    "before a pending, mask or selector bit is tested or changed",
  ),
  point(
    "hv.event.fifo",
    "event channels",
    ["R", "RMW"],
    "before a FIFO event word or queue head is read or changed",
  ),
  point("device.access", "device", ["R", "W"], "before each burst of a device"),
  point("device.inside", "device", ["R", "W"], "between translation and use of a burst"),
  point(
    "drain",
    "memory",
    ["W"],
    "before one plain store leaves a store buffer, in tso and relaxed",
  ),
  point("fault", "faults", ["ENTRY"], "before a fault takes its step"),
];

/** Hash of the catalogue: a schedule recorded with another one may not mean the same. */
export function pointsHash(): string {
  let hash = 0x811c9dc5;
  for (const { id } of POINTS) {
    for (let i = 0; i < id.length; i++) hash = Math.imul(hash ^ id.charCodeAt(i), 0x01000193);
  }
  return (hash >>> 0).toString(16).padStart(8, "0");
}
