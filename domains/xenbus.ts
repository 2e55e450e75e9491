/**
 * The kernel's side of the store: requests and watches over the ring page that the domain builder made.
 *
 *   task: request -> ring -> event -> parked      xenbus daemon: event -> ring -> reply or watch event -> task
 *
 * Rules: a failure is a negative errno, a value is text. Several tasks may have requests under way; each
 * gets the reply with its own id. A watch fires once as soon as it is set and may fire for nothing.
 * Behaviour: Linux drivers/xen/xenbus/xenbus_xs.c, xenbus_comms.c, xenbus_client.c.
 */

import { DOMID_SELF, HVM_PARAM_STORE_EVTCHN, HVM_PARAM_STORE_PFN } from "../shared/abi/xen.ts";
import {
  XenbusStateUnknown,
  XS_DIRECTORY,
  XS_ERROR,
  XS_MKDIR,
  XS_READ,
  XS_RM,
  XS_UNWATCH,
  XS_WATCH,
  XS_WATCH_EVENT,
  XS_WRITE,
} from "../shared/abi/xenstore.ts";
import { assert } from "../shared/assert.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import {
  E2BIG,
  EACCES,
  EAGAIN,
  EEXIST,
  EINVAL,
  EIO,
  ENODEV,
  ENOENT,
  ENOMEM,
  ENOSPC,
  ENOSYS,
} from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { allocPort, notifyPort, requestIrq } from "./events.ts";
import { getHvmParam } from "./hypercalls.ts";
import { type Kernel, spawnDaemon, wait, waitUntil } from "./kernel.ts";
import { zeroPage } from "./memory.ts";
import { allocPage, pageToPhys } from "./pages.ts";
import type { StoreConnection, Watch } from "./xenstore-connection.ts";
import {
  bytesOf,
  clientEnd,
  type Message,
  packMessage,
  receive,
  stringsOf,
  textOf,
  writeRing,
} from "./xenstore-ring.ts";

const ERRORS: Readonly<Record<string, number>> = {
  E2BIG,
  EACCES,
  EAGAIN,
  EEXIST,
  EINVAL,
  EIO,
  ENOENT,
  ENOMEM,
  ENOSPC,
  ENOSYS,
};

/**
 * xenbus_init: finds the ring page and the port, and starts the task that reads replies. dom0, which runs the
 * daemon, makes both itself (XS_LOCAL). -ENODEV: there is no store on this machine.
 */
export function* connectStore(kernel: Kernel): Program<number> {
  const pfn = yield* getHvmParam(kernel, DOMID_SELF, HVM_PARAM_STORE_PFN);
  const port = yield* getHvmParam(kernel, DOMID_SELF, HVM_PARAM_STORE_EVTCHN);
  if (pfn > 0 && port > 0) {
    const bound = yield* requestIrq(kernel, port);
    if (bound < 0) return bound;
    startStore(kernel, pfn * PAGE_SIZE, port);
    return 0;
  }
  return kernel.boot.domid === 0 ? yield* makeLocalStore(kernel) : -ENODEV;
}

/** xenstored_local_init: a zeroed page and a port towards itself. */
function* makeLocalStore(kernel: Kernel): Program<number> {
  const page = allocPage(kernel.memory.pages);
  if (page === undefined) return -ENOMEM;
  yield* zeroPage(kernel.cpu, pageToPhys(page));
  const port = yield* allocPort(kernel, DOMID_SELF);
  if (port < 0) return port;
  startStore(kernel, pageToPhys(page), port);
  return 0;
}

function startStore(kernel: Kernel, page: number, port: number): void {
  const store: StoreConnection = {
    end: clientEnd(kernel.cpu, page),
    port,
    replies: new Map(),
    watches: [],
    lastId: 0,
    lastToken: 0,
    activity: 0,
    sending: false,
    broken: false,
  };
  kernel.store = store;
  spawnDaemon(kernel, "xenbus", readStore(kernel, store));
}

function storeOf(kernel: Kernel): StoreConnection {
  assert(kernel.store !== undefined, "the store is connected before it is used");
  return kernel.store;
}

/** The daemon: hands every message that arrives to whoever waits for it. */
function* readStore(kernel: Kernel, store: StoreConnection): Program {
  for (;;) {
    const got = yield* receive(store.end);
    if (got === "nothing") {
      yield* wait(kernel, store.port);
      store.activity++;
      continue;
    }
    if (typeof got === "number") {
      store.broken = true;
      return;
    }
    yield* notifyPort(kernel, store.port);
    if (got === "part") continue;
    if (got.type === XS_WATCH_EVENT) deliverEvent(store, got);
    else store.replies.set(got.reqId, got);
  }
}

function deliverEvent(store: StoreConnection, message: Message): void {
  const [path, token] = stringsOf(message.payload);
  // An event for a watch that has been taken away meanwhile has nobody to go to.
  const watch = store.watches.find((one) => one.token === token);
  if (watch !== undefined && path !== undefined) watch.events.push(path);
}

function* sendMessage(kernel: Kernel, store: StoreConnection, bytes: Uint8Array): Program {
  yield* waitUntil(kernel, () => !store.sending || store.broken);
  store.sending = true;
  for (let at = 0; at < bytes.length && !store.broken; ) {
    const seen = store.activity;
    const count = yield* writeRing(store.end, bytes, at, bytes.length - at);
    if (count < 0) store.broken = true;
    else if (count > 0) yield* notifyPort(kernel, store.port);
    else yield* waitUntil(kernel, () => store.activity !== seen || store.broken);
    at += Math.max(0, count);
  }
  store.sending = false;
}

/** One request; returns the reply's payload as text, or a negative errno. */
function* request(kernel: Kernel, type: number, payload: string): Program<string | number> {
  const store = storeOf(kernel);
  store.lastId = (store.lastId + 1) >>> 0;
  const reqId = store.lastId;
  const bytes = packMessage({ type, reqId, txId: 0, payload: bytesOf(payload) });
  yield* sendMessage(kernel, store, bytes);
  yield* waitUntil(kernel, () => store.replies.has(reqId) || store.broken);
  const reply = store.replies.get(reqId);
  if (reply === undefined) return -EIO;
  store.replies.delete(reqId);
  const text = textOf(reply.payload);
  if (reply.type !== XS_ERROR) return text;
  return -(ERRORS[text.replace("\0", "")] ?? EINVAL);
}

const outcome = (reply: string | number): number => (typeof reply === "number" ? reply : 0);

/** Value of a node, or a negative errno. */
export function* readStoreNode(kernel: Kernel, path: string): Program<string | number> {
  return yield* request(kernel, XS_READ, `${path}\0`);
}

/** Value of a node as a number, or a negative errno; -EINVAL when it is not a number. */
export function* readStoreNumber(kernel: Kernel, path: string): Program<number> {
  const text = yield* readStoreNode(kernel, path);
  if (typeof text === "number") return text;
  return /^\d+$/.test(text) ? Number(text) : -EINVAL;
}

/** Writes a node and makes the parents that are missing: 0 or a negative errno. */
export function* writeStoreNode(
  kernel: Kernel,
  path: string,
  value: string | number,
): Program<number> {
  return outcome(yield* request(kernel, XS_WRITE, `${path}\0${value}`));
}

/** Names of a node's children, or a negative errno. */
export function* listStoreNode(kernel: Kernel, path: string): Program<string[] | number> {
  const reply = yield* request(kernel, XS_DIRECTORY, `${path}\0`);
  return typeof reply === "number" ? reply : reply.split("\0").filter((name) => name !== "");
}

/** Makes an empty node: 0 or a negative errno. */
export function* makeStoreNode(kernel: Kernel, path: string): Program<number> {
  return outcome(yield* request(kernel, XS_MKDIR, `${path}\0`));
}

/** Removes a node with everything below it: 0 or a negative errno. */
export function* removeStoreNode(kernel: Kernel, path: string): Program<number> {
  return outcome(yield* request(kernel, XS_RM, `${path}\0`));
}

/** Sets a watch; it fires at once. A negative errno when the store refuses it. */
export function* watchStore(kernel: Kernel, path: string): Program<Watch | number> {
  const store = storeOf(kernel);
  store.lastToken++;
  const watch: Watch = { path, token: String(store.lastToken), events: [] };
  // Events may come before the answer.
  store.watches.push(watch);
  const result = outcome(yield* request(kernel, XS_WATCH, `${path}\0${watch.token}\0`));
  if (result === 0) return watch;
  store.watches.splice(store.watches.indexOf(watch), 1);
  return result;
}

/** Takes a watch away; what it has not delivered yet is lost. */
export function* unwatchStore(kernel: Kernel, watch: Watch): Program<number> {
  const store = storeOf(kernel);
  const result = outcome(yield* request(kernel, XS_UNWATCH, `${watch.path}\0${watch.token}\0`));
  const index = store.watches.indexOf(watch);
  if (index >= 0) store.watches.splice(index, 1);
  return result;
}

/** Parks the task until the watch has fired; returns the oldest path. Undefined: the connection is broken. */
export function* waitWatch(kernel: Kernel, watch: Watch): Program<string | undefined> {
  const store = storeOf(kernel);
  yield* waitUntil(kernel, () => watch.events.length > 0 || store.broken);
  return watch.events.shift();
}

/** xenbus_read_driver_state: the state below `path`, XenbusStateUnknown when it cannot be read. */
export function* readState(kernel: Kernel, path: string): Program<number> {
  const state = yield* readStoreNumber(kernel, `${path}/state`);
  return state < 0 ? XenbusStateUnknown : state;
}

/** xenbus_switch_state: writes the own state node; one that has vanished is not made again. */
export function* switchState(kernel: Kernel, path: string, state: number): Program<number> {
  const present = yield* readStoreNumber(kernel, `${path}/state`);
  if (present === -ENOENT) return 0;
  return yield* writeStoreNode(kernel, `${path}/state`, state);
}
