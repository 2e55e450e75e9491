/**
 * What the store answers: requests to the tree, watches, special watches. It moves no bytes: replies and
 * events are queued on their connections, and the daemon sends them.
 *
 * Rules: a watch fires once as soon as it is set; later for a change at its path or below, if its owner may
 * read there; an event may be spurious, never missing. Watch events go before the reply of the request that
 * caused them. Error replies are text.
 * Behaviour: xen tools/xenstored/core.c, watch.c; transactions are left out (docs/FIDELITY.md).
 */
import {
  XENSTORE_PAYLOAD_MAX,
  XS_DIRECTORY,
  XS_ERROR,
  XS_GET_DOMAIN_PATH,
  XS_GET_PERMS,
  XS_IS_DOMAIN_INTRODUCED,
  XS_MKDIR,
  XS_READ,
  XS_RM,
  XS_SET_PERMS,
  XS_UNWATCH,
  XS_WATCH,
  XS_WATCH_EVENT,
  XS_WRITE,
} from "../../shared/abi/xenstore.ts";
import { STORE_WATCHES_MAX } from "../../shared/limits.ts";
import { bytesOf, type Message, packMessage, stringsOf, textOf } from "../xenstore-ring.ts";
import {
  absolutePath,
  createTree,
  findNode,
  getPermissions,
  listNode,
  makeDirectory,
  type Permission,
  parsePermission,
  permitted,
  readNode,
  removeNode,
  type StoreAnswer,
  type StoreError,
  type StoreTree,
  setPermissions,
  writeNode,
} from "./store-tree.ts";

export const INTRODUCE_DOMAIN = "@introduceDomain";
export const RELEASE_DOMAIN = "@releaseDomain";

interface StoreWatch {
  /** Absolute, or a special name. */
  readonly path: string;
  /** What the client wrote, which events are spelled like. */
  readonly spelled: string;
  readonly token: string;
}

/** One client, as far as answers go. */
export interface StoreClient {
  readonly domid: number;
  readonly watches: StoreWatch[];
  /** Packed messages to be sent, oldest first. */
  readonly outbox: Uint8Array[];
}

export interface Store {
  readonly tree: StoreTree;
  readonly clients: StoreClient[];
}

export const createStore = (): Store => ({ tree: createTree(), clients: [] });

const send = (client: StoreClient, message: Message): void => {
  client.outbox.push(packMessage(message));
};

function sendEvent(client: StoreClient, watch: StoreWatch, path: string): void {
  const payload = bytesOf(`${path}\0${watch.token}\0`);
  send(client, { type: XS_WATCH_EVENT, reqId: 0, txId: 0, payload });
}

const isBelow = (path: string, top: string): boolean =>
  path === top || top === "/" || path.startsWith(`${top}/`);

/** Whether a change at `path` may be told to `domid`: it may read the node, or the ancestor that is left of it. */
function mayHear(store: Store, domid: number, path: string): boolean {
  for (let up = path; up.length > 0; up = up.slice(0, up.lastIndexOf("/"))) {
    const node = findNode(store.tree, up);
    if (node !== undefined) return permitted(node, domid, "r");
  }
  return permitted(store.tree.root, domid, "r");
}

/** Tells everyone who watches `path` or above. A removal is told to those who watch below it as well. */
export function fireWatches(store: Store, path: string, removal: 0 | 1): void {
  for (const client of store.clients) {
    if (!mayHear(store, client.domid, path)) continue;
    for (const watch of client.watches) {
      if (isBelow(path, watch.path)) {
        const shown = watch.spelled === watch.path ? path : relativePath(client.domid, path);
        sendEvent(client, watch, shown);
      } else if (removal === 1 && isBelow(watch.path, path)) {
        sendEvent(client, watch, watch.spelled);
      }
    }
  }
}

const relativePath = (domid: number, path: string): string =>
  path.slice(`/local/domain/${domid}/`.length);

/** Tells everyone who watches a special name. */
export function fireSpecial(store: Store, name: string): void {
  for (const client of store.clients) {
    for (const watch of client.watches) {
      if (watch.path === name) sendEvent(client, watch, name);
    }
  }
}

/** The home of a new domain: it owns it, and others may look. */
export function makeHome(store: Store, domid: number): void {
  const home = `/local/domain/${domid}`;
  makeDirectory(store.tree, 0, home);
  setPermissions(store.tree, 0, home, [{ domid, rights: "r" }]);
  fireWatches(store, home, 0);
}

/** Removes the home of a domain that is gone. */
export function removeHome(store: Store, domid: number): void {
  const home = `/local/domain/${domid}`;
  const removed = removeNode(store.tree, 0, home);
  if ("value" in removed && removed.value === "removed") fireWatches(store, home, 1);
}

/** Answers one request of a client. */
export function handleRequest(store: Store, client: StoreClient, message: Message): void {
  const { type, reqId, txId } = message;
  const answer = answerRequest(store, client, message);
  const failed = "error" in answer || answer.value.length > XENSTORE_PAYLOAD_MAX;
  const payload = failed
    ? bytesOf(`${"error" in answer ? answer.error : "E2BIG"}\0`)
    : bytesOf(answer.value);
  send(client, { type: failed ? XS_ERROR : type, reqId, txId, payload });
  // A watch that has been set fires at once, after the answer.
  const set = type === XS_WATCH && !failed ? client.watches.at(-1) : undefined;
  if (set !== undefined) sendEvent(client, set, set.spelled);
}

type Answer = StoreAnswer<string>;
const OK: Answer = { value: "OK\0" };
const refuse = (error: StoreError): Answer => ({ error });

function answerRequest(store: Store, client: StoreClient, message: Message): Answer {
  // No transaction was ever started.
  if (message.txId !== 0) return refuse("ENOENT");
  const strings = stringsOf(message.payload);
  switch (message.type) {
    case XS_WATCH:
      return addWatch(client, strings);
    case XS_UNWATCH:
      return removeWatch(client, strings);
    case XS_GET_DOMAIN_PATH:
      return { value: `/local/domain/${Number(strings[0])}\0` };
    case XS_IS_DOMAIN_INTRODUCED: {
      const introduced = store.clients.some((one) => one.domid === Number(strings[0]));
      return { value: introduced ? "T\0" : "F\0" };
    }
    default:
      return answerPath(store, client, message, strings);
  }
}

/** Requests about one path. */
function answerPath(
  store: Store,
  client: StoreClient,
  message: Message,
  strings: readonly string[],
): Answer {
  const { tree } = store;
  const { domid } = client;
  const known = [XS_READ, XS_DIRECTORY, XS_GET_PERMS, XS_WRITE, XS_MKDIR, XS_RM, XS_SET_PERMS];
  if (!known.includes(message.type)) return refuse("ENOSYS");
  const path = absolutePath(domid, strings[0] ?? "");
  if (path === undefined) return refuse("EINVAL");
  switch (message.type) {
    case XS_READ:
      return readNode(tree, domid, path);
    case XS_DIRECTORY:
      return joined(listNode(tree, domid, path));
    case XS_GET_PERMS: {
      const found = getPermissions(tree, domid, path);
      if ("error" in found) return found;
      return joined({ value: found.value.map((one) => `${one.rights}${one.domid}`) });
    }
    case XS_WRITE: {
      // The value is every byte after the first NUL, NULs included.
      const separator = message.payload.indexOf(0);
      if (separator < 0) return refuse("EINVAL");
      const value = textOf(message.payload.subarray(separator + 1));
      return changed(store, writeNode(tree, domid, path, value), path, 0);
    }
    case XS_MKDIR: {
      const made = makeDirectory(tree, domid, path);
      if ("value" in made && made.value === "existed") return OK;
      return changed(store, made, path, 0);
    }
    case XS_RM: {
      const removed = removeNode(tree, domid, path);
      if ("value" in removed && removed.value === "missing") return OK;
      return changed(store, removed, path, 1);
    }
    default:
      return changed(store, setPerms(tree, domid, path, strings.slice(1)), path, 0);
  }
}

const joined = (answer: StoreAnswer<readonly string[]>): Answer =>
  "error" in answer ? answer : { value: answer.value.map((one) => `${one}\0`).join("") };

function changed(store: Store, answer: StoreAnswer<unknown>, path: string, removal: 0 | 1): Answer {
  if ("error" in answer) return answer;
  fireWatches(store, path, removal);
  return OK;
}

function setPerms(
  tree: StoreTree,
  domid: number,
  path: string,
  spelled: readonly string[],
): StoreAnswer<0> {
  const permissions: Permission[] = [];
  for (const one of spelled) {
    const permission = parsePermission(one);
    if (permission === undefined) return { error: "EINVAL" };
    permissions.push(permission);
  }
  return setPermissions(tree, domid, path, permissions);
}

function watchedPath(domid: number, spelled: string): string | undefined {
  if (spelled === INTRODUCE_DOMAIN || spelled === RELEASE_DOMAIN) return spelled;
  return absolutePath(domid, spelled);
}

function addWatch(client: StoreClient, strings: readonly string[]): Answer {
  const [spelled, token] = strings;
  if (spelled === undefined || token === undefined) return refuse("EINVAL");
  const path = watchedPath(client.domid, spelled);
  if (path === undefined) return refuse("EINVAL");
  if (client.watches.some((one) => one.path === path && one.token === token)) {
    return refuse("EEXIST");
  }
  if (client.domid !== 0 && client.watches.length >= STORE_WATCHES_MAX) return refuse("E2BIG");
  client.watches.push({ path, spelled, token });
  return OK;
}

function removeWatch(client: StoreClient, strings: readonly string[]): Answer {
  const [spelled, token] = strings;
  const path = watchedPath(client.domid, spelled ?? "");
  const index = client.watches.findIndex((one) => one.path === path && one.token === token);
  if (index < 0) return refuse("ENOENT");
  client.watches.splice(index, 1);
  return OK;
}
