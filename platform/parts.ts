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
}

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
  keep(part);
  await part.alive(part.api.boot(start));
  return { terminate: part.terminate, run: () => endOf(part, part.api.run()) };
}

export async function loadDevice(
  start: Start,
  device: { readonly name: string; readonly index: number },
  keep: Keep,
  posted: (what: Posted) => void,
): Promise<PlainPart> {
  const part = startDevice(device.name, posted);
  keep(part);
  await part.alive(part.api.boot(start, device.index));
  return { terminate: part.terminate, run: () => endOf(part, part.api.run()) };
}

/** Boots a domain's worker, which must resolve the machine whose hash is `hash`. */
export async function loadDomain(
  start: DomainStart,
  domain: { readonly name: string; readonly hash: string },
  keep: Keep,
  posted: (what: Posted) => void,
): Promise<GuestPart> {
  const part = startDomain(domain.name, posted);
  keep(part);
  const hash = await part.alive(part.api.boot(start));
  if (hash !== domain.hash) {
    throw new Error(`${domain.name}: its worker has resolved another machine`);
  }
  return { terminate: part.terminate, run: (place) => endOf(part, part.api.run(place)) };
}

const endOf = (part: Part<unknown>, call: Promise<End>): Promise<End> =>
  part.alive(call).catch((error: unknown) => ({
    how: "fault",
    error: error instanceof Error ? error.message : String(error),
  }));
