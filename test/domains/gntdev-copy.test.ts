import { describe, expect, test } from "vitest";
import { readBytes } from "../../domains/memory.ts";
import { pageRefcount, pageToPhys } from "../../domains/pages.ts";
import type { Process } from "../../domains/process.ts";
import { sysIoctl, sysMmap, userLoad, userStore } from "../../domains/syscalls.ts";
import { grantCopy, mapGrants, type SegmentSide } from "../../domains/xengnttab.ts";
import { IOCTL_GNTDEV_GRANT_COPY } from "../../shared/abi/gntdev.ts";
import { MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE } from "../../shared/abi/linux.ts";
import { item } from "../../shared/assert.ts";
import { EFAULT, EINVAL, GNTST_bad_gntref, GNTST_okay } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { FRONT, type Front, NOWHERE, PAGE, staged, withGrants } from "./user.ts";

/** Anonymous memory of the process, filled with a pattern. */
function* buffer(process: Process, pages: number, prot: number = PROT_READ | PROT_WRITE) {
  const length = pages * PAGE;
  const flags = MAP_PRIVATE | MAP_ANONYMOUS;
  const at = yield* sysMmap(process, { length, prot, flags });
  if ((prot & PROT_WRITE) !== 0) yield* userStore(process, at, pattern(length));
  return at;
}

const pattern = (length: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (i * 13 + (i >> 8)) & 0xff);

/** Bytes of the frontend's page `i`, as the frontend sees them. */
function* frontBytes(front: Front, i: number, offset: number, length: number): Program<Uint8Array> {
  const bytes = new Uint8Array(length);
  const at = pageToPhys(item(front.pages, i)) + offset;
  yield* readBytes(front.kernel.cpu, at, bytes, 0, length);
  return bytes;
}

const granted = (front: Front, i: number, offset = 0): SegmentSide => ({
  domid: FRONT,
  ref: item(front.refs, i),
  offset,
});

describe("GRANT_COPY", () => {
  test("moves a segment to a granted page, cut where the process's memory has a page boundary", () => {
    withGrants(function* (file, front) {
      const { process } = file;
      const at = yield* buffer(process, 2);
      const source = at + PAGE - 100;
      const segment = { source, dest: granted(front, 0, 50), length: 300 };
      expect(yield* grantCopy(file, [segment])).toEqual({ rc: 0, statuses: [GNTST_okay] });
      const sent = pattern(2 * PAGE).subarray(PAGE - 100, PAGE + 200);
      expect(yield* frontBytes(front, 0, 50, 300)).toEqual(sent);
    });
  });

  test("moves a segment from a granted page, and between two granted pages", () => {
    withGrants(function* (file, front) {
      const { process } = file;
      const at = yield* buffer(process, 2);
      const segments = [
        { source: granted(front, 1), dest: at + PAGE - 2, length: 4 },
        { source: granted(front, 1), dest: granted(front, 2, 8), length: 4 },
      ];
      expect((yield* grantCopy(file, segments)).statuses).toEqual([0, 0]);
      const word = Uint8Array.of(1001 & 0xff, 1001 >> 8, 0, 0);
      expect(yield* userLoad(process, at + PAGE - 2, 4)).toEqual(word);
      expect(yield* frontBytes(front, 2, 8, 4)).toEqual(word);
    });
  });

  test("a length of 0 copies nothing and is okay", () => {
    withGrants(function* (file, front) {
      const segment = { source: NOWHERE, dest: granted(front, 0), length: 0 };
      expect(yield* grantCopy(file, [segment])).toEqual({ rc: 0, statuses: [0] });
    });
  });

  test("guest case 50: local to local, a segment that leaves its granted page, and unreadable memory fail the request", () => {
    withGrants(function* (file, front) {
      const { process, fd } = file;
      const at = yield* buffer(process, 1);
      const rcOf = function* (source: SegmentSide, dest: SegmentSide, length: number) {
        return (yield* grantCopy(file, [{ source, dest, length }])).rc;
      };
      expect(yield* rcOf(at, at + 8, 4)).toBe(-EINVAL);
      expect(yield* rcOf(at, granted(front, 0, 4000), 200)).toBe(-EINVAL);
      expect(yield* rcOf(granted(front, 0, 4000), at, 200)).toBe(-EINVAL);
      expect(yield* rcOf(NOWHERE, granted(front, 0), 4)).toBe(-EFAULT);
      const readonly = yield* buffer(process, 1, PROT_READ);
      expect(yield* rcOf(granted(front, 0), readonly, 4)).toBe(-EFAULT);
      expect(yield* sysIoctl(process, fd, IOCTL_GNTDEV_GRANT_COPY, NOWHERE)).toBe(-EFAULT);
      const noSegments = yield* staged(process, 1, 0, NOWHERE, 0);
      expect(yield* sysIoctl(process, fd, IOCTL_GNTDEV_GRANT_COPY, noSegments)).toBe(-EFAULT);
    });
  });

  test("guest case 50: a bad reference is the status of its segment, and the request succeeds", () => {
    withGrants(function* (file, front) {
      const at = yield* buffer(file.process, 2);
      const bad = { domid: FRONT, ref: 5000, offset: 0 };
      const segments = [
        { source: at, dest: granted(front, 0), length: 4 },
        // Two operations, one segment: its first failure counts.
        { source: at + PAGE - 8, dest: bad, length: 16 },
        { source: at + 4, dest: granted(front, 0, 4), length: 4 },
      ];
      expect(yield* grantCopy(file, segments)).toEqual({
        rc: 0,
        statuses: [GNTST_okay, GNTST_bad_gntref, GNTST_okay],
      });
      expect(yield* frontBytes(front, 0, 0, 8)).toEqual(pattern(8));
    });
  });

  test("batches of 16 that were handed on stay done when a later segment is malformed; pages are unpinned", () => {
    withGrants(function* (file, front) {
      const { process } = file;
      const at = yield* buffer(process, 1);
      const segments = Array.from({ length: 17 }, (_, i) => ({
        source: at + i * 4,
        dest: granted(front, 0, i * 4),
        length: 4,
      }));
      const local = { source: at, dest: at, length: 4 };
      expect((yield* grantCopy(file, [...segments, local])).rc).toBe(-EINVAL);
      expect(yield* frontBytes(front, 0, 0, 64)).toEqual(pattern(64));
      // The seventeenth was still waiting for its batch.
      expect(yield* frontBytes(front, 0, 64, 4)).toEqual(new Uint8Array(4));
      const page = process.vmas.find((vma) => vma.start === at)?.pages[0];
      if (page === undefined) throw new Error("the buffer has a page");
      expect(pageRefcount(process.kernel.memory.pages, page)).toBe(1);
    });
  });

  test("the process's side may not be a grant that it has mapped itself", () => {
    withGrants(function* (file, front) {
      const mapping = yield* mapGrants(file, [{ domid: FRONT, ref: item(front.refs, 1) }]);
      if (typeof mapping === "number") throw new Error(`mapping answered ${mapping}`);
      const segment = { source: mapping.address, dest: granted(front, 0), length: 4 };
      const { rc, statuses } = yield* grantCopy(file, [segment]);
      expect(rc).toBe(0);
      expect(item(statuses, 0)).toBeLessThan(0);
    });
  });
});
