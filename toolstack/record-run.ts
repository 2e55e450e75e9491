/**
 * What is written down while a machine runs: each choice of the explorer with what followed from it, or on threads what
 * the trace rings hold, and the state at the end.
 *
 * Rules: on threads the rings are looked at now and then, and a ring that has run over says how many of its records are
 * lost; the state of a threaded run is taken when nobody runs any more. Ours (ecosystem.md 7).
 */
import { gzipSync } from "node:zlib";
import type { Machine } from "../explore/state.ts";
import { at } from "../shared/assert.ts";
import { PGC_state_free, PGC_xen_heap } from "../shared/frame-flags.ts";
import { type Layout, LINE, lineOf, MACHINE } from "../shared/layout.ts";
import { EVTCHN_FIFO_ARRAY_PAGES, NOT_PRESENT, PAGE_SIZE } from "../shared/limits.ts";
import type { Words } from "../shared/mem.ts";
import * as records from "../shared/trace.ts";
import { FrameIndex } from "../shared/units.ts";
import { CHOICE, END, MARK, type RecordedEvent, type Recorder, STATE } from "./recording.ts";
import type { View } from "./view.ts";

/** Steps between two marks: a replay that goes another way is noticed within so many. */
const MARK_EVERY = 1024;

/** Event names by type number: `TRACE_GRANT_MAP` is `grant.map`. */
const EVENT_NAMES = new Map<number, string>(
  Object.entries(records).flatMap(([name, value]) =>
    name.startsWith("TRACE_") && typeof value === "number"
      ? [[value, name.slice("TRACE_".length).toLowerCase().replace("_", ".")] as const]
      : [],
  ),
);

/** Types whose first integer is the domain. */
const OF_DOMAIN: readonly number[] = [
  records.TRACE_GRANT_MAP,
  records.TRACE_GRANT_UNMAP,
  records.TRACE_GRANT_REFUSED,
  records.TRACE_P2M_SET,
  records.TRACE_P2M_CLEAR,
  records.TRACE_FLUSH,
  records.TRACE_EVENT,
  records.TRACE_DOMAIN,
];

const slotDomain = (words: Words, layout: Layout, slot: number): number =>
  at(words, lineOf(layout, slot) + LINE.DOMAIN);

/** Reads what has come into the trace rings since the last time. */
function ringReader(words: Words, layout: Layout): () => readonly RecordedEvent[] {
  const rings = [...layout.model.devices.map((_, i) => 1 + i), records.hypervisorRing(layout)];
  const seen = new Map(rings.map((ring) => [ring, records.traceCount(words, layout, ring)]));
  return () => {
    const events = rings.flatMap((ring) => {
      const from = seen.get(ring) ?? 0;
      const to = records.traceCount(words, layout, ring);
      seen.set(ring, to);
      return ringEvents(words, layout, ring, from, to);
    });
    // Each ring is in order already, and the sort is stable.
    return events.sort((a, b) => a[0] - b[0]);
  };
}

function ringEvents(
  words: Words,
  layout: Layout,
  ring: number,
  from: number,
  to: number,
): readonly RecordedEvent[] {
  const events: RecordedEvent[] = [];
  let lost = 0;
  for (let n = from; n < to; n++) {
    const record = records.traceRecord(words, layout, ring, n);
    if (record === undefined) {
      lost++;
      continue;
    }
    const [step = 0, type = 0, ...args] = record;
    events.push([step, domainOf(words, layout, ring, type, args), nameOf(type), ...args]);
  }
  if (lost === 0) return events;
  return [[events[0]?.[0] ?? 0, NOT_PRESENT, "lost", ring, lost], ...events];
}

const nameOf = (type: number): string => EVENT_NAMES.get(type) ?? `type ${type}`;

function domainOf(
  words: Words,
  layout: Layout,
  ring: number,
  type: number,
  args: readonly number[],
): number {
  if (OF_DOMAIN.includes(type)) return args[0] ?? NOT_PRESENT;
  if (type === records.TRACE_IOMMU_FAULT) return args[1] ?? NOT_PRESENT;
  if (type === records.TRACE_HYPERCALL) return slotDomain(words, layout, args[0] ?? 0);
  return type === records.TRACE_DMA ? slotDomain(words, layout, ring) : NOT_PRESENT;
}

/** Follows an explored machine from its first step. */
export interface ExploredRecorder {
  /** Hook of ExploreOptions. */
  readonly chosen: (machine: Machine, choice: number) => void;
  /** Writes what the last step did, and how the run ended. */
  finish(machine: Machine, ending: string): void;
}

export function recordExplored(recorder: Recorder): ExploredRecorder {
  let read: (() => readonly RecordedEvent[]) | undefined;
  const drain = (machine: Machine, step: number): void => {
    read ??= ringReader(machine.words, machine.layout);
    for (const [, ...rest] of read()) recorder.event(step, ...rest);
  };
  return {
    chosen: (machine, choice) => {
      // What is in the rings by then was done by the step before.
      drain(machine, machine.steps - 1);
      const domain = choice < 0 ? NOT_PRESENT : slotDomain(machine.words, machine.layout, choice);
      recorder.event(machine.steps, domain, CHOICE, choice);
      if (machine.steps % MARK_EVERY !== 0) return;
      recorder.event(machine.steps, NOT_PRESENT, MARK, machine.traceHash);
    },
    finish: (machine, ending) => {
      drain(machine, machine.steps);
      recorder.event(machine.steps, NOT_PRESENT, END, machine.traceHash, ending);
      recorder.close();
    },
  };
}

/** Follows a threaded machine. */
export interface ThreadedRecorder {
  /** Called now and then while the machine runs. */
  drain(): void;
  /** Called once nobody runs any more. */
  finish(view: View, ending: string): void;
}

export function recordThreaded(recorder: Recorder, words: Words, layout: Layout): ThreadedRecorder {
  const read = ringReader(words, layout);
  const drain = (): void => {
    for (const event of read()) recorder.event(...event);
  };
  return {
    drain,
    finish: (view, ending) => {
      drain();
      const step = at(words, MACHINE.STEP);
      recorder.event(step, NOT_PRESENT, STATE, ...packedState(view));
      recorder.event(step, NOT_PRESENT, END, 0, ending);
      recorder.close();
    },
  };
}

/** Frames that hold the hypervisor's own tables, and those that its records of events point into. */
function tableFrames({ layout, words }: View): readonly number[] {
  const frames = new Set<number>();
  for (let frame = 0; frame < layout.ramFrames; frame++) {
    const count = at(words, layout.frameCount + frame);
    if ((count & PGC_xen_heap) !== 0 && (count & PGC_state_free) === 0) frames.add(frame);
  }
  const pages = layout.model.limits.domains * EVTCHN_FIFO_ARRAY_PAGES;
  for (let page = 0; page < pages; page++) {
    const frame = at(words, layout.fifoArray + page);
    if (frame > 0) frames.add(frame);
  }
  return [...frames];
}

/** Control words, frame indexes and page contents: three packed texts. */
function packedState(view: View): readonly [string, string, string] {
  const frames = tableFrames(view);
  const pages = new Uint8Array(frames.length * PAGE_SIZE);
  for (const [i, frame] of frames.entries()) {
    view.memory.read(FrameIndex(frame), 0, pages, i * PAGE_SIZE, PAGE_SIZE);
  }
  const words = view.words.slice();
  return [
    pack(new Uint8Array(words.buffer, words.byteOffset, words.byteLength)),
    pack(new Uint8Array(Int32Array.from(frames).buffer)),
    pack(pages),
  ];
}

const pack = (bytes: Uint8Array): string => gzipSync(bytes).toString("base64");
