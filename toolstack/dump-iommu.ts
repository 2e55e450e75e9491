/**
 * Sections of a dump about the IOMMU: how each device of a domain is translated, the identity entries of a
 * direct-mapped domain with their counters, and the faults that are still kept.
 * Behaviour: xen/drivers/passthrough/iommu.c, iommu_dump_page_tables(), for debug key `o`; faults are ours.
 */
import { at } from "../shared/assert.ts";
import {
  DOM,
  FAULT_WORDS,
  LINE,
  lineOf,
  MACHINE,
  mfnAt,
  SLOT_KIND_DEVICE,
  WALK_BARE,
  WALK_BLOCKED,
} from "../shared/layout.ts";
import { IOMMU_FAULTS_KEPT, NOT_PRESENT } from "../shared/limits.ts";
import { FAULT_NAMES } from "../shared/mmu.ts";
import { formatHex } from "../shared/sizes.ts";
import { slotName, slotsOf } from "./dump-pages.ts";
import { domainWord, section } from "./dump-section.ts";
import type { View } from "./view.ts";

interface DeviceRow {
  readonly device: string;
  readonly slot: number;
  readonly streamId: number;
  /** translated: through `table`; bare: no IOMMU, an address is a machine address; blocked: nobody's. */
  readonly mode: "translated" | "bare" | "blocked";
  /** Machine frame of the table's root. */
  readonly table?: number;
  /** Whether it is the domain's P2M itself. */
  readonly sharesP2m?: boolean;
  readonly faults: number;
}

const MODES: Readonly<Record<number, DeviceRow["mode"]>> = {
  [WALK_BARE]: "bare",
  [WALK_BLOCKED]: "blocked",
};

function deviceRows(view: View, domid: number): readonly DeviceRow[] {
  const { layout, words } = view;
  const root = domainWord(view, domid, DOM.P2M_ROOT);
  return slotsOf(view, domid).flatMap((slot) => {
    const line = lineOf(layout, slot);
    if (at(words, line + LINE.KIND) !== SLOT_KIND_DEVICE) return [];
    const own = at(words, line + LINE.ROOT);
    const mode = MODES[at(words, line + LINE.MODE)] ?? "translated";
    const isTable = mode === "translated" && own !== NOT_PRESENT;
    const table = isTable ? { table: mfnAt(layout, own), sharesP2m: own === root } : {};
    const streamId = layout.model.devices[at(words, line + LINE.NUMBER)]?.streamId ?? 0;
    const faults = at(words, line + LINE.FAULTS);
    return [{ device: slotName(view, slot), slot, streamId, mode, ...table, faults }];
  });
}

function tableText({ mode, table, sharesP2m }: DeviceRow): string {
  if (mode === "bare") return "none: its addresses are machine addresses";
  if (table === undefined) return "none: every access faults";
  return `root mfn ${formatHex(table)}${sharesP2m === true ? ", the P2M" : ", its own"}`;
}

export const iommuSection = section<DeviceRow>({
  what: "iommu",
  title: "devices in its IOMMU context",
  columns: [
    { title: "device", text: ({ device }) => device },
    { title: "stream id", align: "right", text: ({ streamId }) => formatHex(streamId) },
    { title: "mode", text: ({ mode }) => mode },
    { title: "table", text: tableText },
    { title: "faults", align: "right", text: ({ faults }) => String(faults) },
  ],
  read: deviceRows,
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
