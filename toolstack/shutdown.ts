/**
 * Domains that have shut down, as the toolstack sees them in the domain table: one that crashed ends a run, any other is
 * over for it. One that is suspended may be resumed and counts for nothing.
 * Ours; xl acts on the same codes when VIRQ_DOM_EXC comes (on_poweroff=, on_crash=).
 */
import { SHUTDOWN_crash, SHUTDOWN_suspend } from "../shared/abi/sched.ts";
import { at } from "../shared/assert.ts";
import { DOM, DOMAIN_PRESENT, domainOf, PAUSED_FOR_SHUTDOWN } from "../shared/layout.ts";
import type { Ending } from "./engine.ts";
import { domainName, type View } from "./view.ts";

interface ShutDown {
  readonly name: string;
  readonly code: number;
}

function shutDowns(view: View): readonly ShutDown[] {
  const { layout, words } = view;
  const found: ShutDown[] = [];
  for (let domid = 0; domid < layout.model.limits.domains; domid++) {
    const row = domainOf(layout, domid);
    if (at(words, row + DOM.STATE) !== DOMAIN_PRESENT) continue;
    if ((at(words, row + DOM.PAUSE) & PAUSED_FOR_SHUTDOWN) === 0) continue;
    found.push({ name: domainName(view, domid), code: at(words, row + DOM.SHUTDOWN) - 1 });
  }
  return found;
}

/** How a run ends in which domains have shut down; undefined: it goes on. `left`: programs that are awaited still. */
export function shutdownEnding(view: View, left: readonly string[]): Ending | undefined {
  const down = shutDowns(view);
  const crashed = down.find(({ code }) => code === SHUTDOWN_crash);
  if (crashed !== undefined) {
    const reason = "crashed: shutdown code 3";
    return { kind: "crashed", part: `domain ${crashed.name}`, reason };
  }
  const isDown = (name: string): boolean =>
    down.some((one) => one.name === name && one.code !== SHUTDOWN_suspend);
  return down.length > 0 && left.every(isDown) ? { kind: "finished" } : undefined;
}
