/**
 * Brings a machine to where a recording begins. Rule: through hypercalls of the actors and records of the toolstack
 * only, as the recorder did; of the guests' memory only the two grant entries that xl fills in are written from here.
 */
import { buildMachine } from "../explore/machine.ts";
import { roundRobin } from "../explore/round-robin.ts";
import type { Machine } from "../explore/state.ts";
import { statusRow } from "../hypervisor/grant-v2.ts";
import { XEN_DOMCTL_max_mem } from "../shared/abi/domctl.ts";
import { GRANT_ENTRY_FRAME, GRANT_ENTRY_HEADER, GTF_permit_access } from "../shared/abi/grant.ts";
import { at } from "../shared/assert.ts";
import { GRANT_ENTRY_BYTES, PAGE_SIZE } from "../shared/limits.ts";
import { CONTROL_DOMCTL } from "../shared/trap.ts";
import { FrameIndex } from "../shared/units.ts";
import { type Actor, actorOf, actorOnSlot, hypercall } from "./conform-actor.ts";
import { replayCall } from "./conform-call.ts";
import type { RecordedScenario, Recording, Step, Value } from "./conform-format.ts";
import { BUS_DEVICE, DOM0_PLACES, placesOf, recordedArm } from "./conform-model.ts";
import { mapGrantFrame, mapStatusFrame, preparePvActor } from "./conform-pv.ts";
import { initialFrames, mfnOfPage, numberValue, type Replay } from "./conform-replay.ts";
import { speaksOfStatus, statusFrameOf } from "./conform-v2.ts";
import { ENTRIES_PER_FRAME } from "./conform-watch.ts";

/** Boots the machine and brings every actor to where it was before step 0. */
export function setUp(
  scenario: RecordedScenario,
  recording: Recording,
  env: string,
  domids: ReadonlyMap<string, number>,
): Replay {
  const machine = buildMachine(recordedArm(scenario, env, domids), {
    seed: 0,
    scheduler: roundRobin(),
    points: false,
  });
  const actors = new Map<string, Actor>();
  const initial = new Map<string, readonly number[]>();
  for (const [name, domid] of domids) {
    const actor = actorOf(machine, name, domid, placesOf(env, domid));
    actors.set(name, actor);
    initial.set(name, initialFrames(machine, actor));
  }
  const dom0 =
    [...actors.values()].find(({ domid }) => domid === 0) ??
    actorOf(machine, "dom0", 0, DOM0_PLACES);
  const replay: Replay = {
    machine,
    symbols: recording.symbols,
    actors,
    dom0,
    bus: actorOnSlot(machine, "bus", -1, busSlot(machine), DOM0_PLACES),
    control: actorOnSlot(machine, "control", -1, 0, DOM0_PLACES),
    handles: new Map(),
    daemonHandles: new Map(),
    busAddresses: new Map(),
    ports: new Map(),
    eventArrays: new Map(),
    acknowledged: new Map(),
    initial,
    versions: new Map(),
    statusShown: new Set(
      [...domids.keys()].filter((name) => speaksOfStatus(recording.steps, name)),
    ),
    entries: new Map(),
    portBits: new Map(),
  };
  if (env === "arm" || env === "pvh" || env === "pv") playToolstack(replay);
  for (const [name, actor] of actors) {
    prepareActor(replay, actor, scenario.domains[name]?.grant_frames_mapped ?? 0);
  }
  return replay;
}

const busSlot = (machine: Machine): number =>
  at(machine.words, machine.layout.deviceSlot + BUS_DEVICE);

/** Every guest maps its shared info page and the first frames of its grant table itself. */
function prepareActor(replay: Replay, actor: Actor, grantFrames: number): void {
  const { places } = actor;
  if (places.virtual === true) {
    preparePvActor(replay, actor, (page) => mfnOfPage(replay.machine, actor, page));
  } else {
    addToPhysmap(replay, actor, "shared_info", 0, places.sharedInfo);
  }
  for (let frame = 0; frame < grantFrames; frame++) placeGrantFrame(replay, actor, frame);
}

/** A PV guest is given the frames up to it and maps the last one; the others place it. */
function placeGrantFrame(replay: Replay, actor: Actor, frame: number): void {
  if (actor.places.virtual !== true) {
    addToPhysmap(replay, actor, "grant_table", frame, actor.places.grantFrame0 + frame);
    return;
  }
  const args = { dom: "DOMID_SELF", nr_frames: frame + 1 };
  must(replay, actor, "grant_table_op", "setup_table", args, 0);
  mapGrantFrame(replay, actor, frame);
}

function addToPhysmap(
  replay: Replay,
  actor: Actor,
  space: string,
  idx: number,
  gpfn: number,
): void {
  const args = { domid: "DOMID_SELF", space, idx, gpfn };
  must(replay, actor, "memory_op", "add_to_physmap", args, 0);
}

/**
 * The recorder maps a further frame of an actor's grant table without a step of its own: one whose entries the actor
 * sets later without ever having mapped it. It does so just before the actor's first step.
 */
export function growTable(
  replay: Replay,
  scenario: RecordedScenario,
  steps: readonly Step[],
  name: string,
): void {
  const actor = replay.actors.get(name);
  const mapped = scenario.domains[name]?.grant_frames_mapped ?? 0;
  const own = steps.filter(({ by }) => by === name);
  if (actor === undefined || own.some(({ fields }) => fields.cmd === "add_to_physmap")) return;
  const frames = own
    .filter(({ fields }) => fields.do === "set_entry")
    .map(({ fields }) => Math.floor(numberValue(replay, fields.ref) / ENTRIES_PER_FRAME));
  for (let frame = mapped; frame <= Math.max(-1, ...frames); frame++) {
    placeGrantFrame(replay, actor, frame);
  }
}

/** Whenever a table gets version 2, the recorder maps its status frame, if it means to look at it. */
export function followVersion(replay: Replay, actor: Actor, version: number): void {
  const known = replay.versions.get(actor.name);
  if (known?.version === version && known.status === replay.statusShown.has(actor.name)) return;
  const status = version === 2 && replay.statusShown.has(actor.name);
  if (status) placeStatusFrame(replay, actor);
  replay.versions.set(actor.name, { version, status });
}

function placeStatusFrame(replay: Replay, actor: Actor): void {
  const page = statusFrameOf(actor);
  if (actor.places.virtual === true) {
    mapStatusFrame(replay, actor, page, statusRow(replay.machine.xen, actor.domid));
  } else {
    addToPhysmap(replay, actor, "grant_table", 0x8000_0000, page);
  }
}

/** Ports that the control domain of those recordings had for itself. */
const DOM0_PORTS = { arm64: 5, x86: 17 };
/** xl gives a guest 1 MiB more than it asks for, and makes pages in it: console, store and some it does not use. */
const SPECIAL_PAGES = { arm64: 4, x86: 16 };
const SPECIAL_GFN = 0x39000;
/** Page of a PV guest's RAM that is its console; the store is the next one. */
const PV_SPECIAL_PAGE = 0x1800;
const MAX_MEM_KIB = 33 * 1024;

/** What xl does to a guest before it starts: more memory allowed, special pages, a store and a console port to Dom0. */
function playToolstack(replay: Replay): void {
  const { machine, dom0, control } = replay;
  const { arch } = machine.layout.model;
  const special = Array.from({ length: SPECIAL_PAGES[arch] }, (_, page) => SPECIAL_GFN + page);
  for (let port = 0; port < DOM0_PORTS[arch]; port++) {
    must(replay, dom0, "event_channel_op", "alloc_unbound", { dom: 0, remote_dom: 0 }, 0);
  }
  for (const actor of replay.actors.values()) {
    const dom = actor.domid;
    hypercall(machine, control, CONTROL_DOMCTL, [XEN_DOMCTL_max_mem, dom, MAX_MEM_KIB]);
    // A PV guest has its special pages in its RAM.
    if (actor.places.virtual !== true) {
      const pages = { extents: special, nr_extents: special.length, domid: dom };
      must(replay, dom0, "memory_op", "populate_physmap", pages, special.length);
    }
    for (let port = 1; port <= 2; port++) {
      must(replay, dom0, "event_channel_op", "alloc_unbound", { dom, remote_dom: 0 }, 0);
      const peer = { remote_dom: dom, remote_port: port };
      must(replay, dom0, "event_channel_op", "bind_interdomain", peer, 0);
    }
    for (const ref of [0, 1]) grantToDom0(replay, actor, ref);
    // Dom0 maps nothing else, so its handles are counted up from 0.
    const first = 2 * replay.daemonHandles.size;
    replay.daemonHandles.set(dom, [first, first + 1]);
  }
}

/** A guest has died: Dom0's daemons let go of its console and store pages. */
export function releaseFromDom0(replay: Replay, domid: number): void {
  const handles = replay.daemonHandles.get(domid) ?? [];
  for (const [ref, handle] of handles.entries()) {
    const address = ringGfn(domid, ref) * PAGE_SIZE;
    const args = { host_addr: address, dev_bus_addr: 0, handle };
    must(replay, replay.dom0, "grant_table_op", "unmap_grant_ref", args, 0);
  }
  replay.daemonHandles.delete(domid);
}

const ringGfn = (domid: number, ref: number): number => DOM0_RING_GFN + domid * 2 + ref;

/** Where Dom0's daemons map the console and store pages: behind everything that Dom0 has. */
const DOM0_RING_GFN = 0x7_0000;

/** References 0 and 1, console and store: filled in for the guest, and mapped by Dom0's daemons. */
function grantToDom0(replay: Replay, actor: Actor, ref: number): void {
  const { layout, words, memory } = replay.machine;
  const frame = at(words, layout.grantFrame + actor.domid * layout.model.limits.grantFrames);
  const page =
    actor.places.virtual === true
      ? mfnOfPage(replay.machine, actor, PV_SPECIAL_PAGE + ref)
      : SPECIAL_GFN + ref;
  memory.store(FrameIndex(frame), ref * GRANT_ENTRY_BYTES + GRANT_ENTRY_FRAME, page);
  memory.store(FrameIndex(frame), ref * GRANT_ENTRY_BYTES + GRANT_ENTRY_HEADER, GTF_permit_access);
  const args = {
    host_addr: ringGfn(actor.domid, ref) * PAGE_SIZE,
    flags: "host_map",
    ref,
    dom: actor.domid,
  };
  must(replay, replay.dom0, "grant_table_op", "map_grant_ref", args, 0);
}

/** A call that is in no step and has to answer `wanted`. */
function must(
  replay: Replay,
  actor: Actor,
  call: string,
  cmd: string,
  args: { readonly [name: string]: Value },
  wanted: number,
): void {
  const batch = call === "grant_table_op" ? { args: [args], count: 1 } : { args };
  const step: Step = { i: -1, by: actor.name, fields: { call, cmd, ...batch, ret: wanted } };
  const { ret } = replayCall(replay, actor, step);
  if (ret !== wanted) throw new Error(`${actor.name}: ${call} ${cmd} answers ${String(ret)}`);
}
