/** The store's answers, without a ring: tree, permissions, watches, error texts. */
import { describe, expect, it } from "vitest";
import {
  createStore,
  fireSpecial,
  handleRequest,
  makeHome,
  RELEASE_DOMAIN,
  removeHome,
  type Store,
  type StoreClient,
} from "../../domains/drivers/store-server.ts";
import { bytesOf, textOf } from "../../domains/xenstore-ring.ts";
import {
  XS_DIRECTORY,
  XS_ERROR,
  XS_GET_PERMS,
  XS_MKDIR,
  XS_READ,
  XS_RM,
  XS_SET_PERMS,
  XS_TRANSACTION_START,
  XS_UNWATCH,
  XS_WATCH,
  XS_WATCH_EVENT,
  XS_WRITE,
  XSD_HEADER_SIZE,
} from "../../shared/abi/xenstore.ts";

function client(store: Store, domid: number): StoreClient {
  const one: StoreClient = { domid, watches: [], outbox: [] };
  store.clients.push(one);
  makeHome(store, domid);
  return one;
}

/** Takes everything queued for a client: [type, payload]. */
function drain(one: StoreClient): [number, string][] {
  return one.outbox
    .splice(0)
    .map((bytes) => [
      new DataView(bytes.buffer).getUint32(0, true),
      textOf(bytes.subarray(XSD_HEADER_SIZE)),
    ]);
}

function ask(store: Store, one: StoreClient, type: number, payload: string): [number, string][] {
  handleRequest(store, one, { type, reqId: 7, txId: 0, payload: bytesOf(payload) });
  return drain(one);
}

describe("the store", () => {
  it("gives back what was written, makes parents, and lists children in order", () => {
    const store = createStore();
    const guest = client(store, 3);
    expect(ask(store, guest, XS_WRITE, "device/vbd/1\0hello")).toEqual([[XS_WRITE, "OK\0"]]);
    expect(ask(store, guest, XS_READ, "/local/domain/3/device/vbd/1\0")).toEqual([
      [XS_READ, "hello"],
    ]);
    expect(ask(store, guest, XS_READ, "device/vbd\0")).toEqual([[XS_READ, ""]]);
    ask(store, guest, XS_MKDIR, "device/vbd/0\0");
    expect(ask(store, guest, XS_DIRECTORY, "device/vbd\0")).toEqual([[XS_DIRECTORY, "0\x001\0"]]);
  });

  it("hypervisor case 127: an error reply is the errno's name as text", () => {
    const store = createStore();
    const guest = client(store, 3);
    expect(ask(store, guest, XS_READ, "nothing\0")).toEqual([[XS_ERROR, "ENOENT\0"]]);
    expect(ask(store, guest, XS_READ, "bad path\0")).toEqual([[XS_ERROR, "EINVAL\0"]]);
    expect(ask(store, guest, XS_TRANSACTION_START, "\0")).toEqual([[XS_ERROR, "ENOSYS\0"]]);
    expect(ask(store, guest, 99, "\0")).toEqual([[XS_ERROR, "ENOSYS\0"]]);
  });

  it("hypervisor case 127: removing a missing node succeeds when its parent exists", () => {
    const store = createStore();
    const guest = client(store, 3);
    ask(store, guest, XS_MKDIR, "device\0");
    expect(ask(store, guest, XS_RM, "device/x\0")).toEqual([[XS_RM, "OK\0"]]);
    expect(ask(store, guest, XS_RM, "nobody/x\0")).toEqual([[XS_ERROR, "ENOENT\0"]]);
    expect(ask(store, guest, XS_RM, "/\0")).toEqual([[XS_ERROR, "EINVAL\0"]]);
  });

  it("lets a domain write below its own home only, and dom0 everywhere", () => {
    const store = createStore();
    const dom0 = client(store, 0);
    const guest = client(store, 3);
    client(store, 4);
    const foreign = "/local/domain/4/x\0y";
    expect(ask(store, guest, XS_WRITE, foreign)).toEqual([[XS_ERROR, "EACCES\0"]]);
    expect(ask(store, guest, XS_WRITE, "/local/x\0y")).toEqual([[XS_ERROR, "EACCES\0"]]);
    expect(ask(store, dom0, XS_WRITE, foreign)).toEqual([[XS_WRITE, "OK\0"]]);
    // What dom0 makes in a home belongs to the home's owner.
    expect(ask(store, guest, XS_GET_PERMS, "/local/domain/4/x\0")).toEqual([
      [XS_GET_PERMS, "r4\0"],
    ]);
  });

  it("lets a domain write what it was given, and nobody give away what is not theirs", () => {
    const store = createStore();
    const dom0 = client(store, 0);
    const guest = client(store, 3);
    ask(store, dom0, XS_WRITE, "/tool/given\0x");
    ask(store, dom0, XS_SET_PERMS, "/tool/given\0n0\0b3\0");
    expect(ask(store, guest, XS_WRITE, "/tool/given\0y")).toEqual([[XS_WRITE, "OK\0"]]);
    expect(ask(store, guest, XS_SET_PERMS, "/tool/given\0r3\0")).toEqual([[XS_ERROR, "EACCES\0"]]);
    ask(store, dom0, XS_SET_PERMS, "/tool/given\0n0\0");
    expect(ask(store, guest, XS_READ, "/tool/given\0")).toEqual([[XS_ERROR, "EACCES\0"]]);
  });
});

describe("watches", () => {
  it("fire once as soon as they are set, after the answer, even on a missing node", () => {
    const store = createStore();
    const guest = client(store, 3);
    expect(ask(store, guest, XS_WATCH, "/a/b\0t1\0")).toEqual([
      [XS_WATCH, "OK\0"],
      [XS_WATCH_EVENT, "/a/b\0t1\0"],
    ]);
    expect(ask(store, guest, XS_WATCH, "/a/b\0t1\0")).toEqual([[XS_ERROR, "EEXIST\0"]]);
  });

  it("fire for changes at and below their path, spelled as they were set", () => {
    const store = createStore();
    const dom0 = client(store, 0);
    const guest = client(store, 3);
    ask(store, guest, XS_WATCH, "device\0rel\0");
    ask(store, dom0, XS_WATCH, "/local/domain/3/device\0abs\0");
    expect(ask(store, guest, XS_WRITE, "device/x\x001")).toEqual([
      [XS_WATCH_EVENT, "device/x\0rel\0"],
      [XS_WRITE, "OK\0"],
    ]);
    expect(drain(dom0)).toEqual([[XS_WATCH_EVENT, "/local/domain/3/device/x\0abs\0"]]);
    ask(store, guest, XS_WRITE, "devices\x001");
    expect(drain(dom0)).toEqual([]);
  });

  it("fire when an ancestor is removed, and no more once they are taken away", () => {
    const store = createStore();
    const dom0 = client(store, 0);
    const guest = client(store, 3);
    ask(store, guest, XS_WRITE, "device/x/state\x004");
    ask(store, dom0, XS_WATCH, "/local/domain/3/device/x/state\0t\0");
    removeHome(store, 3);
    expect(drain(dom0)).toEqual([[XS_WATCH_EVENT, "/local/domain/3/device/x/state\0t\0"]]);
    expect(ask(store, dom0, XS_UNWATCH, "/local/domain/3/device/x/state\0t\0")).toHaveLength(1);
    makeHome(store, 3);
    ask(store, guest, XS_WRITE, "device/x/state\x001");
    expect(drain(dom0)).toEqual([]);
    expect(ask(store, dom0, XS_UNWATCH, "/x\0t\0")).toEqual([[XS_ERROR, "ENOENT\0"]]);
  });

  it("tell nobody of a node that they may not read", () => {
    const store = createStore();
    const dom0 = client(store, 0);
    const guest = client(store, 3);
    ask(store, dom0, XS_WRITE, "/tool/secret\0x");
    ask(store, dom0, XS_SET_PERMS, "/tool/secret\0n0\0");
    ask(store, guest, XS_WATCH, "/tool\0t\0");
    ask(store, dom0, XS_WRITE, "/tool/secret\0y");
    expect(drain(guest)).toEqual([]);
  });

  it("are bounded for everyone but dom0", () => {
    const store = createStore();
    const dom0 = client(store, 0);
    const guest = client(store, 3);
    for (let n = 0; n < 128; n++) ask(store, guest, XS_WATCH, `/a\0${n}\0`);
    expect(ask(store, guest, XS_WATCH, "/a\0one more\0")).toEqual([[XS_ERROR, "E2BIG\0"]]);
    for (let n = 0; n < 129; n++) expect(ask(store, dom0, XS_WATCH, `/a\0${n}\0`)).toHaveLength(2);
  });

  it("tell of a domain's end by a special name", () => {
    const store = createStore();
    const guest = client(store, 3);
    ask(store, guest, XS_WATCH, `${RELEASE_DOMAIN}\0t\0`);
    fireSpecial(store, RELEASE_DOMAIN);
    expect(drain(guest)).toEqual([[XS_WATCH_EVENT, `${RELEASE_DOMAIN}\0t\0`]]);
  });
});

it("XSA-72: a list that no message has room for is an error, and the next request is answered", () => {
  const store = createStore();
  const guest = client(store, 3);
  for (let n = 0; n < 300; n++) ask(store, guest, XS_WRITE, `data/${"x".repeat(40)}${n}\0v`);
  expect(ask(store, guest, XS_DIRECTORY, "data\0")).toEqual([[XS_ERROR, "E2BIG\0"]]);
  expect(ask(store, guest, XS_READ, `data/${"x".repeat(40)}7\0`)).toEqual([[XS_READ, "v"]]);
});
