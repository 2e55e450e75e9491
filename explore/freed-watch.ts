/**
 * Watches that no handler touches a page that is free: whoever holds a number of something that has been freed holds nothing.
 * A page that has been given to somebody else since is another one, whose generation has changed: what was found out about it
 * before a gap is asked for again (I-12, I-16).
 *
 * Rule: it looks and changes nothing; what others do inside a handler's points is theirs. Ours; stress spec section 4 (I-43).
 */
import { PGC_state_free } from "../shared/frame-flags.ts";
import type { MachineImage } from "./image.ts";
import type { Machine } from "./state.ts";

export function watchFreed(machine: Machine, { memory, words, layout }: MachineImage): void {
  const before = memory.onTouch;
  const counts = layout.frameCount;
  const frames = layout.ramFrames;
  memory.onTouch = (kind, frame, offset, length) => {
    before?.(kind, frame, offset, length);
    if (!machine.inHandler || machine.inPoint || machine.auditing || frame >= frames) return;
    if (((words[counts + frame] ?? 0) & PGC_state_free) === 0) return;
    const text = `I-43: a handler touches frame ${frame}, which is free`;
    if (machine.findings.at(-1) !== text) machine.findings.push(text);
  };
}
