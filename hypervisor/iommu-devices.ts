/**
 * Devices as the IOMMU and the interrupt controller see them: whose translation they use, whom they interrupt, and
 * what they did that was refused.
 *
 *   WALK_TABLE    behind the IOMMU: the owner's P2M, which the IOMMU shares (ARM)
 *   WALK_BARE     not behind one: a bus address is a machine address
 *   WALK_BLOCKED  behind one, but in nobody's context: every access faults
 *
 * Rule: a device leaves a context only by a flush that waits for its open access (design 2).
 * Behaviour: xen/drivers/passthrough/device_tree.c, xen/drivers/passthrough/arm/smmu.c. Register page and interrupt
 * are handed over as `iomem=` and `irqs=` do; the interrupt word stands in for the virtual GIC.
 */
import { at, item } from "../shared/assert.ts";
import { raiseEvent } from "../shared/channel.ts";
import {
  CDF_hardware,
  CDF_iommu,
  DOM,
  FAULT_WORDS,
  LINE,
  lineOf,
  MACHINE,
  SLOT_KIND_DEVICE,
  SLOT_LIVE,
  WALK_BARE,
  WALK_BLOCKED,
  WALK_TABLE,
} from "../shared/layout.ts";
import { IOMMU_FAULTS_KEPT, NOT_PRESENT, PAGE_SIZE } from "../shared/limits.ts";
import type { DeviceModel } from "../shared/machine.ts";
import { add, or } from "../shared/mem.ts";
import { p2m_mmio_direct_c, p2m_mmio_direct_dev } from "../shared/pte.ts";
import { hypervisorRing, TRACE_IOMMU_FAULT, trace } from "../shared/trace.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import { startFlushOf } from "./flush.ts";
import { contextRoot } from "./iommu-table.ts";
import { p2mSet } from "./p2m.ts";
import {
  domainField,
  GAP_FLUSH,
  type Gap,
  hasFlag,
  lineField,
  setLineField,
  type Xen,
} from "./xen.ts";

/** Interrupt lines of a domain: the bits of its interrupt word. */
const LINES = 32;

/** Boot: slots 1 and up, one a device of the model, assigned to nobody. */
export function initDevices(xen: Xen): void {
  xen.model.devices.forEach((_, index) => {
    const slot = 1 + index;
    xen.words[xen.layout.deviceSlot + index] = slot;
    setLineField(xen, slot, LINE.KIND, SLOT_KIND_DEVICE);
    setLineField(xen, slot, LINE.NUMBER, index);
    setLineField(xen, slot, LINE.DOMAIN, NOT_PRESENT);
    setLineField(xen, slot, LINE.ROOT, NOT_PRESENT);
    setLineField(xen, slot, LINE.MODE, WALK_BLOCKED);
    setLineField(xen, slot, LINE.STATE, SLOT_LIVE);
  });
}

/**
 * Hands a new domain the devices that the model names it the owner of: register page at gfn == mfn, interrupt, and
 * the translation context where there is one. Returns 0 or the -errno of the P2M.
 */
export function attachDevices(xen: Xen, domid: DomId, name: string): number {
  const { layout, words, model } = xen;
  for (let index = 0; index < model.devices.length; index++) {
    const device = item(model.devices, index);
    const slot = at(words, layout.deviceSlot + index);
    if (device.owner !== name || lineField(xen, slot, LINE.DOMAIN) !== NOT_PRESENT) continue;
    const registers = FrameIndex(layout.ramFrames + index);
    xen.memory.zero(registers);
    const entered = p2mSet(
      xen,
      domid,
      device.registers / PAGE_SIZE,
      registers,
      // The hardware domain gets a device of the tree as recorded; others get it by `iomem=`.
      hasFlag(xen, domid, CDF_hardware) ? p2m_mmio_direct_c : p2m_mmio_direct_dev,
    );
    if (entered < 0) return entered;
    setLineField(xen, slot, LINE.ROOT, contextRoot(xen, domid));
    setLineField(xen, slot, LINE.DOMAIN, domid);
    setLineField(xen, slot, LINE.MODE, contextOf(xen, domid, device));
    // The device drops what it has cached of a former context at its next access.
    add(words, lineOf(layout, slot) + LINE.GENERATION, 1);
    // It comes out of its reset: the registers are zero.
    raiseEvent(words, layout, slot);
  }
  return 0;
}

function contextOf(xen: Xen, domid: DomId, device: DeviceModel): number {
  if (!device.behindIommu) return WALK_BARE;
  return hasFlag(xen, domid, CDF_iommu) ? WALK_TABLE : WALK_BLOCKED;
}

/**
 * Takes a dying domain's devices out of its context and waits until none is inside an access. `slot` is the slot
 * whose handler asks. A device behind no IOMMU loses its bus too: see docs/FIDELITY.md, devices.
 */
export function* detachDevices(xen: Xen, slot: number, domid: DomId): Generator<Gap, void, void> {
  for (let index = 0; index < xen.model.devices.length; index++) {
    const device = at(xen.words, xen.layout.deviceSlot + index);
    if (lineField(xen, device, LINE.DOMAIN) !== domid) continue;
    setLineField(xen, device, LINE.MODE, WALK_BLOCKED);
    if (startFlushOf(xen, slot, device) > 0) yield GAP_FLUSH;
    setLineField(xen, device, LINE.ROOT, NOT_PRESENT);
    // Only now: until here the device counts as a walker of the domain's table for everybody's flush.
    setLineField(xen, device, LINE.DOMAIN, NOT_PRESENT);
  }
}

/** A device asserts interrupt `line`: pending at the owner's vCPU 0 until it takes the word. Nobody's: lost. */
export function deviceRaise(xen: Xen, slot: number, line: number): number {
  const domid = lineField(xen, slot, LINE.DOMAIN);
  if (domid === NOT_PRESENT || !(line < LINES)) return 0;
  const vcpu = domainField(xen, domid, DOM.SLOT);
  if (vcpu === NOT_PRESENT || lineField(xen, vcpu, LINE.STATE) !== SLOT_LIVE) return 0;
  or(xen.words, lineOf(xen.layout, vcpu) + LINE.INTERRUPTS, 1 << line);
  raiseEvent(xen.words, xen.layout, vcpu);
  return 0;
}

/**
 * A context fault or bus abort that the hardware reports: recorded, nothing else. The domain is not told and not
 * stopped. `write` is 1 for a write, `code` a FAULT_*.
 */
export function deviceFault(
  xen: Xen,
  slot: number,
  dfn: number,
  write: number,
  code: number,
): number {
  const { words, layout } = xen;
  const count = at(words, MACHINE.FAULT_COUNT);
  const row = layout.faults + (count % IOMMU_FAULTS_KEPT) * FAULT_WORDS;
  const domid = lineField(xen, slot, LINE.DOMAIN);
  words[row] = slot;
  words[row + 1] = domid;
  words[row + 2] = dfn | 0;
  words[row + 3] = Math.floor(dfn / 4294967296) | 0;
  words[row + 4] = write;
  words[row + 5] = code;
  words[row + 6] = at(words, MACHINE.STEP);
  words[MACHINE.FAULT_COUNT] = (count + 1) & 0x7fffffff;
  setLineField(xen, slot, LINE.FAULTS, lineField(xen, slot, LINE.FAULTS) + 1);
  trace(words, layout, hypervisorRing(layout), TRACE_IOMMU_FAULT, slot, domid, dfn, write, code);
  return 0;
}
