/**
 * How a frontend hands a large buffer over: pages of a directory, which name each other and the pages of the buffer.
 *
 *   store: <front>/directory = reference of the first page, <front>/pages = pages of the buffer
 *   page:  u32 reference of the next directory page, 0 at the end | u32 reference of each buffer page
 *
 * Behaviour: xen/include/public/io/displif.h, struct xendispl_page_directory.
 */
import { PAGE_SIZE } from "../limits.ts";

/** Kind of device in the store. */
export const BUFFER_DEVICE = "buffer";
export const DIRECTORY_NEXT = 0; // u32 [front]
export const DIRECTORY_REFS = 4; // u32 each [front]
export const DIRECTORY_REFS_MAX = (PAGE_SIZE - DIRECTORY_REFS) / 4;
