/**
 * Map and unmap without a channel: the hypervisor's own handlers called in this thread, and yardstick L, a bare loop
 * over the same tables that takes a header, a reference, a handle and an entry, and gives them back, checking nothing.
 */
import { activeFrame, grantFrame } from "../../hypervisor/active-entry.ts";
import { grantTableOp } from "../../hypervisor/grant-table.ts";
import { walkSteps } from "../../hypervisor/p2m.ts";
import type { Caller, Preemptible } from "../../hypervisor/xen.ts";
import {
  GNTMAP_host_map,
  GNTTABOP_map_grant_ref,
  GNTTABOP_unmap_grant_ref,
  GTF_permit_access,
  GTF_reading,
  GTF_writing,
} from "../../shared/abi/grant.ts";
import { assert, at } from "../../shared/assert.ts";
import { GRANT_ENTRY_BYTES, PAGE_SIZE } from "../../shared/limits.ts";
import { DomId } from "../../shared/units.ts";
import {
  checkBatch,
  type GrantBatch,
  grantBatch,
  publishMaps,
  publishUnmaps,
  refOf,
} from "../grant-batch.ts";
import { bootOneThread, type OneThread } from "../one-thread.ts";
import { pushRecord } from "../raw-guest.ts";
import type { Job, Setup } from "../worker-api.ts";

/** Resumes a handler at once wherever it lets go; nobody is inside an access here. */
function finish(answer: number | Preemptible): void {
  let result = answer;
  while (typeof result !== "number") {
    const next = result.next();
    if (next.done === true) result = next.value;
  }
  if (result !== 0) throw new Error(`the handler answered ${result}`);
}

export function handlers(setup: Setup): Job {
  const { xen, mapper, granter } = bootOneThread();
  const { batch: count = 32 } = setup;
  const batch = grantBatch(mapper, granter, count);
  const caller: Caller = { slot: mapper.slot, domid: DomId(mapper.domid) };
  return {
    per: count,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) {
        publishMaps(batch);
        finish(grantTableOp(xen, caller, GNTTABOP_map_grant_ref, batch.mapAt, count));
        publishUnmaps(batch);
        finish(grantTableOp(xen, caller, GNTTABOP_unmap_grant_ref, batch.unmapAt, count));
      }
    },
    end: () => checkBatch(batch),
  };
}

/** Word indexes of what one element of the bare loop touches. */
interface Places {
  /** In machine memory: the grant header and the leaf entry. */
  readonly headers: Int32Array;
  readonly entries: Int32Array;
  readonly leaves: Int32Array;
  /** In the control words: reference count of the frame, pin of the active entry. */
  readonly counts: Int32Array;
  readonly pins: Int32Array;
}

/** Maps once by the real handlers, looks where everything lies, and unmaps. */
function placesOf(machine: OneThread, batch: GrantBatch): Places {
  const { xen, mapper, granter, cells } = machine;
  const { layout } = xen;
  publishMaps(batch);
  pushRecord(mapper, batch.mapCall);
  const table = grantFrame(xen, DomId(granter.domid), 0);
  const row = granter.domid * xen.model.limits.grantFrames * (PAGE_SIZE / GRANT_ENTRY_BYTES);
  const steps = Array.from({ length: batch.count }, (_, i) => {
    const step = walkSteps(xen, DomId(mapper.domid), batch.gfn + i).at(-1);
    assert(step !== undefined, "a mapped gfn has a leaf");
    return (step.table * PAGE_SIZE + step.slot * 8) / 4;
  });
  const of = (place: (i: number) => number): Int32Array =>
    Int32Array.from({ length: batch.count }, (_, i) => place(i));
  const places = {
    headers: of((i) => (table * PAGE_SIZE + refOf(i) * GRANT_ENTRY_BYTES) / 4),
    entries: of((i) => steps[i] ?? 0),
    leaves: of((i) => at(cells, steps[i] ?? 0)),
    counts: of((i) => layout.frameCount + activeFrame(xen, DomId(granter.domid), refOf(i))),
    pins: of((i) => layout.actPin + row + refOf(i)),
  };
  publishUnmaps(batch);
  pushRecord(mapper, batch.unmapCall);
  checkBatch(batch);
  return places;
}

export function tables(setup: Setup): Job {
  const machine = bootOneThread();
  const { batch: count = 32 } = setup;
  const places = placesOf(machine, grantBatch(machine.mapper, machine.granter, count));
  const free = GTF_permit_access | (machine.mapper.domid << 16);
  const loop = bareLoop(machine, places, free);
  let failed = 0;
  return {
    per: count,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) failed += loop();
    },
    end: () => assert(failed === 0, "every header was free"),
  };
}

/** One turn: maps every element, then unmaps it. Returns the number of headers that were taken. */
function bareLoop(machine: OneThread, places: Places, free: number): () => number {
  const { board, granter, cells } = machine;
  const { words, layout } = board;
  const { headers, entries, leaves, counts, pins } = places;
  const count = headers.length;
  const { trackRef, trackDomid, trackFlags } = layout;
  const inUse = GTF_reading | GTF_writing;
  const handles = new Int32Array(count);
  // A list of its own, first in, first out, through rows of a domain that maps nothing.
  for (let i = 0; i <= count; i++) words[trackRef + i] = i + 1;
  let head = 0;
  let tail = count;
  return () => {
    let failed = 0;
    for (let i = 0; i < count; i++) {
      const header = headers[i] ?? 0;
      if (Atomics.compareExchange(cells, header, free, free | inUse) !== free) failed++;
      words[counts[i] ?? 0] = (words[counts[i] ?? 0] ?? 0) + 1;
      words[pins[i] ?? 0] = 1;
      const handle = head;
      head = words[trackRef + handle] ?? 0;
      words[trackRef + handle] = i;
      words[trackDomid + handle] = granter.domid;
      cells[entries[i] ?? 0] = leaves[i] ?? 0;
      words[trackFlags + handle] = GNTMAP_host_map;
      handles[i] = handle;
    }
    for (let i = 0; i < count; i++) {
      const handle = handles[i] ?? 0;
      cells[entries[i] ?? 0] = 0;
      words[trackFlags + handle] = 0;
      words[trackRef + tail] = handle;
      tail = handle;
      words[counts[i] ?? 0] = (words[counts[i] ?? 0] ?? 0) - 1;
      words[pins[i] ?? 0] = 0;
      Atomics.and(cells, headers[i] ?? 0, ~inUse);
    }
    return failed;
  };
}
