/**
 * Watches what memory handlers touch: no page that is free (I-43), and of a guest's own pages only those of who is calling, and
 * those that somebody holds besides their owner, such as the end of a copy or a page of events (I-33). What a handler takes from
 * a guest's own pages as an argument it takes once between two gaps: what is used is what was judged (I-26).
 *
 * A page that has been freed and given to somebody else since is another one: what was found out about it before a gap is asked
 * for again (I-12, I-16). Rule: it looks and changes nothing; what others do inside a handler's points is theirs.
 * Ours; stress spec section 4.
 */
import { hasFlag, slotDomain } from "../hypervisor/xen.ts";
import { at } from "../shared/assert.ts";
import {
  PGC_allocated,
  PGC_count_mask,
  PGC_state_free,
  PGC_xen_heap,
} from "../shared/frame-flags.ts";
import { CDF_creation_finished } from "../shared/layout.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import { TOUCH_READ, TOUCH_WRITE, type WatchedMemory } from "../shared/mem.ts";
import type { MachineImage } from "./image.ts";
import type { Machine } from "./state.ts";

export function watchHandlerMemory(
  machine: Machine,
  { memory, words, layout }: MachineImage,
): void {
  const before = memory.onTouch;
  const say = (text: string): void => {
    if (machine.findings.at(-1) !== text) machine.findings.push(text);
  };
  const isRepeated = argumentWatch(machine, memory);
  memory.onTouch = (kind, frame, offset, length) => {
    before?.(kind, frame, offset, length);
    if (!machine.inHandler || machine.inPoint || machine.auditing) return;
    if (frame >= layout.ramFrames) return;
    const word = at(words, layout.frameCount + frame);
    if (isRepeated(kind, frame, offset, length))
      say(`I-26: a handler takes the argument at frame ${frame} +${offset} a second time`);
    if ((word & PGC_state_free) !== 0) say(`I-43: a handler touches frame ${frame}, which is free`);
    else if ((kind & TOUCH_WRITE) !== 0 && isOnlyOwned(word)) {
      const owner = at(words, layout.frameOwner + frame);
      if (isBystander(machine, owner)) {
        say(`I-33: a handler writes to frame ${frame} of domain ${owner}, which nobody holds`);
      }
    }
  };
}

/** Whether a plain read is of an argument, some of which the handler has had since its last gap. */
function argumentWatch(
  machine: Machine,
  memory: WatchedMemory,
): (kind: number, frame: number, offset: number, length: number) => boolean {
  const point = memory.onGuestWord;
  const taken = new Set<number>();
  let turn = -1;
  // The point stands right before the access that it is for; pages that are copied for a guest have none.
  let isNext = false;
  memory.onGuestWord = () => {
    point?.();
    isNext = true;
  };
  return (kind, frame, offset, length) => {
    const isArgument = isNext && kind === TOUCH_READ;
    isNext = false;
    if (machine.turns !== turn) taken.clear();
    turn = machine.turns;
    if (!isArgument) return false;
    let isRepeated = false;
    for (let byte = offset; byte < offset + length; byte++) {
      const place = frame * PAGE_SIZE + byte;
      isRepeated ||= taken.has(place);
      taken.add(place);
    }
    return isRepeated;
  };
}

/** A guest's own page, on which there is no reference but its owner's. */
const isOnlyOwned = (word: number): boolean =>
  (word & (PGC_xen_heap | PGC_allocated | PGC_count_mask)) === (PGC_allocated | 1);

/** Whether a domain has been built, and none of its vCPUs is in a call. */
function isBystander({ xen, actors }: Machine, domid: number): boolean {
  if (domid < 0 || !hasFlag(xen, domid, CDF_creation_finished)) return false;
  return !actors.some(
    (actor) => actor?.state === "calling" && slotDomain(xen, actor.slot) === domid,
  );
}
