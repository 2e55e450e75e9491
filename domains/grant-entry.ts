/**
 * One entry of the own grant table, in either version: published, closed, read back.
 *
 *   version 1   frame, then domid and flags in one word; closed by one compare-and-exchange of that word
 *   version 2   frame (64 bits), then domid and flags; closed by clearing the flags, and then Xen's status word is read
 *
 * Rules: the header goes last and in one atomic store. While Xen reads or writes through an entry, closing it fails: a
 * version 1 entry then stays open as it was, a version 2 entry is closed for newcomers and not free yet.
 * Behaviour: Linux drivers/xen/grant-table.c, gnttab_update_entry_v1() and _v2(), gnttab_end_foreign_access_ref_v1() and _v2().
 */
import {
  GRANT_ENTRY_FRAME,
  GRANT_ENTRY_FRAME_V2,
  GRANT_ENTRY_HEADER,
  GTF_reading,
  GTF_readonly,
  GTF_writing,
} from "../shared/abi/grant.ts";
import { assert, item } from "../shared/assert.ts";
import {
  GRANT_END_ATTEMPTS_MAX,
  GRANT_ENTRIES_PER_FRAME,
  GRANT_ENTRIES_PER_FRAME_V2,
  GRANT_ENTRY_BYTES,
  GRANT_ENTRY_BYTES_V2,
  GRANT_STATUS_PER_FRAME,
  PAGE_SIZE,
} from "../shared/limits.ts";
import type { Program } from "../shared/trap.ts";
import { noteGrant } from "./history.ts";
import type { Kernel } from "./kernel.ts";
import { compareExchangeWord, loadWord, storeWord } from "./memory.ts";

/** grefs_per_grant_frame of a version. */
export const entriesPerFrame = (version: 1 | 2): number =>
  version === 1 ? GRANT_ENTRIES_PER_FRAME : GRANT_ENTRIES_PER_FRAME_V2;

/** Status frames that go with a number of grant frames. */
export const statusFramesFor = (frames: number): number =>
  Math.ceil((frames * GRANT_ENTRIES_PER_FRAME_V2) / GRANT_STATUS_PER_FRAME);

/** Guest address of an entry, which lies in a frame mapped so far. */
function entryAddress(kernel: Kernel, ref: number): number {
  const { grants } = kernel.memory;
  const perFrame = entriesPerFrame(grants.version);
  const frame = Math.floor(ref / perFrame);
  assert(frame < grants.frameCount, "a reference lies in a mapped grant frame");
  const bytes = grants.version === 1 ? GRANT_ENTRY_BYTES : GRANT_ENTRY_BYTES_V2;
  return item(grants.framePfns, frame) * PAGE_SIZE + (ref % perFrame) * bytes;
}

/** gnttab_update_entry: `flags` are GTF_*. */
export function* updateEntry(
  kernel: Kernel,
  ref: number,
  domid: number,
  frame: number,
  flags: number,
): Program {
  const entry = entryAddress(kernel, ref);
  if (kernel.memory.grants.version === 1) {
    yield* storeWord(kernel.cpu, entry + GRANT_ENTRY_FRAME, frame);
  } else {
    yield* storeWord(kernel.cpu, entry + GRANT_ENTRY_FRAME_V2, frame | 0);
    const high = Math.floor(frame / 4294967296);
    yield* storeWord(kernel.cpu, entry + GRANT_ENTRY_FRAME_V2 + 4, high);
  }
  const published = noteGrant(kernel.cpu, ref, domid, (flags & GTF_readonly) !== 0);
  yield* storeWord(kernel.cpu, entry + GRANT_ENTRY_HEADER, flags | (domid << 16));
  published();
}

/** Frame number that an entry names: read_frame. */
export function* readFrame(kernel: Kernel, ref: number): Program<number> {
  const entry = entryAddress(kernel, ref);
  if (kernel.memory.grants.version === 1) {
    return (yield* loadWord(kernel.cpu, entry + GRANT_ENTRY_FRAME)) >>> 0;
  }
  const low = (yield* loadWord(kernel.cpu, entry + GRANT_ENTRY_FRAME_V2)) >>> 0;
  return low + (yield* loadWord(kernel.cpu, entry + GRANT_ENTRY_FRAME_V2 + 4)) * 4294967296;
}

/** 1 when nobody has it and nobody can get it any more, 0 while it is in use. */
export function* closeEntry(kernel: Kernel, ref: number): Program<number> {
  return kernel.memory.grants.version === 1
    ? yield* closeEntryV1(kernel, ref)
    : yield* closeEntryV2(kernel, ref);
}

function* closeEntryV1(kernel: Kernel, ref: number): Program<number> {
  const header = entryAddress(kernel, ref) + GRANT_ENTRY_HEADER;
  let found = yield* loadWord(kernel.cpu, header);
  for (let attempt = 0; attempt < GRANT_END_ATTEMPTS_MAX; attempt++) {
    if ((found & (GTF_reading | GTF_writing)) !== 0) return 0;
    // Flags to zero; domid and frame stay where they are.
    const expected = found;
    found = yield* compareExchangeWord(kernel.cpu, header, expected, expected & ~0xffff);
    if (found === expected) return 1;
  }
  return 0;
}

function* closeEntryV2(kernel: Kernel, ref: number): Program<number> {
  const header = entryAddress(kernel, ref) + GRANT_ENTRY_HEADER;
  const found = yield* loadWord(kernel.cpu, header);
  yield* storeWord(kernel.cpu, header, found & ~0xffff);
  const page = item(kernel.memory.grants.statusPfns, Math.floor(ref / GRANT_STATUS_PER_FRAME));
  const half = ref % GRANT_STATUS_PER_FRAME;
  const word = yield* loadWord(kernel.cpu, page * PAGE_SIZE + (half >> 1) * 4);
  return ((word >>> ((half & 1) * 16)) & (GTF_reading | GTF_writing)) === 0 ? 1 : 0;
}
