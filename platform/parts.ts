/**
 * The parts of a machine as the main thread holds them: loaded, then run once, and ended at any moment.
 *
 * Rule: a run always settles with how it ended; a worker that is gone ends as a fault of its part.
 */
import { type Part, startDevice, startDomain, startHypervisor } from "./node.ts";
import type { DomainStart, End, Place, Posted, Start } from "./worker-api.ts";

export interface Running {
  /** Ends the worker wherever it stands; settles when it is gone. */
  terminate(): Promise<void>;
  /** Waits a moment for its run to return and gives the worker back; ends it when it does not come to that. */
  retire(): Promise<void>;
}

/** How long a part may take to notice that its machine is over. */
const RETIRE_MS = 100;

/** The hypervisor or a device. */
export interface PlainPart extends Running {
  run(): Promise<End>;
}

export interface GuestPart extends Running {
  run(place: Place): Promise<End>;
}

/** Keeps what is being started where `stop` finds it, whether or not its boot succeeds. */
export type Keep = (part: Running) => void;

/** Boots the hypervisor: afterwards the machine is built. */
export async function loadHypervisor(start: Start, keep: Keep): Promise<PlainPart> {
  const part = startHypervisor();
  const running = runningOf(part);
  keep(running);
  await part.alive(part.api.boot(start));
  return { ...running, run: () => running.settle(part.api.run()) };
}

export async function loadDevice(
  start: Start,
  device: { readonly name: string; readonly index: number },
  keep: Keep,
  posted: (what: Posted) => void,
): Promise<PlainPart> {
  const part = startDevice(device.name, posted);
  const running = runningOf(part);
  keep(running);
  await part.alive(part.api.boot(start, device.index));
  return { ...running, run: () => running.settle(part.api.run()) };
}

/** Boots a domain's worker, which must resolve the machine whose hash is `hash`. */
export async function loadDomain(
  start: DomainStart,
  domain: { readonly name: string; readonly hash: string },
  keep: Keep,
  posted: (what: Posted) => void,
): Promise<GuestPart> {
  const part = startDomain(domain.name, posted);
  const running = runningOf(part);
  keep(running);
  const hash = await part.alive(part.api.boot(start));
  if (hash !== domain.hash) {
    throw new Error(`${domain.name}: its worker has resolved another machine`);
  }
  return { ...running, run: (place) => running.settle(part.api.run(place)) };
}

/** A part's life as `stop` sees it. `settle` turns a call of `run` into how it ended. */
interface Life extends Running {
  settle(call: Promise<End>): Promise<End>;
}

function runningOf(part: Part<unknown>): Life {
  let ended: Promise<End> | undefined;
  return {
    terminate: part.terminate,
    settle: (call) => {
      ended = part.alive(call).catch((error: unknown) => ({
        how: "fault",
        error: error instanceof Error ? error.message : String(error),
      }));
      return ended;
    },
    retire: async () => {
      const end = await within(RETIRE_MS, ended);
      if (end?.how === "returned" || end?.how === "lost") part.recycle();
      else await part.terminate();
    },
  };
}

/** What a promise settles to within a time, or undefined. */
async function within<Value>(
  timeMs: number,
  promise: Promise<Value> | undefined,
): Promise<Value | undefined> {
  if (promise === undefined) return undefined;
  const late = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => late.resolve(undefined), timeMs);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
