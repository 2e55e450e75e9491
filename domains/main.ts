/**
 * One guest from boot to its end: what a worker, or an actor of the explorer, runs on vCPU 0 of a domain.
 *
 *   boot -> dom0: xenstored -> connection to the store, own name in it -> the domain's program
 *
 * Behaviour: Linux init/main.c, as far as PV drivers see it; the name, which xl writes on real systems, is
 * written by the domain itself.
 */
import { ENODEV } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { balloonTargetThread, balloonThread } from "./balloon-thread.ts";
import { bootKernel } from "./boot.ts";
import { bugOn } from "./bug.ts";
import { runXenstored } from "./drivers/xenstored.ts";
import { lateEoiThread } from "./event-eoi.ts";
import { deferredGrantThread } from "./grant-table.ts";
import { type Kernel, runKernel, spawn, spawnDaemon } from "./kernel.ts";
import type { Cpu } from "./memory.ts";
import { connectStore, writeStoreNode } from "./xenbus.ts";

/**
 * Boots the kernel, starts its services and the domain's own program, and runs until the program and what it
 * has spawned are over. dom0 serves the store and never ends.
 */
export function* runDomain(cpu: Cpu, program: (kernel: Kernel) => Program): Program {
  const kernel = yield* bootKernel(cpu);
  spawnDaemon(kernel, "deferred grants", deferredGrantThread(kernel));
  spawnDaemon(kernel, "late ends of interrupts", lateEoiThread(kernel));
  spawnDaemon(kernel, "balloon", balloonThread(kernel));
  spawn(kernel, "main", runMain(kernel, program));
  yield* runKernel(kernel);
}

function* runMain(kernel: Kernel, program: (kernel: Kernel) => Program): Program {
  const connected = yield* connectStore(kernel);
  bugOn(connected < 0 && connected !== -ENODEV, `connecting to the store answered ${connected}`);
  if (kernel.boot.domid === 0) spawn(kernel, "xenstored", runXenstored(kernel));
  if (connected === 0) {
    yield* writeStoreNode(kernel, "name", kernel.boot.name);
    spawnDaemon(kernel, "balloon target", balloonTargetThread(kernel));
  }
  yield* program(kernel);
}
