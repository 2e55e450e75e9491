/** Mutants of event channels (stress spec 11.3). */
import type { Mutant } from "./mutant.ts";

export const EVENT_MUTANTS: readonly Mutant[] = [
  {
    id: "M42",
    name: "reset-with-open-port",
    origin: "XSA-343",
    mechanism: "a reset succeeds although a port was opened while it had let go",
    patches: [
      {
        file: "hypervisor/event-close.ts",
        from: "  if (hasOpenPort(xen, domid)) return -EAGAIN;\n",
        to: "  if (hasOpenPort(xen, domid)) return 0;\n",
      },
    ],
    story: "reset",
    depth: 2,
    caughtBy: ["I-30"],
  },
  {
    id: "M45",
    name: "expand-versus-reset",
    origin: "XSA-505",
    mechanism:
      "whether there is an event array is looked at before a gap, and a page added after it",
    patches: [
      {
        file: "hypervisor/event-fifo.ts",
        from: "export function expandArray(xen: Xen, caller: Caller): number {\n",
        to: "export function* expandArray(xen: Xen, caller: Caller) {\n",
      },
      {
        file: "hypervisor/event-fifo.ts",
        from: "  if (!isFifo(xen, domid)) return -EOPNOTSUPP;\n",
        to: "  if (!isFifo(xen, domid)) return -EOPNOTSUPP;\n  const gfn = xen.args.u64(EXPAND_ARRAY_GFN);\n  yield GAP_PREEMPT;\n",
      },
      {
        file: "hypervisor/event-fifo.ts",
        from: "addArrayPage(xen, domid, xen.args.u64(EXPAND_ARRAY_GFN))",
        to: "addArrayPage(xen, domid, gfn)",
      },
      {
        file: "hypervisor/event-fifo.ts",
        from: "import { type Caller, domainField,",
        to: "import { GAP_PREEMPT, type Caller, domainField,",
      },
    ],
    story: "expand",
    depth: 2,
    caughtBy: ["I-43"],
  },
  {
    id: "M46",
    name: "error-undoes-others",
    origin: "XSA-496",
    mechanism: "the failure path of a bind tears down what a privileged domain has set up",
    patches: [
      {
        file: "hypervisor/event-channel.ts",
        from: "  const port = getFreePort(xen, caller.domid);\n  if (port < 0) return port;\n  bindPort(xen, caller.domid, port, ECS_VIRQ, undefined, virq);\n",
        to: "  const port = getFreePort(xen, caller.domid);\n  if (port < 0) {\n    closePort(xen, 0 as DomId, virqPort(xen, 0, virq, 0));\n    return port;\n  }\n  bindPort(xen, caller.domid, port, ECS_VIRQ, undefined, virq);\n",
      },
    ],
    story: "ports-full",
    depth: 1,
    caughtBy: ["I-32", "I-40"],
  },
  {
    id: "M47",
    name: "unmask-without-recheck",
    origin: "classic",
    mechanism: "unmask clears the mask and does not look at pending",
    patches: [
      {
        file: "hypervisor/event-2l.ts",
        from: "  if (!test(xen, domid, SHARED_INFO_EVTCHN_PENDING + cellOf(port), bitOf(port))) return;\n  selectAndNotify",
        to: "  if (port >= 0) return;\n  selectAndNotify",
      },
    ],
    story: "unmask",
    depth: 2,
    caughtBy: ["I-27", "L-2"],
  },
  {
    id: "M48",
    name: "storm-unbounded",
    origin: "XSA-391",
    mechanism:
      "a port is not masked until its handler is done, so an upcall serves one sender as long as it sends",
    patches: [
      {
        file: "domains/event-upcall.ts",
        from: "    yield* maskIrq(cpu, events, info, EVT_MASK_REASON_EOI_PENDING);\n",
        to: "",
      },
      {
        file: "domains/event-upcall.ts",
        from: "  if (info === undefined || info.isActive) return;\n",
        to: "  if (info === undefined) return;\n",
      },
    ],
    story: "storm",
    depth: 1,
    caughtBy: ["L-3", "L-7"],
  },
];
