/**
 * The host behind the disk, on Node: one file, read synchronously, and sha256.
 *
 * Rules: a read goes to private memory, never into an access; a read that fails answers -1, which a device turns
 * into a medium error; the hash function is loaded by the first slot that asks for one.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import type { Host } from "../shared/trap.ts";

const NO_FILE = -1;

/** Opens `path`, which the toolstack has checked; without a path the medium is empty. */
export function openHost(path: string | undefined): Host & { close(): void } {
  const file = path === undefined ? NO_FILE : openSync(path, "r");
  return {
    sizeBytes: file === NO_FILE ? 0 : fstatSync(file).size,
    readAt: (offset, into, length) => (file === NO_FILE ? 0 : readAt(file, offset, into, length)),
    sha256,
    close: () => {
      if (file !== NO_FILE) closeSync(file);
    },
  };
}

/** Reads until `length` bytes are there or the file ends; -1 when the host reports an error. */
function readAt(file: number, offset: number, into: Uint8Array, length: number): number {
  let done = 0;
  try {
    while (done < length) {
      const got = readSync(file, into, done, length - done, offset + done);
      if (got === 0) break;
      done += got;
    }
  } catch {
    return -1;
  }
  return done;
}

function sha256(): ReturnType<Host["sha256"]> {
  const hash = process.getBuiltinModule("node:crypto").createHash("sha256");
  return {
    update: (bytes) => {
      hash.update(bytes);
    },
    hex: () => hash.digest("hex"),
  };
}
