/**
 * Worker entry of the hypervisor: the machine's sequential owner. It boots the machine in `boot` and serves
 * records in `run` until control stops it.
 */
import { layoutOf, MACHINE } from "../shared/layout.ts";
import { MachineMemory, wordsOf } from "../shared/mem.ts";
import { bufferOf, pageOpsOf } from "./page-ops.ts";
import type { End, HypervisorApi, HypervisorModule, Start } from "./worker-api.ts";
import { endOf, loadModule, policyOf, SERVER_PROBES_EVERY, serve } from "./worker-common.ts";

let run: () => End = () => ({ how: "fault", error: "the hypervisor has not booted" });

async function boot(start: Start): Promise<void> {
  const module = await loadModule<HypervisorModule<unknown>>(start.module);
  const words = wordsOf(start.control);
  const memory = new MachineMemory(bufferOf(start.memory), pageOpsOf(start.memory));
  const xen = module.bootHypervisor(words, memory, layoutOf(start.model));
  const policy = policyOf(start.waiting, SERVER_PROBES_EVERY);
  const startedMs = performance.now();
  const tick = (): void => {
    words[MACHINE.TICK] = Math.round(performance.now() - startedMs);
  };
  run = () =>
    endOf(() => {
      module.runHypervisor(xen, policy, tick);
      return "returned";
    });
}

serve({ boot, run: () => run() } satisfies Record<keyof HypervisorApi, unknown>);
