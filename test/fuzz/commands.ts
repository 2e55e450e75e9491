/**
 * Commands: what one actor does next, with its choices. Every command is legal in every state, because its numbers are
 * read from the machine as it is then; so a run can be shortened by leaving out any of them.
 */
import fc from "fast-check";
import { frameOwner, isRamFrame, isXenHeap } from "../../hypervisor/frame-table.ts";
import { guestFrame } from "../../hypervisor/guest-access.ts";
import { entryFrame, P2M_NOTHING, p2mLookup } from "../../hypervisor/p2m.ts";
import { lineField, slotDomain } from "../../hypervisor/xen.ts";
import { indexOf, LINE, SLOT_KIND_DEVICE, WALK_BARE } from "../../shared/layout.ts";
import { ACCESS_EXECUTE, ACCESS_OK, ACCESS_READ, ACCESS_WRITE } from "../../shared/mmu.ts";
import { CONTROL_VCPU_DIED, hypercallTrap, setRecord } from "../../shared/trap.ts";
import { DomId } from "../../shared/units.ts";
import type { Call } from "./call.ts";
import { Draw } from "./draw.ts";
import { anyEntry, type Entry, openEntry, storeEntry } from "./entries.ts";
import { grantCall, useOfShared } from "./grant-calls.ts";
import { memoryCall } from "./memory-calls.ts";
import { controlCall, deviceCall, eventCall, otherCall } from "./other-calls.ts";
import { pvCall } from "./pv-calls.ts";
import type { Refusals } from "./refusal.ts";
import { anyGfn, anyRef, anyWord, isPv, ONES, presentDomid } from "./values.ts";
import { CONTROL_SLOT, Violation, type World } from "./world.ts";

const KINDS = {
  share: 10,
  grant: 5,
  grantOp: 14,
  memoryOp: 10,
  eventOp: 6,
  otherOp: 3,
  access: 5,
  leave: 2,
  device: 2,
  control: 1,
  step: 2,
  settle: 2,
} as const;
type Kind = keyof typeof KINDS;

/** At the `at`-th look of a handler at guest memory, somebody stores `value` where `pick` says. */
interface Meddling {
  readonly at: number;
  readonly pick: number;
  readonly value: number;
}

export interface Command {
  readonly kind: Kind;
  readonly picks: readonly number[];
  readonly meddling: readonly Meddling[];
}

const PICKS = 14;
const u32 = fc.noBias(fc.integer({ min: 0, max: 0xffff_ffff }));

export const anyCommand: fc.Arbitrary<Command> = fc.record({
  kind: fc.oneof(
    ...Object.entries(KINDS).map(([kind, weight]) => ({
      weight,
      arbitrary: fc.constant(kind as Kind),
    })),
  ),
  picks: fc.array(u32, { minLength: PICKS, maxLength: PICKS }),
  meddling: fc.oneof(
    { weight: 4, arbitrary: fc.constant([]) },
    {
      weight: 1,
      arbitrary: fc.array(
        fc.record({ at: fc.noBias(fc.integer({ min: 1, max: 12 })), pick: u32, value: u32 }),
        { minLength: 1, maxLength: 3 },
      ),
    },
  ),
});

/** Does one command; throws a Violation when the machine shows that it is wrong. Returns what happened, in words. */
export function perform(world: World, refusals: Refusals, command: Command): string {
  const draw = new Draw(command.picks);
  world.now = command.kind;
  world.leaveDeadSlots();
  switch (command.kind) {
    case "settle":
      world.settle();
      return "settle";
    case "step":
      for (let steps = draw.below(4); steps >= 0 && world.step(); steps--);
      return "step";
    case "control":
      return request(world, refusals, command, CONTROL_SLOT, controlCall(world, draw), draw);
    case "device": {
      const slot = 1 + draw.below(world.xen.model.devices.length);
      return request(world, refusals, command, slot, deviceCall(draw), draw);
    }
    case "share":
      return share(world, refusals, command, draw);
    case "access":
      return access(world, draw);
    case "leave": {
      const slot = draw.below(world.slots);
      world.close(slot);
      return `slot ${slot} leaves`;
    }
    default:
      return ofVcpu(world, refusals, command, command.kind, draw);
  }
}

function ofVcpu(
  world: World,
  refusals: Refusals,
  command: Command,
  kind: "grant" | "grantOp" | "memoryOp" | "eventOp" | "otherOp",
  draw: Draw,
): string {
  const vcpus = world.liveVcpus();
  if (vcpus.length === 0) return "nobody is there";
  const slot = draw.oneOf(vcpus);
  const domid = slotDomain(world.xen, slot);
  switch (kind) {
    case "grant":
      return writeEntry(world, domid, draw);
    case "grantOp":
      return request(world, refusals, command, slot, grantCall(world, domid, draw), draw);
    case "memoryOp":
      return request(world, refusals, command, slot, memoryCall(world, domid, draw), draw);
    case "eventOp":
      return request(world, refusals, command, slot, eventCall(world, domid, draw), draw);
    case "otherOp": {
      const own = isPv(world.xen, domid) && !draw.once(3);
      const call = own ? pvCall(world, domid, draw) : otherCall(world, domid, draw);
      return request(world, refusals, command, slot, call, draw);
    }
  }
}

/** A granter rewrites an entry of its table, whatever stands there. */
function writeEntry(world: World, domid: DomId, draw: Draw): string {
  const ref = anyRef(draw);
  const entry = anyEntry(world, domid, draw);
  if (!storeEntry(world, domid, ref, entry)) return `no entry ${ref}`;
  return `domain ${domid} writes entry ${ref}: ${textOf(entry)}`;
}

const textOf = ({ header, frame, second }: Entry): string =>
  `header 0x${(header >>> 0).toString(16)}, frame ${frame}, 0x${(second >>> 0).toString(16)}`;

/** One domain offers a page to another, which takes it at once. */
function share(world: World, refusals: Refusals, command: Command, draw: Draw): string {
  const { xen } = world;
  const vcpus = world.liveVcpus();
  if (vcpus.length === 0) return "nobody is there";
  const granter = DomId(presentDomid(xen, draw));
  const slot = draw.oneOf(vcpus);
  const ref = anyRef(draw);
  const entry = openEntry(world, granter, slotDomain(xen, slot), draw);
  if (!storeEntry(world, granter, ref, entry)) return `no entry ${ref}`;
  const call = useOfShared(world, slotDomain(xen, slot), { granter, ref }, draw);
  const used = request(world, refusals, command, slot, call, draw);
  return `domain ${granter} grants ${ref}: ${textOf(entry)}; ${used}`;
}

/** A vCPU or a device enters an access, stores, and leaves or stays. */
function access(world: World, draw: Draw): string {
  const { xen } = world;
  const slots = [...world.liveVcpus(), ...xen.model.devices.keys().map((index) => index + 1)];
  const slot = draw.oneOf(slots);
  const domid = DomId(Math.max(0, slotDomain(xen, slot)));
  const frame = anyGfn(xen, domid, draw);
  if (frame === ONES || !mayHit(world, slot, frame)) return `slot ${slot} stays outside`;
  const kind = draw.oneOf([ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE]);
  const fault = world.open(slot, frame, kind);
  if (fault === ACCESS_OK && kind === ACCESS_WRITE) world.touch(slot, draw.u32(), anyWord(draw));
  const stays = draw.once(4);
  if (!stays) world.close(slot);
  return `slot ${slot} ${stays ? "enters" : "accesses"} frame ${frame} (${kind}): ${fault}`;
}

/** A device on a bare bus reaches Xen's own memory too; what comes of that is not the hypervisor's fault. */
function mayHit(world: World, slot: number, frame: number): boolean {
  const { xen } = world;
  if (lineField(xen, slot, LINE.KIND) !== SLOT_KIND_DEVICE) return true;
  if (lineField(xen, slot, LINE.MODE) !== WALK_BARE) return true;
  const index = indexOf(xen.layout, xen.words, frame);
  return !isRamFrame(xen, index) || (!isXenHeap(xen, index) && frameOwner(xen, index) >= 0);
}

/** Pushes one request and lets the hypervisor work on it for a while; judges a refusal when nobody else was at work. */
function request(
  world: World,
  refusals: Refusals,
  command: Command,
  slot: number,
  call: Call,
  draw: Draw,
): string {
  const { xen } = world;
  const client = world.channel(slot);
  if (!world.isLive(slot) || !client.idle) return world.step() ? "busy: a step" : "busy";
  const domid = slotDomain(xen, slot);
  for (const { gaddr, bytes } of call.memory) world.writeGuest(domid, gaddr, bytes);
  if (call.op === CONTROL_VCPU_DIED && slot === CONTROL_SLOT) {
    // The platform says so only of what has ended.
    const victim = call.args[0] ?? 0;
    if (victim > 0 && victim < world.slots) world.runnerEnds(victim);
  }
  const quiet = world.isQuiet();
  const reachable =
    quiet && call.memory.every(({ gaddr, bytes }) => reaches(world, domid, gaddr, bytes.length));
  if (quiet) refusals.remember();
  world.meddle = meddlingOf(world, domid, call, command.meddling);
  const { record } = hypercallTrap();
  setRecord(record, call.op, call.args);
  world.now = `${nameOf(slot, call)} with ${call.memory.map(hexOf).join(" ")}`;
  client.push(record);
  const patience = draw.once(4) ? draw.below(4) : 1000;
  for (let steps = 0; steps < patience && !client.idle && world.step(); steps++);
  world.meddle = undefined;
  const text = world.now;
  if (!client.idle) return `${text}: under way`;
  const answer = client.result();
  // A guest that rewrites its memory meanwhile may rewrite the statuses as well: then only an errno tells.
  const isTold = answer < 0 || command.meddling.length === 0;
  const mayJudge = quiet && isTold && call.partial !== true;
  if (mayJudge && isRefusal(world, domid, call, answer, reachable)) {
    const found = refusals.differences(
      command.meddling.length > 0 ? EVERY_FRAME : argumentFrames(world, domid, call),
    );
    if (found.length > 0)
      throw new Violation(`${text} was refused with ${answer}, but ${found.join("; ")}`);
  }
  return `${text}: ${answer}${firstStatus(world, domid, call)}`;
}

const nameOf = (slot: number, { op, args }: Call): string =>
  `slot ${slot} asks op ${op} (${args.join(", ")})`;

/** Up to twelve words of an argument. */
const hexOf = ({ gaddr, bytes }: Call["memory"][number]): string =>
  `[0x${gaddr.toString(16)}: ${Array.from({ length: Math.min(12, bytes.length >> 2) }, (_, i) =>
    new DataView(bytes.buffer, bytes.byteOffset).getUint32(i * 4, true).toString(16),
  ).join(" ")}]`;

/** The first element's status, for the log. */
function firstStatus(world: World, domid: DomId, { statuses }: Call): string {
  if (statuses?.known !== true) return "";
  const bytes = world.readGuest(domid, statuses.at, 2);
  return bytes === undefined ? "" : `, status ${new DataView(bytes.buffer).getInt16(0, true)}`;
}

/** Stands for "all of them". */
const EVERY_FRAME: ReadonlySet<number> = { has: () => true } as unknown as ReadonlySet<number>;

const reaches = (world: World, domid: DomId, gaddr: number, length: number): boolean =>
  world.readGuest(domid, gaddr, length) !== undefined;

/** Whether the answer says that nothing was done at all. */
function isRefusal(
  world: World,
  domid: DomId,
  call: Call,
  answer: number,
  reachable: boolean,
): boolean {
  if (call.nothing !== undefined) return answer === call.nothing;
  const { statuses } = call;
  if (answer < 0) {
    // A batch may have done the elements before the one that failed.
    if (statuses !== undefined && statuses.count !== 1) return false;
    // A request that took its own argument away was done, and could not say so; nor could one whose argument lies in a
    // page table of a PV guest, which is read and not written.
    return (
      (!reachable && !isPv(world.xen, domid)) ||
      call.memory.every(({ gaddr, bytes }) => reaches(world, domid, gaddr, bytes.length))
    );
  }
  if (answer !== 0 || statuses === undefined || !statuses.known || statuses.count < 1) return false;
  for (let i = 0; i < statuses.count; i++) {
    const bytes = world.readGuest(domid, statuses.at + i * statuses.stride, 2);
    if (bytes === undefined) return false;
    if (new DataView(bytes.buffer).getInt16(0, true) >= 0) return false;
  }
  return true;
}

/** Frames in which the request's own structures lie: statuses are written there. */
function argumentFrames(world: World, domid: DomId, call: Call): ReadonlySet<number> {
  const frames = new Set<number>();
  const add = (gaddr: number): void => {
    const frame = guestFrame(world.xen, domid, gaddr, false);
    if (frame !== undefined) frames.add(frame);
  };
  for (const { gaddr, bytes } of call.memory) {
    add(gaddr);
    add(gaddr + bytes.length - 1);
  }
  return frames;
}

function meddlingOf(
  world: World,
  domid: DomId,
  call: Call,
  meddling: readonly Meddling[],
): ((count: number) => void) | undefined {
  if (meddling.length === 0) return undefined;
  return (count) => {
    for (const { at, pick, value } of meddling) {
      if (at === count) meddle(world, domid, call, pick, value);
    }
  };
}

/** What other vCPUs may do between two looks of a handler: store anywhere in their own memory, enter and leave. */
function meddle(world: World, domid: DomId, call: Call, pick: number, value: number): void {
  const draw = new Draw([pick, value, pick ^ value, (pick * 7) >>> 0, (value * 13) >>> 0]);
  const { xen } = world;
  switch (draw.below(4)) {
    case 0: {
      const target = call.memory.length === 0 ? undefined : draw.oneOf(call.memory);
      if (target === undefined) return;
      const at = target.gaddr + 4 * draw.below(Math.max(1, target.bytes.length / 4));
      world.writeGuest(domid, at, new Uint8Array(new Uint32Array([anyWord(draw)]).buffer));
      return;
    }
    case 1: {
      const granters = world.domains();
      if (granters.length > 0) writeEntry(world, draw.oneOf(granters), draw);
      return;
    }
    case 2: {
      const entry = p2mLookup(xen, domid, Math.max(0, Math.min(2 ** 28, anyGfn(xen, domid, draw))));
      const frame = entryFrame(entry);
      if (entry === P2M_NOTHING || !isRamFrame(xen, frame) || frameOwner(xen, frame) !== domid)
        return;
      xen.memory.store(frame, draw.u32() & 0xffc, anyWord(draw));
      return;
    }
    default: {
      const slot = draw.below(world.slots);
      if (world.isInside(slot)) world.close(slot);
    }
  }
}
