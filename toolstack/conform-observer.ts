/**
 * The observer of the recordings: it reads the machine itself, not through anybody's eyes. Stage 2 entries are
 * taken from the real page tables, by the walk that the hypervisor's own diagnosis uses.
 */
import { entryFrame, p2mLookup, walkSteps } from "../hypervisor/p2m.ts";
import { mfnAt } from "../shared/layout.ts";
import {
  levelFrames,
  P2M_TYPE_NAMES,
  PTE_AF,
  PTE_HIGH_CONTIG,
  PTE_HIGH_XN,
  PTE_READ,
  PTE_VALID,
  PTE_WRITE,
  pteMfn,
  pteType,
} from "../shared/pte.ts";
import { DomId } from "../shared/units.ts";
import type { Fields, Value } from "./conform-format.ts";
import { DOM0_PLACES } from "./conform-model.ts";
import { actorNamed, numberValue, type Replay } from "./conform-replay.ts";

const bit = (word: number, mask: number): number => ((word & mask) !== 0 ? 1 : 0);

function domidOf(replay: Replay, value: Value | undefined): DomId {
  return DomId(numberValue(replay, value));
}

/** The last entry met on the way to an address: `entry` as the recording has it. */
function stage2(replay: Replay, fields: Fields): Fields {
  const gfn = Math.floor(numberValue(replay, fields.addr) / 4096);
  const steps = walkSteps(replay.machine.xen, domidOf(replay, fields.of), gfn);
  const last = steps.at(-1);
  if (last === undefined) return { entry: { level: 0, valid: 0 } };
  const { level, word, high } = last;
  if (word === 0) return { entry: { level, valid: 0 } };
  const mfn = pteMfn(word, high) + (gfn % levelFrames(level));
  const expected = (fields.entry ?? {}) as Fields;
  return {
    entry: {
      level,
      valid: bit(word, PTE_VALID),
      type: P2M_TYPE_NAMES[pteType(high)] ?? pteType(high),
      read: bit(word, PTE_READ),
      write: bit(word, PTE_WRITE),
      xn: bit(high, PTE_HIGH_XN),
      af: bit(word, PTE_AF),
      sh: (word >>> 8) & 3,
      mattr: (word >>> 2) & 15,
      contig: bit(high, PTE_HIGH_CONTIG),
      mfn: mfnText(replay, expected.mfn, mfn, gfn),
    },
  };
}

/** A frame as the recording names it. "other" is any frame: which one the allocator hands out is no promise. */
function mfnText(replay: Replay, expected: Value | undefined, mfn: number, gfn: number): Value {
  if (expected === "other") return expected;
  if (expected === "identity") return mfn === gfn ? expected : mfn;
  if (typeof expected === "string" && numberValue(replay, expected) === mfn) return expected;
  for (const [name, frames] of replay.initial) {
    const page = frames.indexOf(mfn);
    if (page >= 0) return `$mfn(${name}.f${page})`;
  }
  return mfn;
}

/** Whether the frame number and the first machine frame of a page are the same. */
function compare(replay: Replay, fields: Fields): Fields {
  const gfn = numberValue(replay, fields.gfn_of);
  const mfn = numberValue(replay, `$mfn(${String(fields.mfn_of).slice(1)})`);
  return { equal: gfn === mfn };
}

/** Whether the frame behind a gfn was RAM of Dom0 at the start. */
function ownerOfFrame(replay: Replay, fields: Fields): Fields {
  const { xen, layout } = replay.machine;
  const entry = p2mLookup(xen, domidOf(replay, fields.of), numberValue(replay, fields.gfn));
  const mfn = mfnAt(layout, entryFrame(entry));
  const first = DOM0_PLACES.ram;
  return { is_former_dom0_frame: mfn >= first && mfn < first + DOM0_PLACES.ramPages };
}

/** What the observer sees at this step; undefined: something that it does not do. */
export function replayObserver(replay: Replay, fields: Fields): Fields | undefined {
  switch (fields.do) {
    case "stage2":
      actorNamed(replay, String(fields.of).slice(1));
      return stage2(replay, fields);
    case "compare":
      return compare(replay, fields);
    case "owner_of_frame":
      return ownerOfFrame(replay, fields);
    default:
      return undefined;
  }
}
