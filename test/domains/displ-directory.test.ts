import { describe, expect, test } from "vitest";
import {
  allocDirectory,
  type DisplDirectory,
  dataPagesOf,
  dbufCreateRequest,
  fillDirectory,
  readDirectory,
} from "../../domains/drivers/displ-directory.ts";
import { grantForeignAccess, tryEndForeignAccess } from "../../domains/grant-table.ts";
import type { Kernel } from "../../domains/kernel.ts";
import { loadWord, storeWord } from "../../domains/memory.ts";
import { pageToPhys } from "../../domains/pages.ts";
import { mapRing, unmapRing } from "../../domains/ring-map.ts";
import {
  DBUF_CREATE_BUFFER_SZ,
  DBUF_CREATE_FLAGS,
  DBUF_CREATE_GREF_DIRECTORY,
  XENDISPL_DBUF_FLG_REQ_ALLOC,
  XENDISPL_OP_DBUF_CREATE,
  XENDISPL_REQ_OPERATION,
} from "../../shared/abi/displif.ts";
import { item } from "../../shared/assert.ts";
import { EINVAL, ENOENT, GNTST_okay } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { GrantRef } from "../../shared/units.ts";
import { BACK, FRONT, newPage, pair } from "./grant-pair.ts";
import { until } from "./until.ts";

/** One byte more than a single directory page describes. */
const BUFFER_BYTES = 4096 * 1023 + 1;
const MODE = { cookie: 7, width: 1023, height: 1024, bpp: 32 };

/** Grants of the backend to the frontend: one page under all but the last reference, to keep the machine small. */
function* grantData(
  kernel: Kernel,
  count: number,
): Program<{ readonly refs: number[]; readonly word: number }> {
  const page = yield* newPage(kernel);
  const last = yield* newPage(kernel);
  const refs: number[] = [];
  for (let i = 1; i <= count; i++) {
    refs.push(yield* grantForeignAccess(kernel, FRONT, i === count ? last : page));
  }
  return { refs, word: 0x1000 + last };
}

function* endAll(kernel: Kernel, refs: readonly number[]): Program {
  for (const ref of refs) expect(yield* tryEndForeignAccess(kernel, GrantRef(ref))).toBe(1);
}

/** Lets `spoil` loose on a directory of two pages; the answer of the backend that fills it with `count` references. */
function answerTo(
  spoil: (kernel: Kernel, directory: DisplDirectory) => Program,
  count = dataPagesOf(BUFFER_BYTES),
): number | undefined {
  let directory: DisplDirectory | undefined;
  let answer: number | undefined;
  pair(
    function* (kernel) {
      const made = yield* allocDirectory(kernel, BACK, BUFFER_BYTES);
      yield* spoil(kernel, made);
      directory = made;
      yield* until(() => answer !== undefined);
      // Nothing of it stays mapped, whatever the answer was.
      yield* endAll(
        kernel,
        made.pages.map(({ ref }) => ref),
      );
    },
    function* (kernel) {
      yield* until(() => directory !== undefined);
      const refs = Array.from({ length: count }, (_, i) => i + 8);
      answer = yield* fillDirectory(kernel, FRONT, directory?.pages[0]?.ref ?? 0, refs);
    },
  );
  return answer;
}

describe("the directory of a display buffer that the backend allocates", () => {
  test("hypervisor case 128: a buffer of 1023 pages and a byte has 1024 references in two directory pages", () => {
    let request: DataView | undefined;
    let written: { readonly refs: number[]; readonly word: number } | undefined;
    let unmapped = false;
    pair(
      function* (kernel) {
        const directory = yield* allocDirectory(kernel, BACK, BUFFER_BYTES);
        expect(directory.pages).toHaveLength(2);
        request = dbufCreateRequest(directory, MODE);
        yield* until(() => written !== undefined);
        const refs = yield* readDirectory(kernel, directory);
        expect(refs).toHaveLength(1024);
        expect(refs).toEqual(written?.refs);
        const mapped = yield* mapRing(kernel, BACK, item(refs, 1023));
        if (typeof mapped === "number") throw new Error(`the last page answered ${mapped}`);
        expect(yield* loadWord(kernel.cpu, mapped.gaddr)).toBe(written?.word);
        expect(yield* unmapRing(kernel, mapped)).toBe(GNTST_okay);
        unmapped = true;
        yield* endAll(
          kernel,
          directory.pages.map(({ ref }) => ref),
        );
      },
      function* (kernel) {
        yield* until(() => request !== undefined);
        if (request === undefined) return;
        expect(request.getUint8(XENDISPL_REQ_OPERATION)).toBe(XENDISPL_OP_DBUF_CREATE);
        expect(request.getUint32(DBUF_CREATE_FLAGS, true)).toBe(XENDISPL_DBUF_FLG_REQ_ALLOC);
        const count = dataPagesOf(request.getUint32(DBUF_CREATE_BUFFER_SZ, true));
        const data = yield* grantData(kernel, count);
        const first = request.getUint32(DBUF_CREATE_GREF_DIRECTORY, true);
        expect(yield* fillDirectory(kernel, FRONT, first, data.refs)).toBe(0);
        written = data;
        yield* until(() => unmapped);
        yield* endAll(kernel, data.refs);
      },
    );
    expect(unmapped).toBe(true);
  });

  test("a buffer of 1023 pages has one directory page", () => {
    pair(
      function* (kernel) {
        const { pages } = yield* allocDirectory(kernel, BACK, BUFFER_BYTES - 1);
        expect(pages).toHaveLength(1);
        expect(yield* loadWord(kernel.cpu, pageToPhys(item(pages, 0).page))).toBe(0);
      },
      function* () {},
    );
  });

  test("a directory page that links to itself is refused, also as the last one", () => {
    const toItself = (place: number) =>
      function* (kernel: Kernel, { pages }: DisplDirectory): Program {
        const { page, ref } = item(pages, place);
        yield* storeWord(kernel.cpu, pageToPhys(page), ref);
      };
    expect(answerTo(toItself(0))).toBe(-EINVAL);
    expect(answerTo(toItself(1))).toBe(-EINVAL);
  });

  test("a directory with a page too few or too many is refused", () => {
    expect(
      answerTo(function* (kernel, { pages }) {
        yield* storeWord(kernel.cpu, pageToPhys(item(pages, 0).page), 0);
      }),
    ).toBe(-EINVAL);
    expect(answerTo(function* () {}, 1023)).toBe(-EINVAL);
    expect(answerTo(function* () {})).toBe(0);
  });

  test("a link to a page that the backend may only read, or that nobody granted, is refused", () => {
    expect(
      answerTo(function* (kernel, { pages }) {
        const second = item(pages, 1).page;
        const ref = yield* grantForeignAccess(kernel, BACK, second, { readonly: true });
        yield* storeWord(kernel.cpu, pageToPhys(item(pages, 0).page), ref);
      }),
    ).toBe(-ENOENT);
    expect(
      answerTo(function* (kernel, { pages }) {
        yield* storeWord(kernel.cpu, pageToPhys(item(pages, 0).page), 0xffffffff);
      }),
    ).toBe(-ENOENT);
  });
});
