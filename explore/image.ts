/**
 * A booted machine, kept so that the next run starts from it without booting again: the control words as they were
 * after boot, and the frames that boot has written. Thousands of runs a second need this; a boot takes longer than
 * a run of a small machine.
 *
 * Rules: an image lends its buffers to one machine at a time, and the machine before it is over. What the hypervisor
 * keeps outside the buffers is little, and is emptied with them.
 * Ours (design 10.3).
 */
import { bootHypervisor } from "../hypervisor/main.ts";
import { putBackXen, type Xen } from "../hypervisor/xen.ts";
import { assert } from "../shared/assert.ts";
import { type Layout, layoutOf, machineBytes } from "../shared/layout.ts";
import type { MachineModel } from "../shared/machine.ts";
import { type FrameContent, WatchedMemory, type Words, wordsOf } from "../shared/mem.ts";
import { FrameIndex } from "../shared/units.ts";

export interface MachineImage {
  readonly model: MachineModel;
  readonly xen: Xen;
  readonly layout: Layout;
  readonly words: Words;
  readonly memory: WatchedMemory;
  readonly bootWords: Words;
  /** By frame. */
  readonly frames: readonly FrameContent[];
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
  const frames = Array.from({ length: layout.frames }, (_, frame) =>
    memory.content(FrameIndex(frame)),
  );
  memory.putBack();
  return { model, xen, layout, words, memory, bootWords: words.slice(), frames };
}

/** Puts the buffers back to what they were in the image: the frames written since, and all words. */
export function restoreImage(image: MachineImage): Xen {
  const { words, memory, frames } = image;
  memory.onGuestWord = undefined;
  memory.onTouch = undefined;
  memory.onFlush = undefined;
  memory.plain = undefined;
  words.set(image.bootWords);
  memory.putBack(frames);
  putBackXen(image.xen);
  return image.xen;
}
