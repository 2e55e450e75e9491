/**
 * The last trace records of the hypervisor in words: what a report about a bug of ours ends with.
 * Reads bytes only.
 */
import type { Layout } from "../shared/layout.ts";
import type { Words } from "../shared/mem.ts";
import { formatHex } from "../shared/sizes.ts";
import * as records from "../shared/trace.ts";

const TAIL = 20;

/** Name of a record type, from the constants of shared/trace.ts. */
function typeName(type: number): string {
  const found = Object.entries(records).find(
    ([name, value]) => name.startsWith("TRACE_") && value === type,
  );
  return found === undefined ? `type ${type}` : found[0].slice("TRACE_".length).toLowerCase();
}

/** At most `count` lines, the newest last: logical time, type, arguments. */
export function traceTail(words: Words, layout: Layout, count = TAIL): readonly string[] {
  const ring = records.hypervisorRing(layout);
  const written = records.traceCount(words, layout, ring);
  const lines: string[] = [];
  for (let n = Math.max(0, written - count); n < written; n++) {
    const record = records.traceRecord(words, layout, ring, n);
    if (record === undefined) continue;
    const [step = 0, type = 0, ...args] = record;
    lines.push(`${step}  ${typeName(type)}  ${args.map(formatHex).join(" ")}`);
  }
  return lines;
}
