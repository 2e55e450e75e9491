/**
 * The shared ring of PV drivers: layout of its header and the arithmetic of its free-running indexes.
 *
 *   front: write requests -> req_prod -> notify?        back: copy requests -> work -> write responses -> rsp_prod -> notify?
 *
 * Rules: all indexes are numbers modulo 2^32, signed or unsigned alike; private ones are called pvt or cons. What
 * the peer wrote is clamped or refused, never trusted. Reading a request twice is a double fetch (advisory 155).
 * Behaviour: xen/include/public/io/ring.h.
 */
export const RING_REQ_PROD = 0; // u32 [front]
export const RING_REQ_EVENT = 4; // u32 [back] tell me when req_prod passes this
export const RING_RSP_PROD = 8; // u32 [back]
export const RING_RSP_EVENT = 12; // u32 [front] tell me when rsp_prod passes this
export const RING_ENTRIES = 64;

/** Slots of a ring in `bytes` bytes: the largest power of two that fits. */
export function ringSize(bytes: number, entryBytes: number): number {
  const fit = Math.floor((bytes - RING_ENTRIES) / entryBytes);
  return 2 ** Math.floor(Math.log2(fit));
}

/** Byte offset of the slot that index `index` falls on. */
export const ringSlot = (size: number, entryBytes: number, index: number): number =>
  RING_ENTRIES + (index & (size - 1)) * entryBytes;

const distance = (to: number, from: number): number => (to - from) >>> 0;

/** RING_FREE_REQUESTS: slots the front may still fill. */
export const freeRequests = (size: number, reqProdPvt: number, rspCons: number): number =>
  size - distance(reqProdPvt, rspCons);

/** RING_HAS_UNCONSUMED_REQUESTS: a producer that lies is clamped to the slots that exist. */
export const unconsumedRequests = (
  size: number,
  reqProd: number,
  reqCons: number,
  rspProdPvt: number,
): number => Math.min(distance(reqProd, reqCons), size - distance(reqCons, rspProdPvt));

/** RING_HAS_UNCONSUMED_RESPONSES: not clamped; the front checks responseProdOverflow. */
export const unconsumedResponses = (rspProd: number, rspCons: number): number =>
  distance(rspProd, rspCons);

/** RING_REQUEST_PROD_OVERFLOW: the front claims more requests than there are slots. */
export const requestProdOverflow = (size: number, reqProd: number, rspProdPvt: number): boolean =>
  distance(reqProd, rspProdPvt) > size;

/** RING_REQUEST_CONS_OVERFLOW: consuming one more would read a slot that has not been answered. */
export const requestConsOverflow = (size: number, cons: number, rspProdPvt: number): boolean =>
  distance(cons, rspProdPvt) >= size;

/** RING_RESPONSE_PROD_OVERFLOW: the back claims more responses than there are slots. */
export const responseProdOverflow = (size: number, rspProd: number, rspCons: number): boolean =>
  distance(rspProd, rspCons) > size;

/** Whether the peer asked to be told: its event index lies in (before, after]. */
export const mustNotify = (before: number, after: number, event: number): boolean =>
  distance(after, event) < distance(after, before);
