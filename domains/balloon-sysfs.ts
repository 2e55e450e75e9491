/**
 * /sys/devices/system/xen_memory/xen_memory0: what an administrator reads and writes of the balloon.
 *
 * Rules: sizes are KiB but for `target`, which is bytes; only the targets ask for CAP_SYS_ADMIN; a value that is no whole
 * number is -EINVAL.
 * Behaviour: Linux drivers/xen/xen-balloon.c.
 */
import { PAGE_SIZE } from "../shared/limits.ts";
import { EACCES, EINVAL, ENOENT, EPERM } from "../shared/status.ts";
import { setBalloonTarget } from "./balloon-thread.ts";
import type { Kernel } from "./kernel.ts";
import type { BalloonStats } from "./kernel-memory.ts";

const KIB_PER_PAGE = PAGE_SIZE / 1024;

/** Who writes: the kernel of a guest has no users, so the caller says what it may. */
export interface Credentials {
  readonly sysAdmin: boolean;
}

/** The text of an attribute, or -ENOENT. */
export function readBalloonAttribute(kernel: Kernel, name: string): string | number {
  const { balloon } = kernel.memory;
  const value = attributeOf(balloon, name);
  return value === undefined ? -ENOENT : `${value}\n`;
}

function attributeOf(balloon: BalloonStats, name: string): number | undefined {
  switch (name) {
    case "target_kb":
      return balloon.targetPages * KIB_PER_PAGE;
    case "target":
      return balloon.targetPages * PAGE_SIZE;
    case "schedule_delay":
      return balloon.scheduleDelay;
    case "max_schedule_delay":
      return balloon.maxScheduleDelay;
    case "retry_count":
      return balloon.retryCount;
    case "max_retry_count":
      return balloon.maxRetryCount;
    case "scrub_pages":
      return balloon.scrubPages ? 1 : 0;
    case "info/current_kb":
      return balloon.currentPages * KIB_PER_PAGE;
    case "info/low_kb":
      return balloon.balloonLow * KIB_PER_PAGE;
    case "info/high_kb":
      return 0;
    default:
      return undefined;
  }
}

/** Writes an attribute: 0, or -ENOENT, -EPERM (target without the capability), -EINVAL (no number), -EACCES (read only). */
export function writeBalloonAttribute(
  kernel: Kernel,
  name: string,
  text: string,
  by: Credentials,
): number {
  const { balloon } = kernel.memory;
  if (attributeOf(balloon, name) === undefined) return -ENOENT;
  const isTarget = name === "target" || name === "target_kb";
  if (isTarget && !by.sysAdmin) return -EPERM;
  if (!/^\s*\d+\s*$/.test(text)) return -EINVAL;
  const value = Number(text);
  switch (name) {
    case "target":
      setBalloonTarget(kernel, Math.floor(value / PAGE_SIZE));
      return 0;
    case "target_kb":
      setBalloonTarget(kernel, Math.floor(value / KIB_PER_PAGE));
      return 0;
    case "schedule_delay":
      balloon.scheduleDelay = value;
      return 0;
    case "max_schedule_delay":
      balloon.maxScheduleDelay = value;
      return 0;
    case "retry_count":
      balloon.retryCount = value;
      return 0;
    case "max_retry_count":
      balloon.maxRetryCount = value;
      return 0;
    case "scrub_pages":
      balloon.scrubPages = value !== 0;
      return 0;
    default:
      return -EACCES;
  }
}
