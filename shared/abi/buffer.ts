/**
 * How the frontend of the thread's questions hands a large buffer over: by a page directory as displif has it.
 *
 *   store: <front>/directory = reference of the first page, <front>/pages = pages of the buffer
 *
 * Behaviour: shared/abi/displif.ts for the directory; the nodes are this device's own.
 */

/** Kind of device in the store. */
export const BUFFER_DEVICE = "buffer";
