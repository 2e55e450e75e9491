/**
 * The balloon thread: it works towards the target, and backs off when it does not get on.
 *
 *   credit above 0: take RAM back, or hot-add some      below 0: give some to Xen      0: sleep
 *   after a failure: 2, 4, 8 seconds, then given up until the credit changes
 *
 * Rules: the target comes from the store's memory/target (KiB), less what the domain's maximum and its first target
 * differ by; a value that is missing or is no number is ignored. An hour is for ever here: a kernel that has nothing
 * else to do is not woken after one.
 * Behaviour: Linux drivers/xen/balloon.c, balloon_thread(), update_schedule(); xen-balloon.c, watch_target().
 */
import { PAGE_SIZE } from "../shared/limits.ts";
import type { Program } from "../shared/trap.ts";
import {
  type BalloonState,
  BP_DONE,
  BP_EAGAIN,
  BP_ECANCELED,
  BP_WAIT,
  currentCredit,
  decreaseReservation,
  increaseReservation,
  reserveAdditionalMemory,
} from "./balloon.ts";
import { type Kernel, nowMs, waitFor } from "./kernel.ts";
import { LIST_END } from "./pages.ts";
import { readStoreNumber, waitWatch, watchStore } from "./xenbus.ts";

const SECOND_MS = 1000;
const KIB_PER_PAGE = PAGE_SIZE / 1024;

/** update_schedule: how the thread reacts to the outcome of one round. */
export function updateSchedule(kernel: Kernel, state: BalloonState): BalloonState {
  const { balloon } = kernel.memory;
  if (state === BP_WAIT || state === BP_ECANCELED) return state;
  if (state === BP_DONE) {
    balloon.scheduleDelay = 1;
    balloon.retryCount = 1;
    return BP_DONE;
  }
  balloon.retryCount++;
  if (balloon.maxRetryCount !== 0 && balloon.retryCount > balloon.maxRetryCount) {
    balloon.scheduleDelay = 1;
    balloon.retryCount = 1;
    return BP_ECANCELED;
  }
  balloon.scheduleDelay = Math.min(balloon.scheduleDelay * 2, balloon.maxScheduleDelay);
  return BP_EAGAIN;
}

/** One round of the balloon thread. Returns the state it would sleep in. */
export function* balloonStep(kernel: Kernel): Program<BalloonState> {
  const { balloon, pages } = kernel.memory;
  const credit = currentCredit(kernel);
  let state: BalloonState = BP_DONE;
  if (credit > 0) {
    if (balloon.head !== LIST_END) state = yield* increaseReservation(kernel, credit);
    else {
      state = yield* reserveAdditionalMemory(kernel);
    }
  } else if (credit < 0) {
    const count = Math.min(-credit, pages.freeCount);
    state = yield* decreaseReservation(kernel, count);
    if (state === BP_DONE && count !== -credit) state = BP_EAGAIN;
  }
  return updateSchedule(kernel, state);
}

/** Seconds until the thread tries again by itself; Linux: an hour instead of never. */
function delaySeconds(kernel: Kernel, state: BalloonState): number {
  if (state === BP_EAGAIN) return kernel.memory.balloon.scheduleDelay;
  return state === BP_WAIT ? 1 : Number.POSITIVE_INFINITY;
}

/** The thread as a daemon: it wakes when the credit has changed, somebody gives pages back, or its delay is over. */
export function* balloonThread(kernel: Kernel): Program {
  const { balloon } = kernel.memory;
  let state: BalloonState = BP_DONE;
  let tried = 0;
  let seen = 0;
  let due = Number.POSITIVE_INFINITY;
  for (;;) {
    const isWoken = (): boolean => {
      const credit = currentCredit(kernel);
      if (credit === 0) return false;
      return state === BP_DONE || credit !== tried || balloon.wakes !== seen;
    };
    yield* waitFor(kernel, isWoken, due);
    seen = balloon.wakes;
    state = yield* balloonStep(kernel);
    tried = currentCredit(kernel);
    due = nowMs(kernel) + delaySeconds(kernel, state) * SECOND_MS;
  }
}

/** balloon_set_new_target: pages the domain should have. The thread sees it at its next turn. */
export function setBalloonTarget(kernel: Kernel, targetPages: number): void {
  kernel.memory.balloon.targetPages = targetPages;
  kernel.memory.balloon.wakes++;
}

/**
 * The store's wish as a daemon: memory/target of the own home, whenever it changes. It ends when the store refuses the
 * watch or is gone.
 */
export function* balloonTargetThread(kernel: Kernel): Program {
  const watch = yield* watchStore(kernel, "memory/target");
  if (typeof watch === "number") return;
  let difference: number | undefined;
  while ((yield* waitWatch(kernel, watch)) !== undefined) {
    const wanted = yield* readStoreNumber(kernel, "memory/target");
    if (!(wanted >= 0)) continue;
    const target = Math.floor(wanted / KIB_PER_PAGE);
    difference ??= yield* targetDifference(kernel);
    setBalloonTarget(kernel, target - difference);
  }
}

/** target_diff: what the toolstack counts and this kernel does not; dom0 is its own toolstack. */
function* targetDifference(kernel: Kernel): Program<number> {
  const { balloon } = kernel.memory;
  if (kernel.boot.domid === 0) return 0;
  let max = yield* readStoreNumber(kernel, "memory/static-max");
  if (max < 0) max = yield* readStoreNumber(kernel, "memory/memory_static_max");
  const pages = max >= 0 ? Math.floor(max / KIB_PER_PAGE) : balloon.currentPages;
  return pages - balloon.targetPages;
}
