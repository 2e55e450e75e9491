/** What the comparison of a refusal looks at beside the control words: translations, and pages of Xen that guests see. */

import { isXenHeap } from "../../hypervisor/frame-table.ts";
import { scanP2m } from "../../hypervisor/p2m-scan.ts";
import { domainField, type Xen } from "../../hypervisor/xen.ts";
import { DOM } from "../../shared/layout.ts";
import { NOT_PRESENT, PAGE_SIZE } from "../../shared/limits.ts";
import { FrameIndex } from "../../shared/units.ts";
import type { World } from "./world.ts";

/** Pages of Xen that a guest owns, as they were. */
export interface SharedPage {
  readonly frame: FrameIndex;
  readonly content: Int32Array;
}

/** Compares words in one go: there are tens of thousands after each refusal. */
export const isSame = (one: Int32Array, other: Int32Array, from: number, end: number): boolean =>
  bytesOf(one, from, end).equals(bytesOf(other, from, end));
const bytesOf = (words: Int32Array, from: number, end: number): Buffer =>
  Buffer.from(words.buffer, words.byteOffset + from * 4, (end - from) * 4);

/** A sum over all pages of all P2Ms: the same for a block and for the pages it was broken into. */
export function translationsOf(world: World): number {
  const { xen } = world;
  let sum = 0;
  for (const domid of world.domains()) {
    if (domainField(xen, domid, DOM.P2M_ROOT) === NOT_PRESENT) continue;
    scanP2m(xen, domid, 0, (gfn, frame, type, order) => {
      for (let i = 0; i < 2 ** order; i++) {
        const page = Math.imul((gfn + i) | 0, 0x9e37_79b1) ^ Math.imul(frame + i, 0x85eb_ca77);
        sum = (sum + Math.imul(page ^ (type << 8) ^ domid, 0xc2b2_ae3d)) | 0;
      }
      return true;
    });
  }
  return sum;
}

export function sharedPages(xen: Xen): readonly SharedPage[] {
  const pages: SharedPage[] = [];
  for (let index = 0; index < xen.model.limits.xenHeapPages; index++) {
    if (!isXenHeap(xen, index) || (xen.words[xen.layout.frameOwner + index] ?? -1) < 0) continue;
    const frame = FrameIndex(index);
    const content = new Int32Array(PAGE_SIZE / 4);
    xen.memory.read(frame, 0, new Uint8Array(content.buffer), 0, PAGE_SIZE);
    pages.push({ frame, content });
  }
  return pages;
}
