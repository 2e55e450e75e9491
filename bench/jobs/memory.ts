/**
 * Yardsticks R, C and W, and what pages cost to copy and to zero with views and with WebAssembly.
 */
import { bufferOf, pageOpsOf, reserveMemory } from "../../platform/page-ops.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import type { Job } from "../worker-api.ts";

/** Pages that are copied in turn: they stay in the second-level cache, as a ring's pages do. */
const PAGES = 32;
const BATCH = 64;
/** Words read in turn: 4 KiB, in the first-level cache. */
const READ_WORDS = 1024;

/** R: a plain read of an Int32Array. */
export function plainRead(): Job {
  const words = new Int32Array(new SharedArrayBuffer(READ_WORDS * 4));
  let sum = 0;
  return {
    per: READ_WORDS,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) {
        for (let i = 0; i < READ_WORDS; i++) sum = (sum + (words[i] ?? 0)) | 0;
      }
    },
    end: () => {
      if (sum !== 0) throw new Error("fresh memory is not zero");
    },
  };
}

/** C: a loop of compareExchange that succeeds. */
export function compareExchange(): Job {
  const words = new Int32Array(new SharedArrayBuffer(64));
  return {
    per: BATCH,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) {
        for (let i = 0; i < BATCH; i++) {
          Atomics.compareExchange(words, 0, i, i + 1 === BATCH ? 0 : i + 1);
        }
      }
    },
    end: () => {
      if (Atomics.load(words, 0) !== 0) throw new Error("an exchange has failed");
    },
  };
}

/** Touched once, so that no chunk pays for fresh memory. */
function touched() {
  const memory = reserveMemory(2 * PAGES * PAGE_SIZE);
  const bytes = new Uint8Array(bufferOf(memory));
  bytes.fill(1);
  return { memory, bytes };
}

/** W: memory.copy of one page. */
export function wasmCopy(): Job {
  const { copy } = pageOpsOf(touched().memory);
  return {
    per: PAGES,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) {
        for (let page = 0; page < PAGES; page++) {
          copy((PAGES + page) * PAGE_SIZE, page * PAGE_SIZE, PAGE_SIZE);
        }
      }
    },
  };
}

/** The same in JavaScript, as one would first write it. */
export function viewCopy(): Job {
  const { bytes } = touched();
  return {
    per: PAGES,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) {
        for (let page = 0; page < PAGES; page++) {
          const from = page * PAGE_SIZE;
          bytes.set(bytes.subarray(from, from + PAGE_SIZE), (PAGES + page) * PAGE_SIZE);
        }
      }
    },
  };
}

export function wasmZero(): Job {
  const { zero } = pageOpsOf(touched().memory);
  return {
    per: PAGES,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) {
        for (let page = 0; page < PAGES; page++) zero(page * PAGE_SIZE, PAGE_SIZE);
      }
    },
  };
}

export function viewZero(): Job {
  const { bytes } = touched();
  return {
    per: PAGES,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) {
        for (let page = 0; page < PAGES; page++) {
          bytes.fill(0, page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
        }
      }
    },
  };
}
