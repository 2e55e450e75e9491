/**
 * What one grant reference may do, one operation at a time: the sequential model that histories are held against.
 *
 * Rules: as the recorded Xen answers. A pinned entry keeps its grantee, and of the shared entry only the read-only flag is
 * looked at, and only by the first writer; what the granter writes meanwhile never reaches those who hold it. Refusals
 * that other objects decide (no handle left, a page that is none) are always allowed and change nothing.
 * Behaviour: xen/common/grant_table.c of 4.17; Linux gnttab_end_foreign_access_ref().
 */
import { GNTTAB_NR_RESERVED_ENTRIES } from "../shared/abi/grant.ts";
import { unreachable } from "../shared/assert.ts";
import { GNTST_bad_handle, GNTST_general_error, GNTST_okay } from "../shared/status.ts";
import type { Model } from "./linearize.ts";

/** An operation on one (granter, reference), with the result that it had. */
export type GrantOp =
  | { readonly f: "grant"; readonly to: number; readonly readonly: boolean }
  /** `done` false: the entry was in use. `excused`: a refused access may have marked it meanwhile. */
  | { readonly f: "end"; readonly done: boolean; readonly excused: boolean }
  | {
      readonly f: "map";
      readonly dom: number;
      readonly readonly: boolean;
      readonly status: number;
      readonly handle: number;
      /** The granter wrote the header so often meanwhile that Xen may have given up. */
      readonly contended: boolean;
    }
  /** The handle dies first, the pin goes after the flush. */
  | { readonly f: "unmap"; readonly dom: number; readonly handle: number; readonly status: number }
  | { readonly f: "unpin"; readonly dom: number; readonly handle: number }
  | {
      readonly f: "copy";
      readonly dom: number;
      readonly readonly: boolean;
      readonly status: number;
    }
  | { readonly f: "release"; readonly readonly: boolean };

interface Held {
  readonly dom: number;
  readonly handle: number;
  readonly readonly: boolean;
  /** Its handle is dead, its pin is not. */
  readonly unmapping: boolean;
}

export interface GrantState {
  /** What the granter has published last; undefined: nothing; "builder": whatever the domain was built with. */
  readonly entry: { readonly to: number; readonly readonly: boolean } | "builder" | undefined;
  /** Who holds the pins. */
  readonly grantee: number | undefined;
  readonly held: readonly Held[];
  readonly copies: { readonly reading: number; readonly writing: number };
}

const START: GrantState = {
  entry: undefined,
  grantee: undefined,
  held: [],
  copies: { reading: 0, writing: 0 },
};

const isPinned = ({ held, copies }: GrantState): boolean =>
  held.length + copies.reading + copies.writing > 0;
const hasWriter = ({ held, copies }: GrantState): boolean =>
  copies.writing > 0 || held.some(({ readonly }) => !readonly);

/** Whether Xen lets `dom` in. */
function admits(state: GrantState, dom: number, readonly: boolean): boolean {
  const { entry, grantee } = state;
  if (entry === "builder") return !isPinned(state) || grantee === dom;
  if (!isPinned(state)) return entry?.to === dom && (readonly || !entry.readonly);
  if (grantee !== dom) return false;
  return readonly || hasWriter(state) || entry?.readonly !== true;
}

function afterMap(state: GrantState, op: GrantOp & { readonly f: "map" }): GrantState | undefined {
  const { dom, readonly, status, handle, contended } = op;
  const may = admits(state, dom, readonly);
  if (status === GNTST_general_error) {
    return may && !contended && state.entry !== "builder" ? undefined : state;
  }
  if (status !== GNTST_okay) return state;
  if (!may) return undefined;
  const held = [...state.held, { dom, handle, readonly, unmapping: false }];
  return { ...state, grantee: dom, held };
}

function afterUnmap(state: GrantState, dom: number, handle: number, status: number) {
  const live = state.held.findIndex(
    (one) => one.dom === dom && one.handle === handle && !one.unmapping,
  );
  if (status === GNTST_bad_handle) return live === -1 ? state : undefined;
  if (live === -1) return undefined;
  if (status !== GNTST_okay) return state;
  const held = state.held.map((one, i) => (i === live ? { ...one, unmapping: true } : one));
  return { ...state, held };
}

function afterUnpin(state: GrantState, dom: number, handle: number): GrantState | undefined {
  const gone = state.held.findIndex(
    (one) => one.dom === dom && one.handle === handle && one.unmapping,
  );
  if (gone === -1) return undefined;
  return letGo({ ...state, held: state.held.filter((_, i) => i !== gone) });
}

/** Nobody's pin left: the entry is what the granter has published. */
const letGo = (state: GrantState): GrantState =>
  isPinned(state) ? state : { ...state, grantee: undefined };

function afterCopy(state: GrantState, op: GrantOp & { readonly f: "copy" }) {
  const { dom, readonly, status } = op;
  // A refusal may be about the other side of the copy.
  if (status !== GNTST_okay) return state;
  if (!admits(state, dom, readonly)) return undefined;
  const { reading, writing } = state.copies;
  const copies = readonly ? { reading: reading + 1, writing } : { reading, writing: writing + 1 };
  return { ...state, grantee: dom, copies };
}

function afterRelease(state: GrantState, readonly: boolean): GrantState | undefined {
  const { reading, writing } = state.copies;
  const copies = readonly ? { reading: reading - 1, writing } : { reading, writing: writing - 1 };
  if (copies.reading < 0 || copies.writing < 0) return undefined;
  return letGo({ ...state, copies });
}

/** The model of one reference; those below GNTTAB_NR_RESERVED_ENTRIES may have been granted before anybody ran. */
export const grantModel = (ref: number): Model<GrantState, GrantOp> => ({
  start: ref < GNTTAB_NR_RESERVED_ENTRIES ? { ...START, entry: "builder" } : START,
  step: (state, op) => {
    switch (op.f) {
      case "grant":
        return { ...state, entry: { to: op.to, readonly: op.readonly } };
      case "end":
        if (!op.done) return isPinned(state) || op.excused ? state : undefined;
        return isPinned(state) ? undefined : { ...state, entry: undefined };
      case "map":
        return afterMap(state, op);
      case "unmap":
        return afterUnmap(state, op.dom, op.handle, op.status);
      case "unpin":
        return afterUnpin(state, op.dom, op.handle);
      case "copy":
        return afterCopy(state, op);
      case "release":
        return afterRelease(state, op.readonly);
      default:
        return unreachable(op);
    }
  },
  key: (state) => JSON.stringify(state),
});
