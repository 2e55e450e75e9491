/**
 * sched_op: a vCPU that gives up its processor until an event comes or a time is up, or a domain that shuts down.
 *
 *   poll: mark the slot -> look at each port -> one pending: go on -> wait -> woken, or time is up: go on
 *
 * Rules: the mark stands before a port is looked at, so an event that comes in between is not missed; while it waits
 * the handler stands at a gap of its own kind, and a vCPU that is killed meanwhile loses the mark (`endPoll`). Its
 * guest is taken to poll with interrupts off: an upcall that stands before the call ends nothing.
 * Behaviour: xen/common/sched/core.c, do_poll(), vcpu_unblock().
 */
import {
  SCHED_POLL_NR_PORTS,
  SCHED_POLL_PORTS,
  SCHED_POLL_SIZE,
  SCHED_POLL_TIMEOUT,
  SCHEDOP_block,
  SCHEDOP_poll,
  SCHEDOP_remote_shutdown,
  SCHEDOP_shutdown,
  SCHEDOP_shutdown_code,
  SCHEDOP_yield,
} from "../shared/abi/sched.ts";
import { at } from "../shared/assert.ts";
import { LINE, MACHINE } from "../shared/layout.ts";
import { NOT_PRESENT, POLL_PORTS_MAX } from "../shared/limits.ts";
import { peek } from "../shared/mem.ts";
import { EFAULT, EINVAL, ENOSYS } from "../shared/status.ts";
import { remoteShutdown, shutdownCode, shutdownSelf } from "./domain-shutdown.ts";
import { isPending } from "./event-delivery.ts";
import { ECS_RESERVED, isValidPort, portState } from "./event-ports.ts";
import { hasUpcall, POLL_ANY, POLL_NONE, POLL_UPCALL, POLL_WOKEN } from "./event-upcall.ts";
import { copyArgs, copyFromGuest } from "./guest-access.ts";
import {
  type Caller,
  GAP_POLL,
  lineField,
  type Preemptible,
  setLineField,
  type Xen,
} from "./xen.ts";

/** Commands up to this one exist. */
const SCHEDOP_LAST = 7;
const NS_PER_MS = 1e6;
const TICK_END = 2 ** 31;

/** The watchdog and pinning are not answered. */
export const schedNotBuilt = (cmd: number): boolean =>
  cmd <= SCHEDOP_LAST && cmd > SCHEDOP_shutdown_code;

/** sched_op(cmd, arg). */
export function schedOp(xen: Xen, caller: Caller, cmd: number, arg: number): number | Preemptible {
  switch (cmd) {
    case SCHEDOP_yield:
      return 0;
    case SCHEDOP_block:
      return block(xen, caller);
    case SCHEDOP_shutdown:
      return shutdownSelf(xen, caller, arg);
    case SCHEDOP_poll:
      if (!copyArgs(xen, caller.domid, arg, SCHED_POLL_SIZE)) return -EFAULT;
      return poll(xen, caller);
    case SCHEDOP_remote_shutdown:
      return remoteShutdown(xen, caller, arg);
    case SCHEDOP_shutdown_code:
      return shutdownCode(xen, caller, arg);
    default:
      return -ENOSYS;
  }
}

/** Waits for an upcall: one that stands already is enough, an event of a masked port is not. */
function block(xen: Xen, caller: Caller): number | Preemptible {
  beginPoll(xen, caller.slot, POLL_UPCALL, 0);
  if (!hasUpcall(xen, caller)) return waitForEvent(xen, caller.slot);
  endPoll(xen, caller.slot);
  return 0;
}

function poll(xen: Xen, caller: Caller): number | Preemptible {
  const { args, listEntry } = xen;
  const count = args.u32(SCHED_POLL_NR_PORTS);
  if (count > POLL_PORTS_MAX) return -EINVAL;
  const list = args.u64(SCHED_POLL_PORTS);
  const timeout = args.u64(SCHED_POLL_TIMEOUT);
  let port = 0;
  beginPoll(xen, caller.slot, POLL_ANY, timeout);
  for (let i = 0; i < count; i++) {
    const isRead = copyFromGuest(xen, caller.domid, list + 4 * i, listEntry.bytes, 4);
    port = listEntry.u32(0);
    const answer = isRead ? portAnswer(xen, caller, port) : -EFAULT;
    if (answer === undefined) continue;
    endPoll(xen, caller.slot);
    return answer;
  }
  if (count === 1 && lineField(xen, caller.slot, LINE.POLL) === POLL_ANY) {
    setLineField(xen, caller.slot, LINE.POLL, port);
  }
  return waitForEvent(xen, caller.slot);
}

/** What a port makes poll answer at once; undefined: nothing is pending. */
function portAnswer(xen: Xen, { domid }: Caller, port: number): number | undefined {
  if (!isValidPort(xen, domid, port)) return -EINVAL;
  if (portState(xen, domid, port) <= ECS_RESERVED) return -EINVAL;
  return isPending(xen, domid, port) ? 0 : undefined;
}

function* waitForEvent(xen: Xen, slot: number): Preemptible {
  yield GAP_POLL;
  endPoll(xen, slot);
  return 0;
}

/** `timeout` is an absolute time of the machine in nanoseconds; 0: none. */
function beginPoll(xen: Xen, slot: number, port: number, timeout: number): void {
  const tick = Math.floor(timeout / NS_PER_MS);
  const isBounded = timeout !== 0 && tick < TICK_END;
  setLineField(xen, slot, LINE.POLL, port);
  setLineField(xen, slot, LINE.POLL_UNTIL, isBounded ? tick : NOT_PRESENT);
  xen.words[MACHINE.POLLERS] = at(xen.words, MACHINE.POLLERS) + 1;
}

/** A vCPU polls no more, whether it was answered or killed. One that did not poll is left alone. */
export function endPoll(xen: Xen, slot: number): void {
  if (lineField(xen, slot, LINE.POLL) === POLL_NONE) return;
  setLineField(xen, slot, LINE.POLL, POLL_NONE);
  xen.words[MACHINE.POLLERS] = at(xen.words, MACHINE.POLLERS) - 1;
}

/** Whether the poll of a slot is over: an event has come, or its time. */
export function isPollOver(xen: Xen, slot: number): boolean {
  if (lineField(xen, slot, LINE.POLL) === POLL_WOKEN) return true;
  const until = lineField(xen, slot, LINE.POLL_UNTIL);
  return until !== NOT_PRESENT && at(xen.words, MACHINE.TICK) >= until;
}

/** Tick at which the first poll runs out of time, or NOT_PRESENT. One load when nobody polls. */
export function pollDeadline(xen: Xen): number {
  let first = NOT_PRESENT;
  if (peek(xen.words, MACHINE.POLLERS) === 0) return first;
  for (let slot = 0; slot < xen.model.limits.slots; slot++) {
    if (lineField(xen, slot, LINE.POLL) === POLL_NONE) continue;
    const until = lineField(xen, slot, LINE.POLL_UNTIL);
    if (until !== NOT_PRESENT && (first === NOT_PRESENT || until < first)) first = until;
  }
  return first;
}
