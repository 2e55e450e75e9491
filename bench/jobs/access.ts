/**
 * A guest's accesses in one thread: the walk, the bracket, a word and a page through the MMU.
 */
import { domainField } from "../../hypervisor/xen.ts";
import { assert } from "../../shared/assert.ts";
import { ACCESS_STEP, DOM, LINE, lineOf } from "../../shared/layout.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { add, load } from "../../shared/mem.ts";
import { ACCESS_OK, ACCESS_READ, walk } from "../../shared/mmu.ts";
import { bootOneThread } from "../one-thread.ts";
import type { Job } from "../worker-api.ts";

/** Pages touched in turn: they fit the TLB. */
const PAGES = 64;

/** Walks of local gfns, three levels each. */
export function walks(): Job {
  const { board, xen, mapper } = bootOneThread();
  const { words, memory, layout } = board;
  const root = domainField(xen, mapper.domid, DOM.P2M_ROOT);
  let bad = 0;
  return {
    per: PAGES,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) {
        for (let page = 0; page < PAGES; page++) {
          if (walk(layout, words, memory, root, mapper.ram + page) < 0) bad++;
        }
      }
    },
    end: () => assert(bad === 0, "RAM is mapped"),
  };
}

/** An access that translates by the TLB and touches nothing. */
export function hits(): Job {
  const { mapper } = bootOneThread();
  const { mmu, ram } = mapper;
  let bad = 0;
  return {
    per: PAGES,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) {
        for (let page = 0; page < PAGES; page++) {
          if (mmu.open(ram + page, ACCESS_READ) !== ACCESS_OK) bad++;
          mmu.close();
        }
      }
    },
    end: () => assert(bad === 0, "RAM is mapped"),
  };
}

/** The bracket's own share of an access: entering, the generation, leaving. */
export function brackets(): Job {
  const { board, mapper } = bootOneThread();
  const { words, layout } = board;
  const line = lineOf(layout, mapper.slot);
  let generations = 0;
  return {
    per: PAGES,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) {
        for (let page = 0; page < PAGES; page++) {
          add(words, line + LINE.ACCESS, ACCESS_STEP);
          generations = (generations + load(words, line + LINE.GENERATION)) | 0;
          add(words, line + LINE.ACCESS, ACCESS_STEP);
        }
      }
    },
  };
}

/** A load of one word. */
export function words(): Job {
  const { mapper } = bootOneThread();
  const { mmu, ram } = mapper;
  let sum = 0;
  return {
    per: PAGES,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) {
        for (let page = 0; page < PAGES; page++) {
          mmu.open(ram + page, ACCESS_READ);
          sum = (sum + mmu.load(64)) | 0;
          mmu.close();
        }
      }
    },
  };
}

/** A copy of one page into private memory. */
export function pages(): Job {
  const { mapper } = bootOneThread();
  const { mmu, ram } = mapper;
  const into = new Uint8Array(PAGE_SIZE);
  return {
    per: PAGES,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) {
        for (let page = 0; page < PAGES; page++) {
          mmu.open(ram + page, ACCESS_READ);
          mmu.read(0, into, 0, PAGE_SIZE);
          mmu.close();
        }
      }
    },
  };
}
