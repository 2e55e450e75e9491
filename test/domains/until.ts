/** Waiting in tests: programs of one thread tell each other things by closures. */
import { sleep } from "../../domains/kernel.ts";
import type { Program } from "../../shared/trap.ts";

/** Waits, a virtual millisecond at a time, for what another domain's program tells by a closure. */
export function* until(ready: () => boolean): Program {
  while (!ready()) yield* sleep(1);
}
