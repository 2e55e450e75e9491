/**
 * A booted machine, kept so that the next run starts from it without booting again: the control words as they were
 * after boot, and the frames that boot has written. Thousands of runs a second need this; a boot takes longer than
 * a run of a small machine.
 *
 * Rules: an image lends its buffers to one machine at a time, and the machine before it is over; what the hypervisor
 * keeps outside the buffers is empty after boot, so a fresh struct Xen over restored buffers is the booted one.
 * Ours (design 10.3).
 */
import { bootHypervisor } from "../hypervisor/main.ts";
import { type Xen, xenOf } from "../hypervisor/xen.ts";
import { assert } from "../shared/assert.ts";
import { type Layout, layoutOf, machineBytes } from "../shared/layout.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import type { MachineModel } from "../shared/machine.ts";
import { MachineMemory, type Words, wordsOf } from "../shared/mem.ts";
import { FrameIndex } from "../shared/units.ts";

export interface MachineImage {
  readonly model: MachineModel;
  readonly layout: Layout;
  readonly words: Words;
  readonly memory: MachineMemory;
  readonly bootWords: Words;
  /** Frames that are not empty after boot. */
  readonly bootFrames: readonly { readonly frame: FrameIndex; readonly content: Uint8Array }[];
}

/** Boots a machine and remembers its state. */
export function machineImage(model: MachineModel): MachineImage {
  const layout = layoutOf(model);
  const words = wordsOf(new ArrayBuffer(layout.words * 4));
  const memory = new MachineMemory(new ArrayBuffer(machineBytes(layout)));
  const xen = bootHypervisor(words, memory, layout);
  assert(
    xen.pending.every((handler) => handler === undefined),
    "boot leaves no handler pending",
  );
  const bootFrames: { frame: FrameIndex; content: Uint8Array }[] = [];
  for (let index = 0; index < layout.frames; index++) {
    const frame = FrameIndex(index);
    const content = new Uint8Array(PAGE_SIZE);
    memory.read(frame, 0, content, 0, PAGE_SIZE);
    if (content.some((byte) => byte !== 0)) bootFrames.push({ frame, content });
  }
  return { model, layout, words, memory, bootWords: words.slice(), bootFrames };
}

/** Puts the buffers back to where boot left them. */
export function restoreImage(image: MachineImage): Xen {
  const { words, memory, layout } = image;
  words.set(image.bootWords);
  for (let frame = 0; frame < layout.frames; frame++) memory.zero(FrameIndex(frame));
  for (const { frame, content } of image.bootFrames) memory.write(frame, 0, content, 0, PAGE_SIZE);
  memory.onGuestWord = undefined;
  return xenOf(words, memory, layout);
}
