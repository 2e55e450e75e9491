/**
 * What the drivers of user-space devices keep for the whole kernel, beyond any open file.
 * Behaviour: Linux drivers/xen/gntalloc.c (gref_list).
 */
import type { Pfn } from "../shared/units.ts";

/** One page that gntalloc has granted (struct gntalloc_gref). */
export interface GntallocGref {
  readonly page: Pfn;
  readonly ref: number;
  /** Byte offset in its file. */
  readonly index: number;
  /** The file's list, and each mapping. */
  users: number;
  /** UNMAP_NOTIFY_*, byte in the page, port. */
  notify: { readonly action: number; readonly offset: number; readonly port: number };
}

export interface UserState {
  /** Pages that gntalloc has granted and nobody has ended. */
  readonly grefs: GntallocGref[];
  /** References that were ended while the peer still had them: they count until the peer lets go. */
  readonly endedRefs: number[];
}

export const createUserState = (): UserState => ({
  grefs: [],
  endedRefs: [],
});
