/**
 * Faults that the IOMMU or the bus reports: recorded, the newest IOMMU_FAULTS_KEPT of them. The domain is not told and
 * not stopped.
 *
 * On x86 a device that faults again and again is kept off its bus: each fault counts, the count is halved when more than
 * IOMMU_FAULT_MS have passed since the last one, and at IOMMU_FAULT_THRESHOLD its bus mastering goes until it is assigned
 * anew. On arm64 nothing of that happens.
 * Behaviour: xen/drivers/passthrough/pci.c, pci_check_disable_device(); xen/drivers/passthrough/arm/smmu.c,
 * arm_smmu_context_fault().
 */
import { at } from "../shared/assert.ts";
import { CONTEXT, FAULT_WORDS } from "../shared/iommu-layout.ts";
import { LINE, lineOf, MACHINE, WALK_BARE, WALK_OFF } from "../shared/layout.ts";
import { IOMMU_FAULT_MS, IOMMU_FAULT_THRESHOLD, IOMMU_FAULTS_KEPT } from "../shared/limits.ts";
import { add } from "../shared/mem.ts";
import { hypervisorRing, TRACE_IOMMU_FAULT, trace } from "../shared/trace.ts";
import { contextField, setContextField } from "./iommu-context.ts";
import { lineField, setLineField, type Xen } from "./xen.ts";

/** A device tells of an access that was aborted. `write` is 1 for a write, `code` a FAULT_*. */
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
  if (xen.model.arch === "x86") throttle(xen, slot);
  return 0;
}

function throttle(xen: Xen, slot: number): void {
  const mode = lineField(xen, slot, LINE.MODE);
  if (mode === WALK_BARE || mode === WALK_OFF) return;
  const device = lineField(xen, slot, LINE.NUMBER);
  const now = at(xen.words, MACHINE.TICK);
  const before = contextField(xen, device, CONTEXT.FAULT_LEVEL);
  const isOld = ((now - contextField(xen, device, CONTEXT.FAULT_TICK)) | 0) > IOMMU_FAULT_MS;
  const level = (isOld ? before >> 1 : before) + 1;
  setContextField(xen, device, CONTEXT.FAULT_TICK, now);
  setContextField(xen, device, CONTEXT.FAULT_LEVEL, level);
  if (level < IOMMU_FAULT_THRESHOLD) return;
  setLineField(xen, slot, LINE.MODE, WALK_OFF);
  // It is in no access, for it is talking to us; what it has cached must not outlive its mastering.
  add(xen.words, lineOf(xen.layout, slot) + LINE.GENERATION, 1);
}
