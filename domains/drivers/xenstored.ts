/**
 * The store daemon of dom0: finds domains, serves each one's ring, and tells who comes and goes.
 *
 *   VIRQ_DOM_EXC -> scan ids upwards: new domain -> params -> map grant 1, bind its port, home -> @introduceDomain
 *                                     dying, shut down or gone -> unmap, close -> @releaseDomain
 *
 * Rules: one task a connection, parked until its port has an event or something is queued for it. A message
 * longer than 4096 bytes or an index that cannot be ends a connection: it is ignored from there on, with the
 * reason in its ring page. dom0's own connection is a ring page like any other, both ends in dom0.
 * Behaviour: xen tools/xenstored/domain.c; the homes, which xl makes on real systems, are made here.
 */
import { XEN_DOMINF_dying, XEN_DOMINF_shutdown } from "../../shared/abi/domctl.ts";
import { VIRQ_DOM_EXC } from "../../shared/abi/event-channel.ts";
import { GNTTAB_RESERVED_XENSTORE } from "../../shared/abi/grant.ts";
import { HVM_PARAM_STORE_EVTCHN, HVM_PARAM_STORE_PFN } from "../../shared/abi/xen.ts";
import {
  XENSTORE_ERROR,
  XENSTORE_ERROR_PROTO,
  XENSTORE_ERROR_RINGIDX,
  XENSTORE_SERVER_FEATURE_ERROR,
  XENSTORE_SERVER_FEATURES,
} from "../../shared/abi/xenstore.ts";
import { PAGE_SIZE, STORE_OUTSTANDING_MAX } from "../../shared/limits.ts";
import type { Program } from "../../shared/trap.ts";
import { bugOn } from "../bug.ts";
import { takePort } from "../event-state.ts";
import { bindPort, bindVirqPort, closePort, notifyPort } from "../events.ts";
import { getDomainInfo, getHvmParam } from "../hypercalls.ts";
import { giveWay, type Kernel, spawn, wait, waitUntil } from "../kernel.ts";
import { storeWord } from "../memory.ts";
import { type MappedRing, mapRing, unmapRing } from "../ring-map.ts";
import { receive, type StoreEnd, serverEnd, TOO_LONG, writeRing } from "../xenstore-ring.ts";
import {
  createStore,
  fireSpecial,
  handleRequest,
  INTRODUCE_DOMAIN,
  makeHome,
  RELEASE_DOMAIN,
  removeHome,
  type Store,
  type StoreClient,
} from "./store-server.ts";

interface Connection extends StoreClient {
  readonly port: number;
  readonly end: StoreEnd;
  /** Undefined for dom0's own page, which needs no grant. */
  readonly ring: MappedRing | undefined;
  /** Bytes of the oldest message in the outbox that are in the ring already. */
  sent: number;
  /** The ring was full: nothing to do for the outbox before the next event. */
  stalled: boolean;
  over: boolean;
}

/** A domain as the daemon knows it. */
interface Known {
  readonly domid: number;
  /** Undefined once the domain is dying. */
  connection: Connection | undefined;
  shutdown: boolean;
}

interface Daemon {
  readonly kernel: Kernel;
  readonly store: Store;
  readonly known: Map<number, Known>;
}

/** xenstored: never ends. The kernel has connected to the store before. */
export function* runXenstored(kernel: Kernel): Program {
  const daemon: Daemon = { kernel, store: createStore(), known: new Map() };
  const port = yield* bindVirqPort(kernel, VIRQ_DOM_EXC);
  bugOn(port < 0, `binding VIRQ_DOM_EXC answered ${port}`);
  for (;;) {
    yield* scanDomains(daemon);
    yield* wait(kernel, port);
  }
}

/** Walks all domains by "the next id that is at least this", as getdomaininfo counts. */
function* scanDomains(daemon: Daemon): Program {
  const seen = new Set<number>();
  let released = false;
  for (let first = 0; ; ) {
    const info = yield* getDomainInfo(daemon.kernel, first);
    if (typeof info === "number" || info.domid < first) break;
    seen.add(info.domid);
    first = info.domid + 1;
    const known = daemon.known.get(info.domid);
    const dying = (info.flags & XEN_DOMINF_dying) !== 0;
    const shut = (info.flags & XEN_DOMINF_shutdown) !== 0;
    if (known === undefined && !dying) yield* introduce(daemon, info.domid);
    if (known === undefined) continue;
    released ||= (shut && !known.shutdown) || (dying && known.connection !== undefined);
    known.shutdown ||= shut;
    if (dying) yield* release(daemon, known);
  }
  for (const [domid, known] of [...daemon.known]) {
    if (seen.has(domid)) continue;
    released ||= known.connection !== undefined;
    yield* release(daemon, known);
    daemon.known.delete(domid);
  }
  if (released) fireSpecial(daemon.store, RELEASE_DOMAIN);
}

/** Where a domain's ring page and port are: dom0's own kernel has made them, a builder those of the others. */
function* findRing(kernel: Kernel, domid: number): Program<{ page: number; port: number }> {
  if (domid === kernel.boot.domid) {
    return { page: kernel.store?.end.page ?? 0, port: kernel.store?.port ?? 0 };
  }
  const pfn = yield* getHvmParam(kernel, domid, HVM_PARAM_STORE_PFN);
  const port = yield* getHvmParam(kernel, domid, HVM_PARAM_STORE_EVTCHN);
  return { page: pfn * PAGE_SIZE, port };
}

/** Connects a new domain, if it has a store page and port. */
function* introduce(daemon: Daemon, domid: number): Program {
  const { kernel, store, known } = daemon;
  const found = yield* findRing(kernel, domid);
  if (found.page <= 0 || found.port <= 0) return;
  const own = domid === kernel.boot.domid;
  const ring = own ? undefined : yield* mapRing(kernel, domid, GNTTAB_RESERVED_XENSTORE);
  // A domain that died meanwhile has nothing left to serve; the next scan sees it no more.
  if (typeof ring === "number") return;
  const port = yield* bindPort(kernel, domid, found.port);
  if (port < 0) {
    if (ring !== undefined) yield* unmapRing(kernel, ring);
    return;
  }
  const page = ring?.gaddr ?? found.page;
  const connection: Connection = {
    domid,
    port,
    end: serverEnd(kernel.cpu, page),
    ring,
    watches: [],
    outbox: [],
    sent: 0,
    stalled: false,
    over: false,
  };
  yield* storeWord(kernel.cpu, page + XENSTORE_SERVER_FEATURES, XENSTORE_SERVER_FEATURE_ERROR);
  known.set(domid, { domid, connection, shutdown: false });
  store.clients.push(connection);
  makeHome(store, domid);
  spawn(kernel, `xenstored ${domid}`, serve(daemon, connection));
  fireSpecial(store, INTRODUCE_DOMAIN);
}

/** Lets go of a domain: its ring page is what keeps a dead domain's last page alive. */
function* release(daemon: Daemon, known: Known): Program {
  const { connection } = known;
  known.connection = undefined;
  if (connection === undefined) return;
  forget(daemon.store, connection);
  connection.over = true;
  if (connection.ring !== undefined) yield* unmapRing(daemon.kernel, connection.ring);
  yield* closePort(daemon.kernel, connection.port);
  removeHome(daemon.store, known.domid);
}

function forget(store: Store, connection: Connection): void {
  const index = store.clients.indexOf(connection);
  if (index >= 0) store.clients.splice(index, 1);
  connection.watches.length = 0;
  connection.outbox.length = 0;
}

/** Task of one connection: requests in, replies and events out. */
function* serve(daemon: Daemon, connection: Connection): Program {
  const { kernel, store } = daemon;
  const mayGoOn = (): boolean =>
    connection.over ||
    takePort(kernel.events, connection.port) ||
    (connection.outbox.length > 0 && !connection.stalled);
  for (;;) {
    // Who does not read its answers is not listened to either.
    const listens = connection.outbox.length < STORE_OUTSTANDING_MAX;
    const got = listens ? yield* receive(connection.end) : "nothing";
    if (typeof got === "number") return yield* ignore(daemon, connection, got);
    if (got !== "nothing") yield* notifyPort(kernel, connection.port);
    if (typeof got === "object") handleRequest(store, connection, got);
    const flushed = yield* flush(kernel, connection);
    if (flushed < 0) return yield* ignore(daemon, connection, flushed);
    // One request a turn: a client that never stops asking does not keep the others waiting.
    if (typeof got === "object" || flushed > 0) yield* giveWay(kernel);
    else yield* waitUntil(kernel, mayGoOn);
    if (connection.over) return;
    connection.stalled = false;
  }
}

/** Sends what fits of the outbox; returns the bytes sent, or a negative errno when the ring is broken. */
function* flush(kernel: Kernel, connection: Connection): Program<number> {
  let total = 0;
  for (;;) {
    const message = connection.outbox[0];
    if (message === undefined) break;
    const left = message.length - connection.sent;
    const count = yield* writeRing(connection.end, message, connection.sent, left);
    if (count < 0) return count;
    connection.stalled = count === 0;
    if (count === 0) break;
    total += count;
    connection.sent += count;
    if (connection.sent === message.length) {
      connection.outbox.shift();
      connection.sent = 0;
    }
  }
  if (total > 0) yield* notifyPort(kernel, connection.port);
  return total;
}

/** The client has broken the protocol: nobody listens to it any more, and its ring page says why. */
function* ignore(daemon: Daemon, connection: Connection, reason: number): Program {
  const code = reason === TOO_LONG ? XENSTORE_ERROR_PROTO : XENSTORE_ERROR_RINGIDX;
  forget(daemon.store, connection);
  yield* storeWord(daemon.kernel.cpu, connection.end.page + XENSTORE_ERROR, code);
  yield* notifyPort(daemon.kernel, connection.port);
}
