/**
 * State of a kernel's connection to the store: what xenbus.ts works on and a kernel keeps.
 * Rules: private to one kernel; only the functions of xenbus.ts change it.
 * Behaviour: Linux drivers/xen/xenbus/xenbus_xs.c, struct xs_handle and the list of watches.
 */
import type { Message, StoreEnd } from "./xenstore-ring.ts";

/** Paths that have changed under a watch, oldest first. */
export interface Watch {
  readonly path: string;
  readonly token: string;
  readonly events: string[];
}

/** A kernel's connection to the store. */
export interface StoreConnection {
  readonly end: StoreEnd;
  readonly port: number;
  readonly replies: Map<number, Message>;
  readonly watches: Watch[];
  lastId: number;
  lastToken: number;
  /** Counts events on the port: whoever waits for room in the ring waits for the next. */
  activity: number;
  /** A message is half in the ring: others wait. */
  sending: boolean;
  broken: boolean;
}
