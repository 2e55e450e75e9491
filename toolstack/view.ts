/**
 * The machine as readers have it: bytes and where they lie. A machine that runs, one that has ended, a copy of one and
 * one that was replayed from a recording all look the same to a reader.
 * Ours (design 10.3).
 */
import { at } from "../shared/assert.ts";
import { DOM, domainOf, type Layout } from "../shared/layout.ts";
import type { MachineMemory, Words } from "../shared/mem.ts";

export interface View {
  readonly layout: Layout;
  readonly words: Words;
  readonly memory: MachineMemory;
}

/** Name in the machine description of the domain that has, or last had, the id. */
export function domainName(view: View, domid: number): string {
  const index = at(view.words, domainOf(view.layout, domid) + DOM.MODEL);
  return view.layout.model.domains[index]?.name ?? `domain ${domid}`;
}
