/** A machine of four x86 domains whose grant tables may be of version 2, and what a test does with entries of it. */

import {
  GNTMAP_host_map,
  GNTTABOP_set_version,
  GTF_permit_access,
  GTF_sub_page,
  GTF_transitive,
} from "../../shared/abi/grant.ts";
import { DOMID_SELF, HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { Channel } from "../../shared/channel.ts";
import { DOM, domainOf } from "../../shared/layout.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { hypercallTrap, setRecord } from "../../shared/trap.ts";
import { FrameIndex } from "../../shared/units.ts";
import { argumentAddress, copyOne, mapOne } from "./grants.ts";
import {
  type Actor,
  bootTestMachine,
  call,
  testDom0,
  testDomain,
  testModel,
  writeWord,
} from "./harness.ts";

export const V0 = 0x60000;
/** Index of add_to_physmap's grant table space: status frame 0. */
export const STATUS_FRAME_0 = 0x8000_0000;

/** Domains a, b and c, of two vCPUs each. */
export function bootV2() {
  const guest = (name: string) => testDomain(name, { vcpus: 2 });
  const domains = [testDom0(), guest("a"), guest("b"), guest("c")];
  const machine = bootTestMachine(testModel(domains, { arch: "x86" }));
  const [, a, b, c] = machine.actors as [Actor, Actor, Actor, Actor];
  const { xen } = machine;
  const setVersion = (actor: Actor, version: number): number => {
    const at = argumentAddress(actor);
    writeWord(actor, at, version);
    return call(machine, actor, HYPERVISOR_grant_table_op, GNTTABOP_set_version, at, 1);
  };
  /** Stores the four cells of a version 2 entry, header last. */
  const store = (actor: Actor, ref: number, cells: readonly number[]): void => {
    const { layout, words, memory } = xen;
    const row = layout.grantFrame + actor.domid * layout.model.limits.grantFrames;
    const table = FrameIndex(words[row + Math.floor(ref / 256)] ?? -1);
    for (const i of [3, 2, 1, 0]) memory.store(table, (ref % 256) * 16 + i * 4, cells[i] ?? 0);
  };
  const mapFrom = (mapper: Actor, dom: Actor, ref: number, slot = 0): number =>
    mapOne(machine, mapper, { gfn: V0 + slot, flags: GNTMAP_host_map, ref, dom: dom.domid }).status;
  const copyFrom = (by: Actor, dom: Actor, ref: number, offset: number, length: number): number =>
    copyOne(
      machine,
      by,
      { ref, dom: dom.domid, offset },
      { gfn: by.ram + 2, dom: DOMID_SELF },
      length,
    );
  /** The other direction: into the page that the entry grants. */
  const copyInto = (by: Actor, dom: Actor, ref: number, offset: number, length: number): number =>
    copyOne(
      machine,
      by,
      { gfn: by.ram + 2, dom: DOMID_SELF },
      { ref, dom: dom.domid, offset },
      length,
    );
  /** The channel of a domain's second vCPU. */
  const second = (actor: Actor): Channel => {
    const slot = xen.words[domainOf(xen.layout, actor.domid) + DOM.SLOT + 1] ?? -1;
    return new Channel(xen.words, xen.layout, slot);
  };
  return { machine, xen, a, b, c, setVersion, store, mapFrom, copyFrom, copyInto, second };
}

/** A record of one call. */
export const recordOf = (op: number, ...args: readonly number[]): Int32Array => {
  const { record } = hypercallTrap();
  setRecord(record, op, args);
  return record;
};

/** As a vCPU of `actor` asks for a version, with an argument of its own. */
export function versionRecord(actor: Actor, version: number): Int32Array {
  const at = argumentAddress(actor) + 2 * PAGE_SIZE;
  writeWord(actor, at, version);
  return recordOf(HYPERVISOR_grant_table_op, GNTTABOP_set_version, at, 1);
}

/** Cells of an entry that grants a whole page, bytes of one, or an entry of another domain. */
export const fullPage = (grantee: Actor, gfn: number, flags = 0): readonly number[] => [
  GTF_permit_access | flags | (grantee.domid << 16),
  0,
  gfn,
  0,
];
export const subPage = (
  grantee: Actor,
  gfn: number,
  start: number,
  length: number,
): readonly number[] => [
  GTF_permit_access | GTF_sub_page | (grantee.domid << 16),
  start | (length << 16),
  gfn,
  0,
];
export const wayTo = (grantee: Actor, granter: Actor, ref: number): readonly number[] => [
  GTF_transitive | (grantee.domid << 16),
  granter.domid,
  ref,
  0,
];
