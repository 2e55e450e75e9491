/**
 * Both ends of a store connection: bytes through the ring page, messages out of bytes.
 *
 * Rules: each end writes its own producer and consumer index and believes neither of the peer's: a distance
 * above the ring's size is a broken connection. Data is written before the producer, read before the
 * consumer. Whoever moved an index signals the event channel; that is the caller's business. Text is one byte
 * a character.
 * Behaviour: Linux drivers/xen/xenbus/xenbus_comms.c; xen tools/xenstored/domain.c.
 */
import {
  XENSTORE_PAYLOAD_MAX,
  XENSTORE_REQ,
  XENSTORE_REQ_CONS,
  XENSTORE_REQ_PROD,
  XENSTORE_RING_SIZE,
  XENSTORE_RSP,
  XENSTORE_RSP_CONS,
  XENSTORE_RSP_PROD,
  XSD_HEADER_SIZE,
  XSD_LEN,
  XSD_REQ_ID,
  XSD_TX_ID,
  XSD_TYPE,
} from "../shared/abi/xenstore.ts";
import { E2BIG, EIO } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { type Cpu, loadWord, readBytes, storeWord, writeBytes } from "./memory.ts";

/** One direction of the ring page, as offsets in it. */
interface Stream {
  readonly data: number;
  readonly producer: number;
  readonly consumer: number;
}
const REQUESTS: Stream = {
  data: XENSTORE_REQ,
  producer: XENSTORE_REQ_PROD,
  consumer: XENSTORE_REQ_CONS,
};
const RESPONSES: Stream = {
  data: XENSTORE_RSP,
  producer: XENSTORE_RSP_PROD,
  consumer: XENSTORE_RSP_CONS,
};

/** One end of a connection. */
export interface StoreEnd {
  readonly cpu: Cpu;
  /** Guest address of the ring page. */
  readonly page: number;
  readonly incoming: Stream;
  readonly outgoing: Stream;
  /** The message that is being received: header bytes, then payload. */
  readonly header: Uint8Array;
  /** View on `header`. */
  readonly fields: DataView;
  payload: Uint8Array | undefined;
  received: number;
}

export interface Message {
  readonly type: number;
  readonly reqId: number;
  readonly txId: number;
  readonly payload: Uint8Array;
}

function storeEnd(cpu: Cpu, page: number, incoming: Stream, outgoing: Stream): StoreEnd {
  const header = new Uint8Array(XSD_HEADER_SIZE);
  const fields = new DataView(header.buffer);
  return { cpu, page, incoming, outgoing, header, fields, payload: undefined, received: 0 };
}
export const clientEnd = (cpu: Cpu, page: number): StoreEnd =>
  storeEnd(cpu, page, RESPONSES, REQUESTS);
export const serverEnd = (cpu: Cpu, page: number): StoreEnd =>
  storeEnd(cpu, page, REQUESTS, RESPONSES);

/** Bytes between the two indexes of a stream, or -EIO when they cannot be: the peer has broken the ring. */
function* fill(end: StoreEnd, stream: Stream): Program<number> {
  const producer = yield* loadWord(end.cpu, end.page + stream.producer);
  const consumer = yield* loadWord(end.cpu, end.page + stream.consumer);
  const used = (producer - consumer) >>> 0;
  return used > XENSTORE_RING_SIZE ? -EIO : used;
}

/** Reads at most `length` bytes; returns how many, 0 when none are there, or -EIO. */
function* readRing(end: StoreEnd, into: Uint8Array, at: number, length: number): Program<number> {
  const used = yield* fill(end, end.incoming);
  if (used <= 0) return used;
  const consumer = yield* loadWord(end.cpu, end.page + end.incoming.consumer);
  const start = consumer & (XENSTORE_RING_SIZE - 1);
  // What lies beyond the wrap is the next call's.
  const count = Math.min(used, length, XENSTORE_RING_SIZE - start);
  yield* readBytes(end.cpu, end.page + end.incoming.data + start, into, at, count);
  yield* storeWord(end.cpu, end.page + end.incoming.consumer, (consumer + count) | 0);
  return count;
}

/** Writes at most `length` bytes; returns how many, 0 when there is no room, or -EIO. */
export function* writeRing(
  end: StoreEnd,
  from: Uint8Array,
  at: number,
  length: number,
): Program<number> {
  const used = yield* fill(end, end.outgoing);
  if (used < 0) return used;
  const producer = yield* loadWord(end.cpu, end.page + end.outgoing.producer);
  const start = producer & (XENSTORE_RING_SIZE - 1);
  const count = Math.min(XENSTORE_RING_SIZE - used, length, XENSTORE_RING_SIZE - start);
  if (count === 0) return 0;
  yield* writeBytes(end.cpu, end.page + end.outgoing.data + start, from, at, count);
  yield* storeWord(end.cpu, end.page + end.outgoing.producer, (producer + count) | 0);
  return count;
}

/** What one look at the ring gave: a message, bytes of one that is not complete, nothing, or a broken connection. */
export type Received = Message | "part" | "nothing" | typeof BROKEN_INDEX | typeof TOO_LONG;
export const BROKEN_INDEX = -EIO;
export const TOO_LONG = -E2BIG;

/** Takes bytes out of the ring until a message is complete or none are left for it. */
export function* receive(end: StoreEnd): Program<Received> {
  let moved = 0;
  for (;;) {
    const target = end.payload ?? end.header;
    if (end.received < target.length) {
      const left = target.length - end.received;
      const count = yield* readRing(end, target, end.received, left);
      if (count < 0) return BROKEN_INDEX;
      if (count === 0) return moved === 0 ? "nothing" : "part";
      moved += count;
      end.received += count;
      continue;
    }
    if (end.payload === undefined) {
      const length = end.fields.getUint32(XSD_LEN, true);
      if (length > XENSTORE_PAYLOAD_MAX) return TOO_LONG;
      end.payload = new Uint8Array(length);
      end.received = 0;
      continue;
    }
    const message: Message = {
      type: end.fields.getUint32(XSD_TYPE, true),
      reqId: end.fields.getUint32(XSD_REQ_ID, true),
      txId: end.fields.getUint32(XSD_TX_ID, true),
      payload: end.payload,
    };
    end.payload = undefined;
    end.received = 0;
    return message;
  }
}

/** A message as bytes. */
export function packMessage(message: Message): Uint8Array {
  const bytes = new Uint8Array(XSD_HEADER_SIZE + message.payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(XSD_TYPE, message.type, true);
  view.setUint32(XSD_REQ_ID, message.reqId, true);
  view.setUint32(XSD_TX_ID, message.txId, true);
  view.setUint32(XSD_LEN, message.payload.length, true);
  bytes.set(message.payload, XSD_HEADER_SIZE);
  return bytes;
}

/** Text to bytes, one byte a character. */
export const bytesOf = (text: string): Uint8Array =>
  Uint8Array.from(text, (character) => character.charCodeAt(0) & 0xff);

export function textOf(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}

/** The strings of a payload that each end with a NUL; bytes after the last NUL are one more. */
export function stringsOf(payload: Uint8Array): string[] {
  const strings = textOf(payload).split("\0");
  if (strings.at(-1) === "") strings.pop();
  return strings;
}
