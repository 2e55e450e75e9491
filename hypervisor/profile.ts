/**
 * Where x86 and arm64 answer differently, as facts that operations ask for: nobody else looks at the architecture.
 *
 * Tables of translated domains have the arm64 entry format on both (docs/FIDELITY.md); what differs is what an
 * insertion does to what stands there, and which operations exist.
 * Behaviour: xen/arch/x86/mm/p2m.c, p2m_add_page(); xen/arch/x86/include/asm/grant_table.h; Xen 4.17 as recorded.
 */
import {
  GNTTABOP_cache_flush,
  GNTTABOP_get_status_frames,
  GNTTABOP_transfer,
  GNTTABOP_unmap_and_replace,
} from "../shared/abi/grant.ts";
import { CDF_pv } from "../shared/layout.ts";
import { EINVAL, ENOSYS, EOPNOTSUPP, EPERM } from "../shared/status.ts";
import { hasFlag, type Xen } from "./xen.ts";

export interface Profile {
  readonly maxGrantVersion: 1 | 2;
  /** An entry over a grant, foreign or device entry crashes the domain, instead of replacing it. */
  readonly specialEntriesStand: boolean;
  /** A page of the domain's own stands at one gfn at most: entering it elsewhere takes the former entry away. */
  readonly oneGfnAPage: boolean;
  /** An unmap wants a grant entry with this frame where the guest says; otherwise an empty gfn passes. */
  readonly unmapWantsEntry: boolean;
  /** The space that moves a page of the domain to another gfn exists. */
  readonly movesPages: boolean;
  /** Operations on grant tables that a translated domain does not have: -ENOSYS for the call. */
  readonly absentGrantOps: readonly number[];
  readonly badSpace: number;
  /** Interrupts of no device can be bound by a guest, as its emulated ones. Numbers below this. */
  readonly guestPirqs: number;
  /** Memory operations of the other kinds of domain, as they refuse a translated one without privilege. */
  readonly refusals: Readonly<Record<number, number>>;
}

const ARM64: Profile = {
  maxGrantVersion: 1,
  specialEntriesStand: false,
  oneGfnAPage: false,
  unmapWantsEntry: false,
  movesPages: false,
  absentGrantOps: [],
  badSpace: -ENOSYS,
  guestPirqs: 0,
  refusals: {},
};

const X86: Profile = {
  maxGrantVersion: 2,
  specialEntriesStand: true,
  oneGfnAPage: true,
  unmapWantsEntry: true,
  movesPages: true,
  // Status frames are found by add_to_physmap.
  absentGrantOps: [
    GNTTABOP_transfer,
    GNTTABOP_unmap_and_replace,
    GNTTABOP_get_status_frames,
    GNTTABOP_cache_flush,
  ],
  badSpace: -EINVAL,
  guestPirqs: 256,
  refusals: { 13: -EPERM, 16: -EINVAL, 17: -EINVAL, 25: -EOPNOTSUPP },
};

/** A domain that is not translated: everything is there, and no interrupt is permitted to a plain guest. */
const PV: Profile = {
  ...X86,
  absentGrantOps: [],
  refusals: { ...X86.refusals, 10: -EPERM },
};

/** Of a domain, where its kind makes a difference. */
export const domainProfile = (xen: Xen, domid: number): Profile =>
  hasFlag(xen, domid, CDF_pv) ? PV : profileOf(xen);

export const profileOf = (xen: Xen): Profile => (xen.model.arch === "x86" ? X86 : ARM64);
