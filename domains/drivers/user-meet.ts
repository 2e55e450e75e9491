/**
 * How the two programs of the user-space stories tell each other things: each writes nodes below its own home in the
 * store and waits for those of the other. Ours, in place of a toolstack that would connect them.
 */
import type { Program } from "../../shared/trap.ts";
import { KernelBug } from "../bug.ts";
import type { Kernel } from "../kernel.ts";
import { readStoreNode, unwatchStore, waitWatch, watchStore, writeStoreNode } from "../xenbus.ts";

/** Says `key` = `value` to whoever listens. */
export function* tell(kernel: Kernel, key: string, value: string | number): Program {
  const rc = yield* writeStoreNode(kernel, `user/${key}`, value);
  if (rc < 0) throw new KernelBug(`telling ${key} answered ${rc}`);
}

/** Waits until domain `domid` says `key`. */
export function* hear(kernel: Kernel, domid: number, key: string): Program<string> {
  const path = `/local/domain/${domid}/user/${key}`;
  const watch = yield* watchStore(kernel, path);
  if (typeof watch === "number") throw new KernelBug(`watching ${path} answered ${watch}`);
  for (;;) {
    yield* waitWatch(kernel, watch);
    const value = yield* readStoreNode(kernel, path);
    if (typeof value !== "string") continue;
    yield* unwatchStore(kernel, watch);
    return value;
  }
}
