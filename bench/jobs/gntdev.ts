/**
 * Grants as a process maps them: request, mmap, munmap and the end of the request on /dev/xen/gntdev, through a whole
 * guest kernel on a slot of a machine whose hypervisor runs in another worker.
 */
import { bootKernel } from "../../domains/boot.ts";
import type { Kernel } from "../../domains/kernel.ts";
import type { Cpu } from "../../domains/memory.ts";
import { createProcess } from "../../domains/process.ts";
import { sysOpen } from "../../domains/syscalls.ts";
import { GNTDEV, mapGrants, type UserFile, unmapGrants } from "../../domains/xengnttab.ts";
import { openHost } from "../../platform/host.ts";
import { Runner, SLOT_LOST } from "../../platform/runner.ts";
import { CLIENT_PROBES_EVERY, policyOf } from "../../platform/worker-common.ts";
import { bootInfoOf } from "../../shared/boot-info.ts";
import type { Program } from "../../shared/trap.ts";
import { BATCH_MAX, grantPages, refOf } from "../grant-batch.ts";
import { GRANTER, USER } from "../machine.ts";
import { guestOn } from "../threaded-guest.ts";
import type { Job, Setup } from "../worker-api.ts";

interface Names {
  readonly domid: number;
  readonly ref: number;
}

function* opened(cpu: Cpu): Program<UserFile> {
  const kernel: Kernel = yield* bootKernel(cpu);
  const process = createProcess(kernel, "bench");
  return { process, fd: yield* sysOpen(process, GNTDEV) };
}

function* turnsOf(file: UserFile, grants: readonly Names[], turns: number): Program<number> {
  for (let turn = 0; turn < turns; turn++) {
    const mapping = yield* mapGrants(file, grants);
    if (typeof mapping === "number") return mapping;
    const rc = yield* unmapGrants(file, mapping);
    if (rc < 0) return rc;
  }
  return 0;
}

export function endToEnd(setup: Setup): Job {
  const { batch: count = 1 } = setup;
  const granter = guestOn(setup, GRANTER).guest;
  const { guest, board, machine } = guestOn(setup, USER);
  // References behind those of the bare batches, so that both may be timed on one machine.
  grantPages(granter, guest.domid, count, BATCH_MAX);
  const grants = Array.from({ length: count }, (_, i) => ({
    domid: granter.domid,
    ref: refOf(BATCH_MAX + i),
  }));
  const runner = new Runner({
    words: board.words,
    layout: board.layout,
    slot: guest.slot,
    policy: policyOf(machine.waiting, CLIENT_PROBES_EVERY),
    host: openHost(undefined),
    report: () => {},
  });
  const boot = bootInfoOf(machine.model, USER, guest.domid);
  const { words, layout } = board;
  const cpu: Cpu = { mmu: guest.mmu, words, layout, slot: guest.slot, points: false, boot };
  const file = runner.run(opened(cpu));
  if (file === SLOT_LOST) throw new Error("the domain is gone");
  let result: number | typeof SLOT_LOST = 0;
  return {
    per: count,
    run: (turns) => {
      result = runner.run(turnsOf(file, grants, turns));
    },
    end: () => {
      if (result !== 0) throw new Error(`gntdev answered ${result}`);
    },
  };
}
