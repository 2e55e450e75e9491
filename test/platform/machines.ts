// Small machines for tests on threads. A worker loads one by the URL that `scenarioUrl` makes for its name.
import { openDisk, readDisk } from "../../domains/drivers/disk.ts";
import { transferBack } from "../../domains/drivers/transfer-back.ts";
import { transferFront } from "../../domains/drivers/transfer-front.ts";
import { endForeignAccessRef, grantForeignAccess } from "../../domains/grant-table.ts";
import { type Kernel, report, sleep, waitUntil } from "../../domains/kernel.ts";
import { loadWord, readBytes, storeWord } from "../../domains/memory.ts";
import { allocPage, pageToPhys } from "../../domains/pages.ts";
import { readStoreNode, waitWatch, watchStore, writeStoreNode } from "../../domains/xenbus.ts";
import type { KernelSpec, Scenario } from "../../shared/scenario.ts";
import { type HostHashTrap, type Program, TRAP_HOST_HASH } from "../../shared/trap.ts";
import { DmaAddress, GrantRef, Pfn } from "../../shared/units.ts";
import { enumerateFaults } from "../domains/fault-enumeration.ts";

/** A module whose default export is the machine `name` of this file. */
export const scenarioUrl = (name: MachineName): string =>
  `data:text/javascript,export { ${name} as default } from ${JSON.stringify(import.meta.url)}`;

/** Guest address of a page of its own. */
function ownPage(kernel: Kernel): number {
  const page = allocPage(kernel.memory.pages);
  if (page === undefined) throw new Error("a fresh kernel has free pages");
  return pageToPhys(page);
}

function* waitForNode(kernel: Kernel, path: string): Program<string> {
  const watch = yield* watchStore(kernel, path);
  if (typeof watch === "number") throw new Error(`watching ${path} answered ${watch}`);
  for (;;) {
    const value = yield* readStoreNode(kernel, path);
    if (typeof value === "string") return value;
    yield* waitWatch(kernel, watch);
  }
}

/** dom0 reads the first page of the file by DMA, hashes it, and tells the guest, which answers through the store. */
function* hashFirstPage(kernel: Kernel): Program {
  const page = ownPage(kernel);
  const disk = yield* openDisk(kernel);
  if (typeof disk === "number") throw new Error(`opening the disk answered ${disk}`);
  const { status, bytes } = yield* readDisk(kernel, disk, 0, [
    { address: DmaAddress(page), length: 4096 },
  ]);
  yield* report("status", status);
  const content = new Uint8Array(bytes);
  yield* readBytes(kernel.cpu, page, content, 0, bytes);
  const hash: HostHashTrap = {
    kind: TRAP_HOST_HASH,
    bytes: content,
    length: bytes,
    finish: true,
    hex: "",
  };
  yield hash;
  yield* report("sha256", hash.hex);
  yield* writeStoreNode(kernel, "/local/domain/1/data/question", 41);
  yield* report("answer", yield* waitForNode(kernel, "/local/domain/1/data/answer"));
}

function* answer(kernel: Kernel): Program {
  const question = yield* waitForNode(kernel, "data/question");
  const page = ownPage(kernel);
  yield* storeWord(kernel.cpu, page, Number(question));
  const value = (yield* loadWord(kernel.cpu, page)) + 1;
  yield* writeStoreNode(kernel, "data/answer", value);
}

/** Two domains and a disk. `later` can be created afterwards. */
export const hello: Scenario<Kernel> = {
  name: "hello",
  machine: { memory: "64MiB" },
  devices: { disk: { kind: "disk" } },
  domains: {
    dom0: { kind: "dom0", memory: "8MiB", program: hashFirstPage },
    guest: { kind: "domU", memory: "4MiB", program: answer },
    later: {
      kind: "domU",
      memory: "4MiB",
      atBoot: false,
      *program(kernel) {
        yield* report("page", yield* loadWord(kernel.cpu, ownPage(kernel)));
      },
    },
  },
};

/** The guest reports that it has begun and then stores to one page for ever, or stores to where nothing is. */
const guestThat = (program: (kernel: Kernel) => Program): Scenario<Kernel> => ({
  ...hello,
  domains: {
    dom0: { kind: "dom0", memory: "8MiB" },
    guest: { kind: "domU", memory: "4MiB", program },
  },
});

export const busy = guestThat(function* (kernel) {
  const page = ownPage(kernel);
  yield* report("begun", 1);
  for (let i = 0; ; i++) yield* storeWord(kernel.cpu, page, i);
});

export const asleep = guestThat(function* (kernel) {
  yield* report("begun", 1);
  yield* waitUntil(kernel, () => false);
});

export const wild = guestThat(function* (kernel) {
  yield* sleep(1);
  yield* storeWord(kernel.cpu, 0x70_0000_0000, 1);
});

export const throwing = guestThat(function* () {
  yield* sleep(1);
  throw new Error("out of ideas");
});

const takeFile = function* (kernel: Kernel): Program {
  yield* transferFront(kernel, { backend: "dom0", bytes: 512 * 1024 ** 2, pages: 64 });
};

/** A backend in dom0 that serves two frontends, one after the other; the second one is created later. */
export const transfer: Scenario<Kernel> = {
  name: "transfer",
  machine: { memory: "64MiB" },
  devices: { disk: { kind: "disk" } },
  domains: {
    dom0: {
      kind: "dom0",
      memory: "16MiB",
      *program(kernel) {
        yield* transferBack(kernel, { source: "dma-layer", frontends: 2 });
      },
    },
    guest: { kind: "domU", memory: "8MiB", program: takeFile },
    next: {
      kind: "domU",
      memory: "8MiB",
      atBoot: false,
      *program(kernel) {
        yield* transferFront(kernel, { backend: "dom0", bytes: 256 * 1024, pages: 64 });
      },
    },
  },
};

/** A frontend that grants two pages, and a backend whose allocations and hypercalls fail one after the other. */
const faultsWith = (kernel: KernelSpec): Scenario<Kernel> => ({
  name: "faults",
  machine: { memory: "64MiB" },
  domains: {
    dom0: { kind: "dom0", memory: "8MiB" },
    front: {
      kind: "domU",
      memory: "4MiB",
      *program(kernel) {
        const refs: number[] = [];
        for (let i = 0; i < 2; i++) {
          refs.push(yield* grantForeignAccess(kernel, 2, Pfn(ownPage(kernel) / 4096)));
        }
        yield* writeStoreNode(kernel, "data/refs", refs.join(","));
        yield* waitForNode(kernel, "/local/domain/2/data/done");
        for (const ref of refs) {
          yield* report("ended", yield* endForeignAccessRef(kernel, GrantRef(ref)));
        }
      },
    },
    back: {
      kind: "domU",
      memory: "4MiB",
      kernel,
      *program(kernel) {
        const refs = (yield* waitForNode(kernel, "/local/domain/1/data/refs")).split(",");
        const grants = { domid: 1, refs: refs.map(Number) };
        const answers = yield* enumerateFaults(kernel, grants);
        yield* report("answers", answers.join("\n"));
        yield* writeStoreNode(kernel, "data/done", 1);
      },
    },
  },
});

export const faultsRam = faultsWith({ longBits: 32, unpopulatedAlloc: "off" });
export const faultsPool = faultsWith({});

export const MACHINES = {
  faultsRam,
  faultsPool,
  hello,
  busy,
  asleep,
  wild,
  throwing,
  transfer,
};
export type MachineName = keyof typeof MACHINES;
