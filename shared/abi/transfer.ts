/**
 * The founding experiment's driver pair: one granted ring page of { ref, length } requests. A request asks
 * the back to fill the granted page with the next `length` bytes of its disk.
 *
 * Store nodes, below the home of each side:
 *   front  device/transfer/0/          backend-id, ring-ref, event-channel, state
 *   back   backend/transfer/<front>/0/ frontend-id, state
 * Ours, because the drivers that do this on real systems (vdispl, blkif) say much that is not about addresses.
 */
import { PAGE_SIZE } from "../limits.ts";
import { ringSize } from "./ring.ts";

/** Request: ref u32@0, length u32@4. */
export const TRANSFER_REQUEST_REF = 0;
export const TRANSFER_REQUEST_LENGTH = 4;
/** Response, in the order of requests: status i32@0 (0 or a negative errno), length u32@4 that has arrived. */
export const TRANSFER_RESPONSE_STATUS = 0;
export const TRANSFER_RESPONSE_LENGTH = 4;
export const TRANSFER_ENTRY_SIZE = 8;
export const TRANSFER_SLOTS = ringSize(PAGE_SIZE, TRANSFER_ENTRY_SIZE);
export const TRANSFER_DEVICE = "transfer";
