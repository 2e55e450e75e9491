/**
 * Sections of a dump about the IOMMU: how each device of a domain is translated, the identity entries of a
 * direct-mapped domain with their counters, and the faults that are still kept.
 * Behaviour: xen/drivers/passthrough/iommu.c, iommu_dump_page_tables(), for debug key `o`; faults are ours.
 */
import { at } from "../shared/assert.ts";
import { CONTEXT, contextOf, FAULT_WORDS } from "../shared/iommu-layout.ts";
import {
  DOM,
  LINE,
  lineOf,
  MACHINE,
  mfnAt,
  WALK_BARE,
  WALK_BLOCKED,
  WALK_OFF,
} from "../shared/layout.ts";
import { IOMMU_FAULTS_KEPT, NOT_PRESENT } from "../shared/limits.ts";
import { FAULT_NAMES } from "../shared/mmu.ts";
import { formatHex } from "../shared/sizes.ts";
import { slotName } from "./dump-pages.ts";
import { domainText, domainWord, section } from "./dump-section.ts";
import type { View } from "./view.ts";

interface DeviceRow {
  readonly device: string;
  readonly slot: number;
  readonly streamId: number;
  /** translated: through `table`; bare: no IOMMU, an address is a machine address; blocked: every access faults. */
  readonly mode: "translated" | "bare" | "blocked" | "off";
  /** Domain in whose context it is, or -1: nobody's. */
  readonly context: number;
  /** Domain that its registers and its interrupt were handed to, or -1. */
  readonly owner: number;
  /** Machine frame of the table's root, and whose table it is. */
  readonly table?: number;
  readonly tableOf?: "P2M" | "own table" | "scratch page";
  /** Put into quarantine by request. */
  readonly quarantined: boolean;
  /** Its IOTLB may hold translations that have been taken away. */
  readonly deferred: boolean;
  readonly faults: number;
}

const MODES: Readonly<Record<number, DeviceRow["mode"]>> = {
  [WALK_BARE]: "bare",
  [WALK_BLOCKED]: "blocked",
  [WALK_OFF]: "off",
};

function deviceRow(view: View, device: number): DeviceRow {
  const { layout, words } = view;
  const slot = at(words, layout.deviceSlot + device);
  const line = lineOf(layout, slot);
  const own = contextOf(layout, device);
  const context = at(words, line + LINE.DOMAIN);
  const mode = MODES[at(words, line + LINE.MODE)] ?? "translated";
  return {
    device: slotName(view, slot),
    slot,
    streamId: layout.model.devices[device]?.streamId ?? 0,
    mode,
    context,
    owner: at(words, own + CONTEXT.OWNER),
    ...(mode === "translated" ? tableOf(view, context, at(words, line + LINE.ROOT)) : {}),
    quarantined: at(words, own + CONTEXT.QUARANTINED) === 1,
    deferred: at(words, own + CONTEXT.DEFERRED) === 1,
    faults: at(words, line + LINE.FAULTS),
  };
}

function tableOf(view: View, context: number, root: number): Pick<DeviceRow, "table" | "tableOf"> {
  if (root === NOT_PRESENT) return {};
  const table = mfnAt(view.layout, root);
  if (context === NOT_PRESENT) return { table, tableOf: "scratch page" };
  const isP2m = domainWord(view, context, DOM.P2M_ROOT) === root;
  return { table, tableOf: isP2m ? "P2M" : "own table" };
}

/** Devices that nobody has: in quarantine, or not handed out yet. */
export const strayDevices = (view: View): readonly object[] =>
  allDevices(view).filter(({ context, owner }) => context < 0 && owner < 0);

const allDevices = (view: View): readonly DeviceRow[] =>
  view.layout.model.devices.map((_, device) => deviceRow(view, device));

function tableText({ mode, table, tableOf: whose }: DeviceRow): string {
  if (mode === "bare") return "none: its addresses are machine addresses";
  if (table === undefined) return "none: every access faults";
  return `${whose}, root mfn ${formatHex(table)}`;
}

const marksText = ({ quarantined, deferred }: DeviceRow): string =>
  [quarantined ? ["quarantined"] : [], deferred ? ["flush due"] : []].flat().join(", ") || "–";

export const iommuSection = section<DeviceRow>({
  what: "iommu",
  title: "devices",
  columns: [
    { title: "device", text: ({ device }) => device },
    { title: "stream id", align: "right", text: ({ streamId }) => formatHex(streamId) },
    { title: "owner", text: ({ owner }) => domainText(owner) },
    { title: "context", text: ({ context }) => domainText(context) },
    { title: "mode", text: ({ mode }) => mode },
    { title: "table", text: tableText },
    { title: "marks", text: marksText },
    { title: "faults", align: "right", text: ({ faults }) => String(faults) },
  ],
  read: (view, domid) =>
    allDevices(view).filter(({ context, owner }) => context === domid || owner === domid),
});

interface IdentityRow {
  readonly mfn: number;
  readonly readers: number;
  readonly writers: number;
}

function identityRows(view: View, domid: number): readonly IdentityRow[] {
  const { layout, words } = view;
  const row = domainWord(view, domid, DOM.IDENTITY);
  if (row === NOT_PRESENT || layout.identityRows === 0) return [];
  const rows: IdentityRow[] = [];
  for (let frame = 0; frame < layout.frames; frame++) {
    const readers = at(words, layout.identityRead + row * layout.frames + frame);
    const writers = at(words, layout.identityWrite + row * layout.frames + frame);
    if (readers + writers > 0) rows.push({ mfn: mfnAt(layout, frame), readers, writers });
  }
  return rows;
}

export const identitySection = section<IdentityRow>({
  what: "iommu",
  name: "iommuIdentity",
  title: "granted frames entered at gfn == mfn",
  columns: [
    { title: "mfn", text: ({ mfn }) => formatHex(mfn) },
    { title: "read-only", align: "right", text: ({ readers }) => String(readers) },
    { title: "writable", align: "right", text: ({ writers }) => String(writers) },
  ],
  read: identityRows,
});

interface FaultRow {
  /** Of all faults of the machine, from 0. */
  readonly fault: number;
  readonly record: number;
  readonly device: string;
  readonly dfn: number;
  readonly access: "read" | "write";
  readonly reason: string;
}

function faultRows(view: View, domid: number): readonly FaultRow[] {
  const { layout, words } = view;
  const count = at(words, MACHINE.FAULT_COUNT);
  const rows: FaultRow[] = [];
  for (let fault = Math.max(0, count - IOMMU_FAULTS_KEPT); fault < count; fault++) {
    const row = layout.faults + (fault % IOMMU_FAULTS_KEPT) * FAULT_WORDS;
    if (at(words, row + 1) !== domid) continue;
    rows.push({
      fault,
      record: at(words, row + 6),
      device: slotName(view, at(words, row)),
      dfn: at(words, row + 3) * 2 ** 32 + (at(words, row + 2) >>> 0),
      access: at(words, row + 4) === 1 ? "write" : "read",
      reason: FAULT_NAMES[at(words, row + 5)] ?? `code ${at(words, row + 5)}`,
    });
  }
  return rows;
}

export const faultsSection = section<FaultRow>({
  what: "iommu",
  name: "iommuFaults",
  title: "IOMMU faults",
  columns: [
    { title: "fault", align: "right", text: ({ fault }) => String(fault) },
    { title: "at record", align: "right", text: ({ record }) => String(record) },
    { title: "device", text: ({ device }) => device },
    { title: "access", text: ({ access }) => access },
    { title: "dfn", text: ({ dfn }) => formatHex(dfn) },
    { title: "reason", text: ({ reason }) => reason },
  ],
  read: faultRows,
});
