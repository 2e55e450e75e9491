/** Mutants of rings, backends and frontends (stress spec 11.4 and 11.5). */
import type { Mutant } from "./mutant.ts";

/** What stands between B's copy of a request and its use. */
const INTAKE =
  "  yield* takeEntries(ring, copy, 1);\n  const length = new DataView(copy.buffer).getUint32(0, true);\n  if (length > LENGTH_MAX) return undefined;\n  const used = length;\n";
/** A second look at the request where it stands, in A's page. */
const LOOK_AGAIN = "yield* loadWord(ring.cpu, ring.gaddr + ringSlot(ring.size, ENTRY_BYTES, 0))";
const IN_PLACE = {
  file: "explore/stories/ring.ts",
  from: "import { andWord, storeWord } from",
  to: "import { andWord, loadWord, storeWord } from",
} as const;

export const RING_MUTANTS: readonly Mutant[] = [
  {
    id: "M49",
    name: "double-fetch",
    origin: "XSA-155",
    mechanism: "the backend judges the request in the ring and reads it again for use",
    patches: [
      IN_PLACE,
      {
        file: "explore/stories/ring.ts",
        from: INTAKE,
        to: `  const length = ${LOOK_AGAIN};\n  if (length > LENGTH_MAX) return undefined;\n  const used = ${LOOK_AGAIN};\n`,
      },
    ],
    story: "ring-request",
    depth: 2,
    caughtBy: ["I-26"],
  },
  {
    id: "M50",
    name: "sandwich-recheck",
    origin: "XSA-155 family",
    mechanism: "the backend judges, uses and judges again by value, instead of copying",
    patches: [
      IN_PLACE,
      {
        file: "explore/stories/ring.ts",
        from: INTAKE,
        to: `  const length = ${LOOK_AGAIN};\n  if (length > LENGTH_MAX) return undefined;\n  const used = ${LOOK_AGAIN};\n  if ((${LOOK_AGAIN}) !== length) return undefined;\n`,
      },
    ],
    story: "ring-request",
    depth: 4,
    caughtBy: ["I-26"],
  },
  {
    id: "M51",
    name: "final-check-missing",
    origin: "classic",
    mechanism: "the consumer arms its event threshold and sleeps without looking again",
    patches: [
      {
        file: "domains/ring.ts",
        from: "  yield* storeWord(ring.cpu, ring.gaddr + RING_REQ_EVENT, (ring.consumed + 1) | 0);\n  return yield* pendingRequests(ring);\n",
        to: "  yield* storeWord(ring.cpu, ring.gaddr + RING_REQ_EVENT, (ring.consumed + 1) | 0);\n  return 0;\n",
      },
    ],
    story: "ring-sleep",
    depth: 2,
    caughtBy: ["I-27", "L-2"],
  },
  {
    id: "M52",
    name: "plain-producer-index",
    origin: "classic",
    mechanism: "the producer index is stored as plain bytes",
    patches: [
      {
        file: "domains/ring.ts",
        from: "  yield* storeWord(ring.cpu, ring.gaddr + producerAt, ring.produced);\n",
        to: "  const index = new Uint8Array(Int32Array.of(ring.produced).buffer);\n  yield* writeBytes(ring.cpu, ring.gaddr + producerAt, index, 0, 4);\n",
      },
    ],
    story: "ring-publish",
    memory: ["tso", "relaxed"],
    depth: 1,
    caughtBy: ["I-39", "I-25"],
  },
  {
    id: "M53",
    name: "free-while-granted",
    origin: "XSA-396",
    mechanism: "the frontend uses a page again although withdrawing its grant has failed",
    patches: [
      {
        file: "explore/stories/grants.ts",
        from: "  if (!(yield* withdraw(guest, REF, 3))) return;\n",
        to: "  yield* withdraw(guest, REF, 3);\n",
      },
    ],
    story: "revoke",
    depth: 2,
    caughtBy: ["I-17"],
  },
  {
    id: "M54",
    name: "reconnect-leaves-user",
    origin: "XSA-350",
    mechanism: "a disconnect takes a task of the backend that sleeps for one that has ended",
    patches: [
      {
        file: "explore/stories/backend.ts",
        from: "  yield* waitUntil(kernel, () => worker === undefined || worker.over);\n",
        to: "  yield* waitUntil(kernel, () => worker === undefined || worker.over || worker.ready !== undefined);\n",
      },
    ],
    story: "reconnect",
    depth: 2,
    caughtBy: ["I-43", "I-12"],
  },
  {
    id: "M61",
    name: "index-trusted",
    origin: "XSA-155 family",
    mechanism: "the backend takes the shared producer index without a bound",
    patches: [
      {
        file: "domains/ring.ts",
        from: "  if (requestProdOverflow(ring.size, produced, ring.produced)) return -EIO;\n",
        to: "",
      },
      {
        file: "shared/abi/ring.ts",
        from: "Math.min(distance(reqProd, reqCons), size - distance(reqCons, rspProdPvt));",
        to: "distance(reqProd, reqCons) + 0 * size * rspProdPvt;",
      },
    ],
    story: "ring-index",
    depth: 1,
    caughtBy: ["I-24", "I-25"],
  },
];
