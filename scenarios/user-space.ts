/**
 * A backend in user space dies: what does the granter notice, and what is left behind?
 *
 * A process in `guest` grants pages with gntalloc; a process in `back` maps them with gntdev, copies by GRANT_COPY,
 * exports them as a DMA buffer or grants one in return, and is killed in one of the states of its life. Its kernel
 * unmaps what nobody uses any more at once, the rest when a child, a device or the peer lets go; the granter sees its
 * byte cleared before or with its event; and in the end every access is ended and every page is back.
 */
import { DEATHS, type Death, userBack } from "../domains/drivers/user-back.ts";
import { USER_PAGES, userFront } from "../domains/drivers/user-front.ts";
import type { Kernel } from "../domains/kernel.ts";
import {
  defineScenario,
  type Expectation,
  type FinalState,
  type Judgement,
  type VariantSpec,
} from "../shared/scenario.ts";

type When = "at death" | "later" | "never";

/** What must be seen of one death. */
interface Fate {
  /** Pages that are mapped still when the process is gone. */
  readonly stillMapped: number;
  readonly byte: When;
  readonly event: When;
  /** Of the three pages that the granter takes back at once. */
  readonly refused: number;
}

const AT_ONCE: Fate = { stillMapped: 0, byte: "at death", event: "at death", refused: 0 };
const LATER: Fate = { stillMapped: USER_PAGES, byte: "later", event: "later", refused: 3 };
/** No notification was asked for. */
const SILENT: Fate = { stillMapped: 0, byte: "never", event: "never", refused: 0 };

const FATES: Readonly<Record<Death, Fate>> = {
  // Nothing was mapped, so nothing is cleared; the event comes all the same.
  listed: { ...AT_ONCE, byte: "never" },
  mapped: AT_ONCE,
  cut: AT_ONCE,
  "request gone": AT_ONCE,
  forked: LATER,
  // The byte is cleared when the unmap is asked for, which then waits for the page.
  "page in use": { ...LATER, byte: "at death" },
  exported: SILENT,
  "device closed": SILENT,
  "importer attached": { ...SILENT, stillMapped: USER_PAGES, refused: 3 },
  "waiting for release": { ...SILENT, stillMapped: USER_PAGES, refused: 3 },
  imported: SILENT,
  "import mapped": SILENT,
  "orderly end": AT_ONCE,
};

const deaths = Object.keys(DEATHS) as Death[];

const variants: readonly VariantSpec[] = deaths.map((death) => ({
  name: death.replaceAll(" ", "-"),
  facts: { death },
}));

const REPORTED = ["byte", "event", "refused", "left", "copied", "leaked"] as const;

function judge(state: FinalState): Judgement {
  const death = String(state.facts.death) as Death;
  const back = (key: string) => state.reported("back", key);
  const front = Object.fromEntries(REPORTED.map((key) => [key, state.reported("guest", key)]));
  const { stillMapped, ...seen } = FATES[death];
  const expected = { ...seen, left: 0, copied: "yes", leaked: "" };
  const expectations: Expectation[] = Object.entries(expected).map(([key, value]) => ({
    claim: `guest: ${key} = ${JSON.stringify(value)}`,
    holds: front[key] === value,
    got: String(front[key]),
  }));
  expectations.push({
    claim: `${stillMapped} pages are mapped right after the death`,
    holds: back("stillMapped") === stillMapped,
    got: String(back("stillMapped")),
  });
  expectations.push({
    claim: "the backend's kernel has everything back",
    holds: back("leaked") === "",
    got: String(back("leaked")),
  });
  const sound = expectations.every(({ holds }) => holds);
  const leaked = `${front.leaked}${back("leaked")}`;
  return {
    row: { name: state.variant, death, ...front, stillMapped: back("stillMapped"), leaked, sound },
    expectations,
  };
}

const text = (value: unknown): string => String(value ?? "–");

export default defineScenario<Kernel>({
  name: "user-space",
  about:
    "a backend process dies in each state of gntdev: what the granter notices, and what is left",
  machine: { preset: "virt", memory: "64MiB", traceRecords: 64 },
  domains: {
    dom0: { kind: "dom0", memory: "8MiB" },
    back: {
      kind: "domU",
      memory: "8MiB",
      extendedRegions: [{ base: 0x1_0000_0000, size: "8MiB" }],
      *program(kernel, given) {
        yield* userBack(kernel, { granter: "guest", death: String(given.facts.death) as Death });
      },
    },
    guest: {
      kind: "domU",
      memory: "8MiB",
      *program(kernel) {
        yield* userFront(kernel, { backend: "back" });
      },
    },
  },
  variants,
  expect: judge,
  table: {
    columns: [
      { title: "the process dies", text: (row) => text(row.death) },
      { title: "still mapped", align: "right", text: (row) => text(row.stillMapped) },
      { title: "byte cleared", text: (row) => text(row.byte) },
      { title: "event", text: (row) => text(row.event) },
      { title: "in use at its death", align: "right", text: (row) => text(row.refused) },
      { title: "in the end", align: "right", text: (row) => text(row.left) },
      { title: "left behind", text: (row) => text(row.leaked) || "nothing" },
      {
        title: "as expected",
        text: (row) => (row.sound === true ? "yes" : "NO"),
        mark: (row) => (row.sound === true ? "good" : "bad"),
      },
    ],
  },
});
