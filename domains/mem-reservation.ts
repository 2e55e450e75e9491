/**
 * The two hypercalls that give RAM to Xen and take it back, for the balloon and for grant DMA buffers.
 *
 * Rules: increase takes pfns and fills holes; decrease takes gfns (equal to pfns here). Both return the extents
 * done, 0 to n, or a negative errno when the first call fails.
 * Behaviour: Linux drivers/xen/mem-reservation.c. The kernel mappings of PV guests have no counterpart here.
 */
import {
  RESERVATION_DOMID,
  RESERVATION_EXTENT_START,
  RESERVATION_NR_EXTENTS,
  RESERVATION_SIZE,
  XENMEM_decrease_reservation,
  XENMEM_populate_physmap,
} from "../shared/abi/memory.ts";
import { DOMID_SELF } from "../shared/abi/xen.ts";
import { item } from "../shared/assert.ts";
import type { Program } from "../shared/trap.ts";
import type { Pfn } from "../shared/units.ts";
import { freshArguments, memoryOp, setU64 } from "./hypercalls.ts";
import { ARGUMENT_BYTES, type Kernel } from "./kernel.ts";

/** Frame numbers of one call: what the argument area has room for beside the structure. */
export const RESERVATION_FRAMES_MAX = (ARGUMENT_BYTES - RESERVATION_SIZE) / 8;

function* reservation(kernel: Kernel, command: number, frames: readonly Pfn[]): Program<number> {
  let done = 0;
  while (done < frames.length) {
    const count = Math.min(frames.length - done, RESERVATION_FRAMES_MAX);
    const size = RESERVATION_SIZE + 8 * count;
    const view = freshArguments(kernel, size);
    setU64(view, RESERVATION_EXTENT_START, kernel.arguments.gaddr + RESERVATION_SIZE);
    setU64(view, RESERVATION_NR_EXTENTS, count);
    view.setUint16(RESERVATION_DOMID, DOMID_SELF, true);
    for (let i = 0; i < count; i++) {
      setU64(view, RESERVATION_SIZE + 8 * i, item(frames, done + i));
    }
    const rc = yield* memoryOp(kernel, command, size);
    if (rc < 0) return done > 0 ? done : rc;
    done += rc;
    if (rc < count) break;
  }
  return done;
}

/** Puts RAM behind `frames` (pfns); their content is whatever Xen hands out. */
export function* xenmemReservationIncrease(
  kernel: Kernel,
  frames: readonly Pfn[],
): Program<number> {
  return yield* reservation(kernel, XENMEM_populate_physmap, frames);
}

/** Gives the RAM behind `frames` (gfns) to Xen: an access to them faults afterwards. */
export function* xenmemReservationDecrease(
  kernel: Kernel,
  frames: readonly Pfn[],
): Program<number> {
  return yield* reservation(kernel, XENMEM_decrease_reservation, frames);
}
