/**
 * A booted machine, kept so that the next run starts from it without booting again: the control words as they were
 * after boot, and the frames that boot has written. Thousands of runs a second need this; a boot takes longer than
 * a run of a small machine.
 *
 * Rules: an image lends its buffers to one machine at a time, and the machine before it is over; what the hypervisor
 * keeps outside the buffers is empty then, so a fresh struct Xen over restored buffers is the booted one.
 * Ours (design 10.3).
 */
import { bootHypervisor } from "../hypervisor/main.ts";
import { type Xen, xenOf } from "../hypervisor/xen.ts";
import { assert } from "../shared/assert.ts";
import { type Layout, layoutOf, machineBytes } from "../shared/layout.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import type { MachineModel } from "../shared/machine.ts";
import { type MachineMemory, WatchedMemory, type Words, wordsOf } from "../shared/mem.ts";
import { FrameIndex } from "../shared/units.ts";

export interface MachineImage {
  readonly model: MachineModel;
  readonly layout: Layout;
  readonly words: Words;
  readonly memory: WatchedMemory;
  readonly bootWords: Words;
  /** By frame: its content, for frames that are not empty. */
  readonly frames: readonly (Uint8Array | undefined)[];
}

/** Boots a machine, lets `setUp` bring it where its runs begin, and remembers its state. */
export function machineImage(model: MachineModel, setUp?: (xen: Xen) => void): MachineImage {
  const layout = layoutOf(model);
  const words = wordsOf(new ArrayBuffer(layout.words * 4));
  const memory = new WatchedMemory(new ArrayBuffer(machineBytes(layout)));
  const xen = bootHypervisor(words, memory, layout);
  setUp?.(xen);
  assert(
    xen.pending.every((handler) => handler === undefined),
    "no handler is pending in an image",
  );
  const frames = Array.from({ length: layout.frames }, (_, frame) => contentOf(memory, frame));
  memory.cleanse(() => {});
  return { model, layout, words, memory, bootWords: words.slice(), frames };
}

function contentOf(memory: MachineMemory, frame: number): Uint8Array | undefined {
  const content = new Uint8Array(PAGE_SIZE);
  memory.read(FrameIndex(frame), 0, content, 0, PAGE_SIZE);
  return content.some((byte) => byte !== 0) ? content : undefined;
}

/** Puts the buffers back to what they were in the image: the frames written since, and all words. */
export function restoreImage(image: MachineImage): Xen {
  const { words, memory, layout, frames } = image;
  memory.onGuestWord = undefined;
  memory.onTouch = undefined;
  memory.onFlush = undefined;
  memory.plain = undefined;
  words.set(image.bootWords);
  memory.cleanse((frame) => {
    const content = frames[frame];
    if (content === undefined) memory.zero(frame);
    else memory.write(frame, 0, content, 0, PAGE_SIZE);
  });
  return xenOf(words, memory, layout);
}
