// Histories of grant operations: what can have come about one operation at a time, and what cannot.
import { afterAll, describe, expect, it } from "vitest";
import { judgeHistory } from "../../explore/history.ts";
import { linearize, type Model } from "../../explore/linearize.ts";
import {
  HISTORY_CALL,
  HISTORY_COPY,
  HISTORY_DIED,
  HISTORY_END,
  HISTORY_GRANT,
  HISTORY_MAP,
  HISTORY_RETURN,
  HISTORY_UNMAP,
  type HistoryRecord,
} from "../../shared/history.ts";
import { GNTST_bad_handle, GNTST_general_error, GNTST_okay } from "../../shared/status.ts";
import { historyOfRace } from "./history-race.ts";
import { plant } from "./planted.ts";

/** A cell that is written and read: the textbook object. */
type CellOp = { readonly read: number } | { readonly write: number };
const cell: Model<number, CellOp> = {
  start: 0,
  step: (value, op) => ("write" in op ? op.write : op.read === value ? value : undefined),
  key: String,
};

describe("the search", () => {
  it("finds an order of overlapping operations that explains what was read", () => {
    const verdict = linearize(cell, [
      { op: { write: 1 }, called: 0, returned: 5 },
      { op: { read: 0 }, called: 1, returned: 2 },
      { op: { read: 1 }, called: 3, returned: 4 },
    ]);
    expect(verdict.kind).toBe("linearizable");
  });

  it("refuses a value that was read again after a newer one", () => {
    const verdict = linearize(cell, [
      { op: { write: 1 }, called: 0, returned: 5 },
      { op: { read: 1 }, called: 1, returned: 2 },
      { op: { read: 0 }, called: 3, returned: 4 },
    ]);
    expect(verdict).toEqual({ kind: "violation", prefix: [0, 1], stuck: [2] });
  });

  it("lets an operation that never returned have happened, or not", () => {
    const pending = { op: { write: 1 }, called: 0, returned: undefined };
    for (const read of [0, 1]) {
      const seen = { op: { read }, called: 1, returned: 2 };
      expect(linearize(cell, [pending, seen]).kind).toBe("linearizable");
    }
    const gone = [
      { op: { read: 1 }, called: 1, returned: 2 },
      { op: { read: 0 }, called: 3, returned: 4 },
    ];
    expect(linearize(cell, [pending, ...gone]).kind).toBe("violation");
  });

  it("says that it gave up rather than that all is well", () => {
    // Reads that nothing explains, among writes in every order.
    const writes = Array.from({ length: 24 }, (_, i) => ({
      op: { write: i },
      called: i,
      returned: 100 + i,
    }));
    const never = { op: { read: -1 }, called: 99, returned: 200 };
    expect(linearize(cell, [...writes, never]).kind).toBe("inconclusive");
  });
});

const GRANTER = 1;
const MAPPER = 2;
const REF = 9;

/** Appends calls and returns as a machine would. */
class Story {
  readonly records: HistoryRecord[] = [];
  call(operation: number, fields: Partial<HistoryRecord> = {}): number {
    const domain = operation <= HISTORY_END ? GRANTER : MAPPER;
    return this.#push({ kind: HISTORY_CALL, domain, operation, ...fields });
  }
  answer(call: number, status: number, handle = 0): void {
    this.#push({ kind: HISTORY_RETURN, call, status, handle });
  }
  /** One operation that nothing overlaps. */
  done(operation: number, status: number, fields: Partial<HistoryRecord> = {}): void {
    this.answer(this.call(operation, fields), status, fields.handle ?? 0);
  }
  died(domain: number): void {
    this.#push({ kind: HISTORY_DIED, domain });
  }
  #push(fields: Partial<HistoryRecord>): number {
    const nothing = { call: 0, domain: 0, to: 0, readonly: false, handle: 0, status: 0, kind: 0 };
    this.records.push({ ...nothing, operation: 0, granter: GRANTER, ref: REF, ...fields });
    return this.records.length - 1;
  }
}

function findingsOf(tell: (story: Story) => void): readonly string[] {
  const story = new Story();
  tell(story);
  return judgeHistory(story.records).findings;
}

const granted = (story: Story, readonly = false): void =>
  story.done(HISTORY_GRANT, GNTST_okay, { to: MAPPER, readonly });

describe("the history of a grant reference", () => {
  it("is in order when it is granted, mapped, unmapped and ended", () => {
    const findings = findingsOf((story) => {
      granted(story);
      story.done(HISTORY_MAP, GNTST_okay, { handle: 5 });
      story.done(HISTORY_END, GNTST_general_error);
      story.done(HISTORY_UNMAP, GNTST_okay, { handle: 5 });
      story.done(HISTORY_END, GNTST_okay);
      story.done(HISTORY_MAP, GNTST_general_error);
    });
    expect(findings).toEqual([]);
  });

  it.each<readonly [string, (story: Story) => void]>([
    [
      "a map after the access was ended",
      (story) => {
        granted(story);
        story.done(HISTORY_END, GNTST_okay);
        story.done(HISTORY_MAP, GNTST_okay, { handle: 1 });
      },
    ],
    [
      "an access that was ended while it was mapped",
      (story) => {
        granted(story);
        story.done(HISTORY_MAP, GNTST_okay, { handle: 1 });
        story.done(HISTORY_END, GNTST_okay);
        story.done(HISTORY_UNMAP, GNTST_okay, { handle: 1 });
      },
    ],
    [
      "a writable map of a read-only grant",
      (story) => {
        granted(story, true);
        story.done(HISTORY_MAP, GNTST_okay, { handle: 1 });
      },
    ],
    [
      "a copy to a read-only grant",
      (story) => {
        granted(story, true);
        story.done(HISTORY_COPY, GNTST_okay);
      },
    ],
    [
      "a refusal without a reason",
      (story) => {
        granted(story);
        story.done(HISTORY_MAP, GNTST_general_error, { handle: 0 });
      },
    ],
    [
      "one handle unmapped twice",
      (story) => {
        granted(story);
        story.done(HISTORY_MAP, GNTST_okay, { handle: 1 });
        const first = story.call(HISTORY_UNMAP, { handle: 1 });
        const second = story.call(HISTORY_UNMAP, { handle: 1 });
        story.answer(first, GNTST_okay);
        story.answer(second, GNTST_okay);
      },
    ],
    [
      "a live handle that is said to be bad",
      (story) => {
        granted(story);
        story.done(HISTORY_MAP, GNTST_okay, { handle: 1 });
        story.done(HISTORY_UNMAP, GNTST_bad_handle, { handle: 1 });
      },
    ],
    [
      "an access in use that nobody uses",
      (story) => {
        granted(story);
        story.done(HISTORY_END, GNTST_general_error);
      },
    ],
  ])("finds %s", (_, tell) => {
    expect(findingsOf(tell)).toHaveLength(1);
  });

  it("lets two unmaps of one handle race when one of them fails", () => {
    const findings = findingsOf((story) => {
      granted(story);
      story.done(HISTORY_MAP, GNTST_okay, { handle: 1 });
      const first = story.call(HISTORY_UNMAP, { handle: 1 });
      const second = story.call(HISTORY_UNMAP, { handle: 1 });
      story.answer(first, GNTST_bad_handle);
      story.answer(second, GNTST_okay);
      story.done(HISTORY_END, GNTST_okay);
    });
    expect(findings).toEqual([]);
  });

  it("lets the handles of a dead mapper go at some time after its death, and no sooner", () => {
    const story = (ended: "before" | "after") => (told: Story) => {
      granted(told);
      told.done(HISTORY_MAP, GNTST_okay, { handle: 1 });
      if (ended === "before") told.done(HISTORY_END, GNTST_okay);
      told.died(MAPPER);
      if (ended === "after") {
        told.done(HISTORY_END, GNTST_general_error);
        told.done(HISTORY_END, GNTST_okay);
      }
    };
    expect(findingsOf(story("after"))).toEqual([]);
    expect(findingsOf(story("before"))).toHaveLength(1);
  });
});

describe("the machine", () => {
  it("tells a granter and a mapper that race only what can have come about one by one", () => {
    for (let seed = 1; seed <= 20; seed++) {
      const { findings, operations } = historyOfRace(seed);
      expect(findings).toEqual([]);
      expect(operations).toBeGreaterThanOrEqual(8);
    }
  });

  const tree = plant("history-read-only-lost", [
    {
      file: "hypervisor/active-entry.ts",
      from: "if (!readonly && (header & GTF_readonly) !== 0) return GNTST_general_error;",
      to: "",
    },
  ]);
  afterAll(() => tree.remove());

  it("is found out when it maps a read-only grant for writing", async () => {
    const planted = await tree.load<typeof import("./history-race.ts")>(
      "test/explore/history-race.ts",
    );
    const caught = [1, 2, 3].filter((seed) => planted.historyOfRace(seed).findings.length > 0);
    expect(caught).not.toEqual([]);
  });
});
