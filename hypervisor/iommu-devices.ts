/**
 * Devices as their owner has them: register page, interrupt and context at the domain's birth, and their end with it.
 *
 * Rule: the owner has registers and interrupt until it dies; the context may be another's by then, since domctl moves it
 * alone (iommu-domctl.ts). A device leaves a context only by a flush that waits for its open access (design 2).
 * Behaviour: xen/drivers/passthrough/device_tree.c, pci.c. Register page and interrupt are handed over as `iomem=` and
 * `irqs=` do; the interrupt word stands in for the virtual GIC.
 */
import { item } from "../shared/assert.ts";
import { raiseEvent } from "../shared/channel.ts";
import { CONTEXT } from "../shared/iommu-layout.ts";
import { CDF_hardware, DOM, LINE, lineOf, SLOT_KIND_DEVICE, SLOT_LIVE } from "../shared/layout.ts";
import { NOT_PRESENT, PAGE_SIZE } from "../shared/limits.ts";
import { or } from "../shared/mem.ts";
import { p2m_mmio_direct_c, p2m_mmio_direct_dev } from "../shared/pte.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import {
  contextAfter,
  contextDomain,
  contextField,
  deviceSlot,
  domainContext,
  drain,
  initContext,
  resetIntoContext,
  setContextField,
  switchContext,
} from "./iommu-context.ts";
import { initIotlbs } from "./iotlb.ts";
import { p2mSet } from "./p2m.ts";
import { domainField, type Gap, hasFlag, lineField, setLineField, type Xen } from "./xen.ts";

/** Interrupt lines of a domain: the bits of its interrupt word. */
const LINES = 32;

/** Boot: slots 1 and up, one a device of the model, assigned to nobody. */
export function initDevices(xen: Xen): void {
  initIotlbs(xen);
  xen.model.devices.forEach((_, index) => {
    const slot = 1 + index;
    xen.words[xen.layout.deviceSlot + index] = slot;
    setLineField(xen, slot, LINE.KIND, SLOT_KIND_DEVICE);
    setLineField(xen, slot, LINE.NUMBER, index);
    initContext(xen, index);
    setLineField(xen, slot, LINE.STATE, SLOT_LIVE);
  });
}

/**
 * Hands a new domain the devices that the model names it the owner of: register page at gfn == mfn, interrupt, and
 * the translation context where there is one. Returns 0 or the -errno of the P2M.
 */
export function attachDevices(xen: Xen, domid: DomId, name: string): number {
  const { layout, model } = xen;
  for (let index = 0; index < model.devices.length; index++) {
    const device = item(model.devices, index);
    if (device.owner !== name || !isFree(xen, index)) continue;
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
    setContextField(xen, index, CONTEXT.OWNER, domid);
    resetIntoContext(xen, index, domainContext(xen, index, domid));
    // It comes out of its reset: the registers are zero.
    raiseEvent(xen.words, layout, deviceSlot(xen, index));
  }
  return 0;
}

/** Whether a newcomer may have the device: nobody owns it, and it is in no guest's context. */
function isFree(xen: Xen, device: number): boolean {
  if (contextField(xen, device, CONTEXT.OWNER) !== NOT_PRESENT) return false;
  const domid = contextDomain(xen, device);
  return domid === NOT_PRESENT || hasFlag(xen, domid, CDF_hardware);
}

/**
 * Takes devices out of a dying domain's context and waits until none is inside an access of it; those that it owned are
 * nobody's. `slot` is the slot whose handler asks. A device behind no IOMMU loses its bus too: see docs/FIDELITY.md.
 */
export function* detachDevices(xen: Xen, slot: number, domid: DomId): Generator<Gap, void, void> {
  for (let device = 0; device < xen.model.devices.length; device++) {
    const leaving = contextField(xen, device, CONTEXT.LEAVING) === domid;
    if (contextDomain(xen, device) === domid) {
      yield* switchContext(xen, slot, device, contextAfter(xen, device));
    } else if (leaving) yield* drain(xen, slot, device);
    if (contextField(xen, device, CONTEXT.OWNER) === domid) {
      setContextField(xen, device, CONTEXT.OWNER, NOT_PRESENT);
    }
  }
}

/** A device asserts interrupt `line`: pending at the owner's vCPU 0 until it takes the word. Nobody's: lost. */
export function deviceRaise(xen: Xen, slot: number, line: number): number {
  const domid = contextField(xen, lineField(xen, slot, LINE.NUMBER), CONTEXT.OWNER);
  if (domid === NOT_PRESENT || !(line < LINES)) return 0;
  const vcpu = domainField(xen, domid, DOM.SLOT);
  if (vcpu === NOT_PRESENT || lineField(xen, vcpu, LINE.STATE) !== SLOT_LIVE) return 0;
  or(xen.words, lineOf(xen.layout, vcpu) + LINE.INTERRUPTS, 1 << line);
  raiseEvent(xen.words, xen.layout, vcpu);
  return 0;
}
