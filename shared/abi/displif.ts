/**
 * How a display frontend asks for a buffer: the request that creates one, and the directory of its pages.
 *
 *   request:        id | operation | at 8 the struct of the operation
 *   directory page: u32 reference of the next directory page, 0 at the end | u32 reference of each buffer page
 *
 * Offsets count from the start of the packet. Reference 0 means none, for it belongs to the console. How many pages the
 * buffer has is not transmitted: it follows from buffer_sz.
 * Behaviour: xen/include/public/io/displif.h, struct xendispl_req, xendispl_dbuf_create_req, xendispl_page_directory.
 */
import { PAGE_SIZE } from "../limits.ts";

export const XENDISPL_OP_DBUF_CREATE = 0x10;
/** The backend allocates the buffer's pages and writes their references into the directory. */
export const XENDISPL_DBUF_FLG_REQ_ALLOC = 1;

export const XENDISPL_PACKET_BYTES = 64;
export const XENDISPL_REQ_ID = 0; // u16 [front]
export const XENDISPL_REQ_OPERATION = 2; // u8 [front]
export const DBUF_CREATE_COOKIE = 8; // u64 [front] 0 is invalid
export const DBUF_CREATE_WIDTH = 16; // u32 [front] pixels
export const DBUF_CREATE_HEIGHT = 20; // u32 [front] pixels
export const DBUF_CREATE_BPP = 24; // u32 [front] bits of a pixel
export const DBUF_CREATE_BUFFER_SZ = 28; // u32 [front] bytes
export const DBUF_CREATE_FLAGS = 32; // u32 [front] XENDISPL_DBUF_FLG_*
export const DBUF_CREATE_GREF_DIRECTORY = 36; // u32 [front] reference of the first directory page
export const DBUF_CREATE_DATA_OFS = 40; // u32 [front] bytes before the first pixel

export const DIRECTORY_NEXT = 0; // u32 [front]
export const DIRECTORY_REFS = 4; // u32 each [whoever allocates the buffer]
export const DIRECTORY_REFS_MAX = (PAGE_SIZE - DIRECTORY_REFS) / 4;
