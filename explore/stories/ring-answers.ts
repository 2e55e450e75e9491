/**
 * The story of a ring's answers: each request is taken off it once and answered once, under its own number. A is the frontend, B
 * the backend, as in ring.ts. Ours; stress spec section 4 (I-25).
 */
import {
  pendingRequests,
  pendingResponses,
  pushRequests,
  pushResponses,
  putEntries,
  type Ring,
  takeEntries,
} from "../../domains/ring.ts";
import type { Program } from "../../shared/trap.ts";
import { wrong } from "../raw-guest.ts";
import type { Story } from "../story.ts";
import { A, B, HOLE, smallModel } from "./machines.ts";
import { backSetUp, ENTRY_BYTES, frontSetUp, PAGE, ringOf } from "./ring.ts";

/** Numbers of the requests. */
const NUMBERS: readonly number[] = [11, 12];
/** Times that A looks for answers before it has something else to do. */
const LOOKS = 4;

const entryOf = (number: number): Uint8Array => {
  const entry = new Uint8Array(ENTRY_BYTES);
  new DataView(entry.buffer).setUint32(0, number, true);
  return entry;
};

function* takeNumber(ring: Ring): Program<number> {
  const entry = new Uint8Array(ENTRY_BYTES);
  yield* takeEntries(ring, entry, 1);
  return new DataView(entry.buffer).getUint32(0, true);
}

/** M68: who takes a request off the ring does not take it again. */
export const ringAnswersStory: Story = {
  name: "ring-answers",
  about: "B answers the two requests that stand in A's ring while A takes the answers",
  model: () => smallModel(),
  setUp: [
    frontSetUp,
    backSetUp,
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        const ring = ringOf(guest, PAGE);
        for (const number of NUMBERS) yield* putEntries(ring, entryOf(number), 1);
        yield* pushRequests(ring);
      },
    },
  ],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest, notes) {
        const ring = ringOf(guest, PAGE);
        const open = new Set(NUMBERS);
        for (let look = 0; look < LOOKS && open.size > 0; look++) {
          for (let left = yield* pendingResponses(ring); left > 0; left--) {
            const number = yield* takeNumber(ring);
            if (!open.delete(number)) {
              wrong(guest, "I-25", `request ${number} is answered, and nobody waits for that`);
            }
          }
        }
        notes.open = open.size;
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        const ring = ringOf(guest, HOLE);
        for (let left = yield* pendingRequests(ring); left > 0; left--) {
          yield* putEntries(ring, entryOf(yield* takeNumber(ring)), 1);
          yield* pushResponses(ring);
        }
        notes.answered = ring.produced;
      },
    },
  ],
  judge: (_machine, { answered = 0 }) =>
    answered === NUMBERS.length
      ? []
      : [`I-25: ${NUMBERS.length} requests were made, and ${answered} answers given`],
  sometimes: {
    "A has both answers": (notes) => notes.open === 0,
    "A had to leave without them": (notes) => (notes.open ?? 0) > 0,
  },
};
