/**
 * What a handler is watched for while words change under its hands.
 *
 * Hostile-word mode: a grant header changes just before the hypervisor exchanges it, as often as the run's numbers say. It is
 * sound, because a second vCPU of the granter could do exactly that, and it makes retry loops shallow.
 *
 * Rule: a handler that exchanges one word more often than any bound allows is at fault (I-41). Ours; stress spec section 6.
 */
import { grantFrame } from "../hypervisor/active-entry.ts";
import { CMPXCHG_ATTEMPTS_MAX } from "../shared/limits.ts";
import { TOUCH_ATOMIC, TOUCH_READ, TOUCH_WRITE } from "../shared/mem.ts";
import { FrameIndex } from "../shared/units.ts";
import type { MachineImage } from "./image.ts";
import type { Scheduler } from "./scheduler.ts";
import type { Machine } from "./state.ts";

const EXCHANGE = TOUCH_READ | TOUCH_WRITE | TOUCH_ATOMIC;
/** What the word becomes: an unrelated bit flips, or what was there comes back. */
const UNRELATED_BIT = 0x200;
/** Exchanges of one word by one handler: the bound of the loop, and one that takes back what the loop has done. */
const EXCHANGES_MAX = CMPXCHG_ATTEMPTS_MAX + 1;

export function watchHostileWords(
  machine: Machine,
  image: MachineImage,
  scheduler: Scheduler,
  hostile: readonly number[],
): void {
  const frames = hostile.map((domid) => grantFrame(machine.xen, domid, 0) as number);
  const { memory } = image;
  let stretch = -1;
  let word = -1;
  let exchanges = 0;
  let meddling = false;
  memory.onTouch = (kind, frame, offset) => {
    if (meddling || !machine.inHandler || kind !== EXCHANGE || !frames.includes(frame)) return;
    const same = machine.turns === stretch && word === offset;
    stretch = machine.turns;
    word = offset;
    exchanges = same ? exchanges + 1 : 1;
    if (exchanges === EXCHANGES_MAX + 1) {
      machine.findings.push(
        `I-41: a handler exchanges word ${offset} of frame ${frame} again and again`,
      );
    }
    // Somebody must come to an end of it, so that the finding is heard.
    if (exchanges > EXCHANGES_MAX || scheduler.number(4) === 0) return;
    meddling = true;
    const at = FrameIndex(frame);
    memory.store(at, offset, memory.load(at, offset) ^ UNRELATED_BIT);
    meddling = false;
  };
}
