// Random calls of PV guests with likely and unlikely arguments: whatever they do, the machine stays as it should be.
import { expect, it } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { KNOWN_FINDING } from "../../hypervisor/audit-walkers.ts";
import { XEN_DOMCTL_destroydomain, XEN_DOMCTL_max_mem } from "../../shared/abi/domctl.ts";
import { GNTTABOP_set_version } from "../../shared/abi/grant.ts";
import {
  XENMEM_decrease_reservation,
  XENMEM_increase_reservation,
} from "../../shared/abi/memory.ts";
import { DOMID_SELF, HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { DOM, mfnAt } from "../../shared/layout.ts";
import { ACCESS_OK, ACCESS_READ, ACCESS_WRITE } from "../../shared/mmu.ts";
import { domctl, field } from "./domains.ts";
import { argumentAddress, copyOne, map, setEntry } from "./grants.ts";
import { type Actor, call, probe, writeWord } from "./harness.ts";
import { exchange, reserve } from "./memory-calls.ts";
import {
  mmuextOp,
  mmuUpdate,
  type PvPair,
  pteAddress,
  pvPair,
  replace,
  tableOf,
  transfer,
  unmapHalves,
  updateVa,
  V0,
} from "./pv.ts";

const RUNS = 12;
const CALLS = 150;

/** A draw below `bound`, by a seeded generator. */
type Draw = (bound: number) => number;

function drawFrom(seed: number): Draw {
  let state = seed | 1;
  return (bound) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % bound;
  };
}

interface World extends PvPair {
  readonly draw: Draw;
}

const pick = <T>(draw: Draw, choices: readonly T[]): T => choices[draw(choices.length)] as T;

/** A virtual page: of the RAM (never the page of the arguments), of the room behind it, or nowhere. */
const page = ({ draw }: World): number =>
  pick(draw, [draw(16), V0 + draw(6), V0 + draw(6), draw(239), 2 ** 30, 2 ** 36 - 1]);

/** A frame: of somebody's RAM by its page at the start, a table, any frame of the machine, or none. */
function mfn(world: World, actor: Actor): number {
  const { machine, draw } = world;
  const { layout } = machine.xen;
  return pick(draw, [
    () => mfnAt(layout, layout.ramFrames - 1 - draw(600)),
    () => mfnAt(layout, draw(layout.ramFrames)),
    () => tableOf(machine, actor, draw(16), 1 + draw(3)).mfn,
    () => mappedAt(world, actor, draw(16)),
    () => mappedAt(world, actor, draw(16)),
    () => 2 ** 40 - 1,
  ])();
}

/** What the guest has at a page, by its entry; a number without a frame when there is none. */
function mappedAt({ machine }: World, actor: Actor, at: number): number {
  const { mfn: table, slot } = tableOf(machine, actor, at, 1);
  const { layout, memory, words } = machine.xen;
  void words;
  const index = table - mfnAt(layout, 0);
  return memory.peek(index as never, slot * 8) >>> 12;
}

const CALL: readonly ((world: World, actor: Actor, other: Actor) => void)[] = [
  (w, actor) => {
    const entry = w.draw(3) === 0 ? undefined : mfn(w, actor);
    updateVa(w.machine, actor, page(w), entry, 1 + 2 * w.draw(2), pick(w.draw, [0, 0, 1, 2, 5]));
  },
  (w, actor) => {
    const at = tableOf(w.machine, actor, w.draw(16), 1 + w.draw(4));
    const value = pick(w.draw, [0, mfn(w, actor) * 4096 + 1 + 2 * w.draw(2)]);
    // Not the entries that lead to the arguments.
    if (at.slot < 200 && at.slot > 0) {
      mmuUpdate(w.machine, actor, [[at.mfn * 4096 + (200 + w.draw(8)) * 8 + w.draw(3), value]]);
    }
  },
  (w, actor) => {
    mmuextOp(w.machine, actor, [[w.draw(5), mfn(w, actor), 0]]);
  },
  (w, actor, other) => {
    setEntry(
      w.machine,
      actor,
      8 + w.draw(3),
      pick(w.draw, [1, 5, 2, 0]),
      other.domid,
      mfn(w, actor),
    );
  },
  (w, actor, other) => {
    const ops = Array.from({ length: 1 + w.draw(3) }, () => {
      const flags = pick(w.draw, [2, 2, 1, 3, 6, 7, 10, 18, 26, 0x10002, 0]);
      const address =
        (flags & 16) === 0 ? page(w) * 4096 : pteAddress(w.machine, actor, w.draw(16));
      const dom = pick(w.draw, [other.domid, actor.domid, 0, 99]);
      const at = { gfn: Math.floor(address / 4096), offset: address % 4096 };
      return { ...at, flags, ref: 8 + w.draw(3), dom };
    });
    map(w.machine, actor, ops);
  },
  (w, actor) => {
    const address = pick(w.draw, [page(w) * 4096, 0, pteAddress(w.machine, actor, w.draw(16))]);
    const device = pick(w.draw, [0, mfn(w, actor) * 4096]);
    const ops = Array.from({ length: 1 + w.draw(3) }, () => ({
      handle: w.draw(6),
      host: address,
      device,
    }));
    unmapHalves(w.machine, actor, ops);
  },
  (w, actor) => {
    replace(w.machine, actor, { handle: w.draw(6), host: page(w) * 4096, device: page(w) * 4096 });
  },
  (w, actor, other) => {
    transfer(w.machine, actor, [
      { mfn: mfn(w, actor), dom: pick(w.draw, [other.domid, 0]), ref: 8 + w.draw(3) },
    ]);
  },
  (w, actor) => {
    const order = w.draw(2);
    const gfns = Array.from({ length: 2 }, () => mfn(w, actor));
    exchange(w.machine, actor, { gfns }, { gfns: order === 0 ? [3, 4] : [3], order });
  },
  (w, actor) => {
    const gfns = [mfn(w, actor), mfn(w, actor)];
    reserve(w.machine, actor, XENMEM_decrease_reservation, { gfns });
  },
  (w, actor) => {
    reserve(w.machine, actor, XENMEM_increase_reservation, { gfns: [0] });
  },
  (w, actor) => {
    const at = argumentAddress(actor);
    writeWord(actor, at, 1 + w.draw(2));
    call(w.machine, actor, HYPERVISOR_grant_table_op, GNTTABOP_set_version, at, 1);
  },
  (w, actor, other) => {
    const sides = [
      { ref: 8 + w.draw(3), dom: other.domid },
      { gfn: mfn(w, actor), dom: DOMID_SELF },
    ] as const;
    copyOne(w.machine, actor, sides[w.draw(2)] ?? sides[0], sides[w.draw(2)] ?? sides[1], 8);
  },
  (w, actor) => {
    const at = page(w);
    // A guest that may write to a page may write what it likes; one that is a table by now it may not.
    if (at < 2 ** 30 && probe(actor, at, ACCESS_READ | ACCESS_WRITE) === ACCESS_OK && at < 200) {
      writeWord(actor, at * 4096, 0);
    }
  },
];

it.each(Array.from({ length: RUNS }, (_, run) => run + 1))(
  "random calls of PV guests leave nothing wrong behind, seed %i",
  (seed) => {
    const draw = drawFrom(seed * 7919);
    const world: World = { ...pvPair(), draw };
    const { machine, a, b } = world;
    for (const { domid } of [a, b]) domctl(machine, XEN_DOMCTL_max_mem, domid, 2048);
    const hostile = (): boolean => true;
    const judge = (what: string): void => {
      const found = audit(machine.xen, { hostile }).filter((one) => !one.startsWith(KNOWN_FINDING));
      expect(found, what).toEqual([]);
    };
    for (let n = 0; n < CALLS; n++) {
      const which = draw(CALL.length);
      const [actor, other] = draw(2) === 0 ? [a, b] : [b, a];
      CALL[which]?.(world, actor, other);
      judge(`call ${n}, kind ${which}, domain ${actor.domid}`);
    }
    for (const { domid } of [b, a]) {
      expect(domctl(machine, XEN_DOMCTL_destroydomain, domid)).toBe(0);
      judge(`domain ${domid} is destroyed`);
    }
    expect([a, b].map(({ domid }) => field(machine.xen, domid, DOM.STATE))).toEqual([0, 0]);
  },
);
