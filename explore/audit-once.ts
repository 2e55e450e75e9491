/**
 * The whole audit of a run, where nothing is judged twice: a run that has taken the same way as one before it is where that one
 * was, and a state that has been found sound is sound.
 *
 *   way known? -> sound.  state known? -> sound.  else: the audit from nothing
 *
 * Rule: whoever asks for it anew gets it anew, and learns whether what was passed over was right (D-3).
 * Ours; stress spec section 4: incremental in ordinary runs, recomputed from nothing every 256th.
 */
import { type Findings, stepCheck, wholeCheck } from "./checks.ts";
import type { MachineImage } from "./image.ts";
import type { Machine } from "./state.ts";
import { stateKey } from "./state-key.ts";

/** Sound states that are remembered. */
export const STATES_MAX = 100_000;
/** Ways that are remembered: a later one takes the place of an earlier one. */
const WAYS = 1 << 16;

export interface SoundStates {
  /** By state key, with the known holes that the state has. */
  readonly states: Map<number, readonly string[]>;
  /** Hashes of ways that led to a state without findings, each at the place that its lower bits name; 0: none. */
  readonly ways: Float64Array;
  /** Keys of states from which dead domains go when everybody, his program over, gives back what he holds of them. */
  readonly mortal: Set<number>;
}

export const soundStates = (): SoundStates => ({
  states: new Map(),
  ways: new Float64Array(WAYS),
  mortal: new Set(),
});

export interface AuditWish {
  /** Domains whose guests may write anything. */
  readonly hostile: (domid: number) => boolean;
  readonly anew: boolean;
}

const NOTHING: Findings = { broken: [], known: [] };

export function auditOnce(
  { states, ways }: SoundStates,
  machine: Machine,
  image: MachineImage,
  { hostile, anew }: AuditWish,
): Findings {
  const way = (machine.traceHash >>> 0) * 2 ** 21 + (machine.traceCheck >>> 11);
  const place = machine.traceHash & (WAYS - 1);
  const isKnownWay = ways[place] === way;
  if (isKnownWay && !anew) return NOTHING;
  const { xen } = machine;
  const step = stepCheck(xen);
  const isQuiet = step.broken.length + step.known.length === 0;
  if (step.broken.length > 0 && !anew) return step;
  const key = stateKey(image, xen);
  const holes = isQuiet ? states.get(key) : undefined;
  const all = holes === undefined || anew ? wholeCheck(xen, hostile) : { broken: [], known: holes };
  if (all.broken.length > 0) return isKnownWay || holes !== undefined ? differing(all) : all;
  if (!isQuiet) return all;
  if (states.size < STATES_MAX) states.set(key, all.known);
  if (all.known.length === 0) ways[place] = way;
  return all;
}

const differing = ({ broken, known }: Findings): Findings => ({
  broken: broken.map((text) => `D-3: was passed over as sound: ${text}`),
  known,
});
