/**
 * The verdict on one transfer of the founding experiment: what the machine did, read from its bytes, held against
 * predict(). Readers only: the disk's trace of bursts, the P2M of the two domains, the frame table.
 *
 * Rule: the frames that were granted and the buffer's gfns are facts of the run; where the bursts had to land follows
 * from predict() alone. Ours.
 */
import { at } from "./assert.ts";
import { PGC_xen_heap } from "./frame-flags.ts";
import { DOM, domainOf, LINE, lineOf, mfnAt, WALK_TABLE } from "./layout.ts";
import { NOT_PRESENT, PAGE_SIZE } from "./limits.ts";
import { walk } from "./mmu.ts";
import { type Prediction, predict, type TransferFacts } from "./predict.ts";
import { busOffsetOf } from "./resolve-devices.ts";
import type { FinalState, Judgement } from "./scenario.ts";
import { TRACE_DMA, traceCount, traceRecord } from "./trace.ts";
import { FrameIndex } from "./units.ts";

/** One variant's result: the JSON of `gfn2mfn/result@1`. */
export interface TransferRow {
  readonly name: string;
  readonly backend: "dom0" | "driver";
  /** gfn == mfn for the backend's own RAM. */
  readonly directMapped: boolean;
  readonly iommu: boolean;
  readonly pages: "unpopulated" | "ballooned";
  readonly busOffset: number;
  readonly source: "dma-layer" | "page_to_phys";
  /** What is special about the board of this variant, or nothing. */
  readonly note: string;
  /** First DMA address given to the disk; null when the kernel refused the mapping. */
  readonly address: number | null;
  readonly by: string | null;
  readonly translatedBy: "guest" | "iommu" | "nobody";
  /** Machine frame: the first target that is not the granted frame, else the first; null: none was reached. */
  readonly frame: number | null;
  readonly owner: string;
  readonly segments: number;
  readonly faults: number;
  readonly bounced: number;
  readonly verdict: Prediction["verdict"];
  readonly expected: boolean;
  readonly bytes: number;
  readonly sha256: string;
  readonly fileSha256: string;
}

/** Where the bursts went. */
interface Targets {
  /** Frame index of the first target that is not the granted frame, else of the first; NOT_PRESENT: none. */
  readonly frame: number;
  readonly missed: boolean;
  /** Number of the last burst into `frame`. */
  readonly lastBurst: number;
}

const DOMAIN_NAMES = { dom0: "dom0", driver: "drv" } as const;

export function judgeTransfer(state: FinalState): Judgement {
  const facts = factsOf(state);
  const backend = DOMAIN_NAMES[facts.backend];
  const granted = grantedFrames(state);
  const transfer = transferFacts(state, backend, facts, granted);
  const prediction = predict(transfer);
  const targets = observe(state, granted);
  const number = (key: string): number => Number(state.reported(backend, key) ?? 0);
  const address = state.reported(backend, "address");
  const by = state.reported(backend, "by");
  const fileSha256 = hashFile(state);
  const sha256 = String(state.reported("guest", "sha256") ?? "");
  const verdict = verdictOf(number("refused"), number("faults"), targets, sha256 === fileSha256);
  const observed = {
    verdict,
    address: typeof address === "number" ? address : null,
    by: typeof by === "string" ? by : null,
    translatedBy: translator(state, by),
    frame: targets.frame === NOT_PRESENT ? null : mfnAt(state.layout, targets.frame),
  };
  const owner = ownerName(state, targets.frame);
  const claims = [...compare(prediction, observed), ...victimClaim(state, targets, owner)];
  const row: TransferRow = {
    name: state.variant,
    ...facts,
    directMapped: transfer.directMapped,
    ...observed,
    owner,
    segments: number("segments"),
    faults: number("faults"),
    bounced: number("bounced"),
    expected: claims.every((claim) => claim.holds),
    bytes: number("moved"),
    sha256,
    fileSha256,
  };
  return { row: { ...row }, expectations: claims };
}

type RunFacts = Pick<TransferRow, "backend" | "iommu" | "pages" | "busOffset" | "source" | "note">;

/** What the variant says about the story, and what the machine says about itself: overrides may have changed it. */
function factsOf(state: FinalState): RunFacts {
  const facts = state.facts as unknown as RunFacts;
  const [device] = state.model.devices;
  const name = DOMAIN_NAMES[facts.backend];
  const announced = state.model.domains.find((domain) => domain.name === name)?.extendedRegions;
  return {
    ...facts,
    iommu: device?.behindIommu === true,
    pages: announced?.length === 0 ? "ballooned" : "unpopulated",
    busOffset: device === undefined ? 0 : busOffsetOf(device),
  };
}

/** Domid of a domain by name: ids are given out in the order of the model. */
const domidOf = (state: FinalState, name: string): number =>
  state.model.domains.filter((domain) => domain.atBoot).findIndex((domain) => domain.name === name);

/** Frame index behind a gfn of a domain at the end of the run, or NOT_PRESENT. */
function frameOf(state: FinalState, domid: number, gfn: number): number {
  const root = at(state.words, domainOf(state.layout, domid) + DOM.P2M_ROOT);
  const found = walk(state.layout, state.words, state.memory, root, gfn);
  return found < 0 ? NOT_PRESENT : found >>> 3;
}

/** Machine frames behind the buffer of the first round: the frontend's pages in order, as many as the bytes take. */
function grantedFrames(state: FinalState): readonly number[] {
  const gfns = String(state.reported("guest", "gfns") ?? "");
  const pages = Math.ceil(Number(state.parameters.bytes) / PAGE_SIZE);
  const domid = domidOf(state, "guest");
  return gfns
    .split(",")
    .filter((gfn) => gfn !== "")
    .slice(0, pages)
    .map((gfn) => mfnAt(state.layout, frameOf(state, domid, Number(gfn))));
}

function transferFacts(
  state: FinalState,
  backend: string,
  facts: Pick<TransferRow, "iommu" | "source">,
  granted: readonly number[],
): TransferFacts {
  const domid = domidOf(state, backend);
  const domain = state.model.domains.find(({ name }) => name === backend);
  return {
    directMapped: domain?.directMapped === true,
    iommu: facts.iommu,
    source: facts.source,
    windows: state.model.devices[0]?.dmaRanges ?? [],
    bufferGfn: Number(state.reported(backend, "bufferGfn") ?? 0),
    granted,
    hostRam: state.model.banks,
    ownRam: (gfn) => {
      const frame = frameOf(state, domid, gfn);
      return frame === NOT_PRESENT ? undefined : mfnAt(state.layout, frame);
    },
  };
}

/** Burst n of a transfer belongs to page n of the buffer, round after round. */
function observe(state: FinalState, granted: readonly number[]): Targets {
  const { words, layout } = state;
  const slot = at(words, layout.deviceSlot);
  const count = traceCount(words, layout, slot);
  const targets = { frame: NOT_PRESENT, missed: false, lastBurst: 0 };
  let burst = 0;
  for (let n = 0; n < count; n++) {
    const record = traceRecord(words, layout, slot, n);
    if (record === undefined || record[1] !== TRACE_DMA) continue;
    const frame = record[3] ?? NOT_PRESENT;
    const right = mfnAt(layout, frame) === granted[burst % granted.length];
    if (targets.frame === NOT_PRESENT) targets.frame = frame;
    if (!right && !targets.missed) {
      targets.missed = true;
      targets.frame = frame;
    }
    if (frame === targets.frame) targets.lastBurst = burst;
    burst++;
  }
  return targets;
}

/** Bytes that went through a bounce buffer and arrived count as right. */
function verdictOf(
  refused: number,
  faults: number,
  targets: Targets,
  arrived: boolean,
): Prediction["verdict"] {
  if (refused > 0) return "refused";
  if (targets.missed && !arrived) return "wrong-frame";
  return faults > 0 || !arrived ? "fault" : "right-frame";
}

/** Who turned the address into a frame: the IOMMU if the device walks a table, else the kernel that made it. */
function translator(
  state: FinalState,
  by: string | number | undefined,
): TransferRow["translatedBy"] {
  const slot = at(state.words, state.layout.deviceSlot);
  if (at(state.words, lineOf(state.layout, slot) + LINE.MODE) === WALK_TABLE) return "iommu";
  return by === "xen_phys_to_dma" ? "guest" : "nobody";
}

function ownerName(state: FinalState, frame: number): string {
  if (frame === NOT_PRESENT) return "nobody";
  const { words, layout } = state;
  if ((at(words, layout.frameCount + frame) & PGC_xen_heap) !== 0) return "xen";
  const domid = at(words, layout.frameOwner + frame);
  if (domid === NOT_PRESENT) return "free";
  const model = at(words, domainOf(layout, domid) + DOM.MODEL);
  return state.model.domains[model]?.name ?? `d${domid}`;
}

function hashFile(state: FinalState): string {
  const bytes = Number(state.parameters.bytes);
  const hash = state.host.sha256();
  const chunk = new Uint8Array(256 * PAGE_SIZE);
  for (let done = 0; done < bytes; ) {
    const length = Math.min(chunk.length, bytes - done);
    const got = state.host.readAt(done, chunk, length);
    if (got <= 0) break;
    hash.update(chunk.subarray(0, got));
    done += got;
  }
  return hash.hex();
}

type Observed = Pick<TransferRow, "verdict" | "address" | "by" | "translatedBy" | "frame">;

function compare(prediction: Prediction, observed: Observed): Judgement["expectations"] {
  const reached = observed.address !== null;
  const pairs: readonly (readonly [string, unknown, unknown])[] = [
    ["verdict", prediction.verdict, observed.verdict],
    ["address", prediction.address ?? null, observed.address],
    ["maker of the address", reached ? prediction.by : null, observed.by],
    ["translator", prediction.translatedBy, observed.translatedBy],
    ["frame", prediction.frame ?? null, observed.frame],
  ];
  return pairs.map(([what, wanted, got]) => ({
    claim: `the ${what} is as predicted: ${wanted}`,
    holds: wanted === got,
    got: String(got),
  }));
}

/** A stranger's frame that was hit holds the file's bytes now: the damage is real. */
function victimClaim(
  state: FinalState,
  targets: Targets,
  owner: string,
): Judgement["expectations"] {
  if (!targets.missed) return [];
  const file = new Uint8Array(PAGE_SIZE);
  const start = targets.lastBurst * PAGE_SIZE;
  const length = Math.min(PAGE_SIZE, Number(state.parameters.bytes) - start);
  const got = state.host.readAt(start, file, length);
  const frame = new Uint8Array(PAGE_SIZE);
  state.memory.read(FrameIndex(targets.frame), 0, frame, 0, PAGE_SIZE);
  const changed = got > 0 && file.subarray(0, got).every((byte, i) => byte === frame[i]);
  return [{ claim: `the frame of ${owner} that was hit holds the file's bytes`, holds: changed }];
}
