/**
 * Faults that can be let loose on any focused story: each is a task of the toolstack's slot, so that where it strikes is chosen by the
 * same strategies as everything else.
 *
 *   kill X      domain X is destroyed: between hypercalls, inside one, at each gap (F-01 to F-07)
 *   nudge X     vCPU 0 of X is woken without cause, three times (F-18, F-20)
 *   pause X     X is paused, and goes on later (F-31 as seen by the others)
 *
 * Rule: with a fault in it a story is judged for safety alone: whoever waits for a domain that was killed waits rightly, and what the
 * programs claim of each other they claim of living ones. Ours; stress spec section 5.
 */
import { POINT } from "../domains/memory.ts";
import {
  XEN_DOMCTL_destroydomain,
  XEN_DOMCTL_pausedomain,
  XEN_DOMCTL_unpausedomain,
} from "../shared/abi/domctl.ts";
import { at } from "../shared/assert.ts";
import { raiseEvent } from "../shared/channel.ts";
import { DOM, domainOf } from "../shared/layout.ts";
import { CONTROL_DOMCTL, type Program } from "../shared/trap.ts";
import { control } from "./raw-guest.ts";
import type { Machine } from "./state.ts";
import type { SlotTask, Story } from "./story.ts";

const NUDGES = 3;

function* nudge(machine: Machine, domid: number): Program {
  const slot = at(machine.words, domainOf(machine.layout, domid) + DOM.SLOT);
  for (let times = 0; times < NUDGES; times++) {
    raiseEvent(machine.words, machine.layout, slot);
    yield POINT;
  }
}

function* pause(domid: number): Program {
  yield* control(CONTROL_DOMCTL, XEN_DOMCTL_pausedomain, domid);
  yield POINT;
  yield* control(CONTROL_DOMCTL, XEN_DOMCTL_unpausedomain, domid);
}

/** Every fault of a story: none for a story whose toolstack has something to do already. */
export function faultsOf(story: Story): readonly SlotTask[] {
  if ((story.others ?? []).some(({ slot }) => slot === 0)) return [];
  const domids = [...new Set(story.tasks.map(({ domain }) => domain))].filter((domid) => domid > 0);
  return domids.flatMap((domid): readonly SlotTask[] => {
    const name = story.model().domains[domid]?.name ?? String(domid);
    const common = { slot: 0, isFault: true } as const;
    const kill = (): Program<number> => control(CONTROL_DOMCTL, XEN_DOMCTL_destroydomain, domid);
    return [
      { ...common, name: `kill ${name}`, program: kill },
      { ...common, name: `nudge ${name}`, program: (machine) => nudge(machine, domid) },
      { ...common, name: `pause ${name}`, program: () => pause(domid) },
    ];
  });
}

/** The story with a fault in it. */
export function withFault(story: Story, fault: SlotTask): Story {
  const { judge: _judge, sometimes: _sometimes, ...rest } = story;
  return {
    ...rest,
    name: `${story.name} + ${fault.name}`,
    others: [...(story.others ?? []), fault],
    mayWait: true,
  };
}
