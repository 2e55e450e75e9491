/**
 * Domain control: pause, unpause, destroy, limits and information, for control domains and for the toolstack.
 *
 * Rules: the target is looked up first, then the caller's right is judged, then the command is looked at, as in Xen.
 * The toolstack's own records carry their argument themselves, because it has no guest memory.
 * Behaviour: xen/common/domctl.c, do_domctl(), getdomaininfo(); xen/common/domain.c, domain_pause_by_systemcontroller().
 */
import {
  DOMCTL_CMD,
  DOMCTL_DOMAIN,
  DOMCTL_SIZE,
  DOMINFO_DOMAIN,
  DOMINFO_FLAGS,
  DOMINFO_MAX_PAGES,
  DOMINFO_OUTSTANDING_PAGES,
  DOMINFO_PAGED_PAGES,
  DOMINFO_SHR_PAGES,
  DOMINFO_SIZE,
  DOMINFO_TOT_PAGES,
  MAX_MEM_MAX_MEMKB,
  PAGING_MEMPOOL_SIZE,
  SET_TARGET_TARGET,
  SUBSCRIBE_PORT,
  XEN_DOMCTL_createdomain,
  XEN_DOMCTL_destroydomain,
  XEN_DOMCTL_get_paging_mempool_size,
  XEN_DOMCTL_getdomaininfo,
  XEN_DOMCTL_max_mem,
  XEN_DOMCTL_pausedomain,
  XEN_DOMCTL_resumedomain,
  XEN_DOMCTL_set_paging_mempool_size,
  XEN_DOMCTL_set_target,
  XEN_DOMCTL_subscribe,
  XEN_DOMCTL_unpausedomain,
  XEN_DOMINF_dying,
  XEN_DOMINF_paused,
  XEN_DOMINF_shutdown,
  XEN_DOMINF_shutdownshift,
} from "../shared/abi/domctl.ts";
import { raiseEvent } from "../shared/channel.ts";
import {
  CDF_creation_finished,
  CDF_hardware,
  DOM,
  DYING_DEAD,
  PAUSED_FOR_SHUTDOWN,
} from "../shared/layout.ts";
import { PAGE_SIZE, PAUSES_MAX } from "../shared/limits.ts";
import {
  EFAULT,
  EINVAL,
  ENOMEM,
  ENOSYS,
  EOPNOTSUPP,
  EOVERFLOW,
  EPERM,
  ESRCH,
} from "../shared/status.ts";
import { DomId } from "../shared/units.ts";
import { killDomain } from "./domain-death.ts";
import { isShutDown, resumeDomain, subscribe } from "./domain-shutdown.ts";
import { copyArgs, copyFieldBack, copyToGuest } from "./guest-access.ts";
import {
  controlRequest,
  deviceDomctl,
  guestRequest,
  isDeviceDomctl,
  mayName,
} from "./iommu-domctl.ts";
import { drainP2mPool, fillP2mPool } from "./p2m.ts";
import {
  addDomainField,
  type Caller,
  domainById,
  domainField,
  GAP_PREEMPT,
  hasFlag,
  isGapDue,
  isPresent,
  isPrivileged,
  mayManage,
  type Preemptible,
  setDomainField,
  slotsOf,
  type Xen,
} from "./xen.ts";

/** max_mem's and the pool's arguments are the first 64 bits of the union, both. */
const FIRST_ARGUMENT = MAX_MEM_MAX_MEMKB;
const KIB_PER_PAGE = 4;
/** More pages than any machine has; max_mem is cut to it. */
const PAGES_MAX = 0x7fffffff;

/** Commands that are answered; Xen knows all others up to a few dozen. */
const BUILT: ReadonlySet<number> = new Set([
  XEN_DOMCTL_destroydomain,
  XEN_DOMCTL_pausedomain,
  XEN_DOMCTL_unpausedomain,
  XEN_DOMCTL_getdomaininfo,
  XEN_DOMCTL_max_mem,
  XEN_DOMCTL_resumedomain,
  XEN_DOMCTL_subscribe,
  XEN_DOMCTL_set_target,
  XEN_DOMCTL_get_paging_mempool_size,
  XEN_DOMCTL_set_paging_mempool_size,
]);
/** Commands that are known to Xen and named by the ABI of this machine, but not answered. */
const NOT_BUILT: ReadonlySet<number> = new Set([XEN_DOMCTL_createdomain]);

/** Whether this command is known but not answered. */
export const domctlNotBuilt = (cmd: number): boolean => NOT_BUILT.has(cmd);

/** domctl(arg): `arg` is the guest address of a struct xen_domctl. */
export function domctlOp(xen: Xen, caller: Caller, arg: number): number | Preemptible {
  if (!copyArgs(xen, caller.domid, arg, DOMCTL_SIZE)) return -EFAULT;
  const cmd = xen.args.u32(DOMCTL_CMD);
  const domid = xen.args.u16(DOMCTL_DOMAIN);
  const target = domainById(xen, domid);
  const isDevice = isDeviceDomctl(cmd);
  const isNamed = target !== undefined || (isDevice && mayName(cmd, domid));
  if (!isNamed && cmd !== XEN_DOMCTL_getdomaininfo) return -ESRCH;
  if (cmd === XEN_DOMCTL_getdomaininfo) return getDomainInfo(xen, caller, arg, domid);
  if (!isPrivileged(xen, caller)) return -EPERM;
  if (isDevice) return deviceDomctl(xen, caller, guestRequest(xen, caller, cmd, domid));
  if (cmd === XEN_DOMCTL_get_paging_mempool_size && target !== undefined) {
    xen.args.setU64(PAGING_MEMPOOL_SIZE, p2mPoolPages(xen, target) * PAGE_SIZE);
    return copyFieldBack(xen, caller.domid, arg, PAGING_MEMPOOL_SIZE, 8) ? 0 : -EFAULT;
  }
  return control(xen, caller, cmd, domid, guestArgument(xen, cmd));
}

/** The command's argument in a guest's structure. Nobody but the toolstack writes a suspended vCPU's registers. */
function guestArgument(xen: Xen, cmd: number): number {
  switch (cmd) {
    case XEN_DOMCTL_resumedomain:
      return 0;
    case XEN_DOMCTL_subscribe:
      return xen.args.u32(SUBSCRIBE_PORT);
    case XEN_DOMCTL_set_target:
      return xen.args.u16(SET_TARGET_TARGET);
    default:
      return xen.args.u64(FIRST_ARGUMENT);
  }
}

/**
 * The toolstack's record: command, domain, and the command's argument (max_mem: KiB; table page pool: bytes; a device by
 * its number; resume: how the suspending call comes back). What a query answers is the return value.
 */
export function controlDomctl(
  xen: Xen,
  caller: Caller,
  cmd: number,
  domid: number,
  argument: number,
): number | Preemptible {
  if (cmd === XEN_DOMCTL_getdomaininfo) return nextDomain(xen, domid) ?? -ESRCH;
  if (isDeviceDomctl(cmd)) {
    if (!isPresent(xen, domid) && !mayName(cmd, domid)) return -ESRCH;
    return deviceDomctl(xen, caller, controlRequest(xen, cmd, domid, argument));
  }
  return control(xen, caller, cmd, domid, argument);
}

function control(
  xen: Xen,
  caller: Caller,
  cmd: number,
  domid: number,
  argument: number,
): number | Preemptible {
  const target = domainById(xen, domid);
  if (target === undefined) return -ESRCH;
  if (!BUILT.has(cmd)) return -ENOSYS;
  switch (cmd) {
    case XEN_DOMCTL_pausedomain:
      return target === caller.domid ? -EINVAL : pauseDomain(xen, target);
    case XEN_DOMCTL_unpausedomain:
      return unpauseDomain(xen, target);
    case XEN_DOMCTL_max_mem:
      // It may lie below what the domain has: then it gains nothing until it has given pages back.
      setDomainField(
        xen,
        target,
        DOM.MAX_PAGES,
        Math.min(Math.floor(argument / KIB_PER_PAGE), PAGES_MAX),
      );
      return 0;
    case XEN_DOMCTL_resumedomain:
      return target === caller.domid ? -EINVAL : resumeDomain(xen, target, argument);
    case XEN_DOMCTL_subscribe:
      return subscribe(xen, target, argument);
    case XEN_DOMCTL_set_target:
      return setTarget(xen, target, argument);
    case XEN_DOMCTL_get_paging_mempool_size:
      return p2mPoolPages(xen, target) * PAGE_SIZE;
    case XEN_DOMCTL_set_paging_mempool_size:
      return setPoolSize(xen, target, argument);
    default:
      return target === caller.domid ? -EINVAL : killDomain(xen, caller.slot, target);
  }
}

/**
 * `domid` may act for `target` from here on, once and for all, and keeps it from going. The hardware domain of arm64 and
 * domains that are not translated can be nobody's target.
 */
function setTarget(xen: Xen, domid: DomId, target: number): number {
  const found = domainById(xen, target);
  if (found === undefined) return -ESRCH;
  if (found === domid || domainField(xen, domid, DOM.TARGET) !== 0) return -EINVAL;
  if (hasFlag(xen, found, CDF_hardware)) return -EOPNOTSUPP;
  setDomainField(xen, domid, DOM.TARGET, 1 + found);
  addDomainField(xen, found, DOM.REFS, 1);
  return 0;
}

/** Table pages of a domain that come from its pool, in use or not. The hardware domain's come from the heap. */
const p2mPoolPages = (xen: Xen, domid: DomId): number =>
  domainField(xen, domid, DOM.P2M_POOL_FREE) +
  (hasFlag(xen, domid, CDF_hardware) ? 0 : domainField(xen, domid, DOM.P2M_PAGE_COUNT));

/** The pool of table pages grows or shrinks to `size` bytes. */
function setPoolSize(xen: Xen, domid: DomId, size: number): number | Preemptible {
  const pages = size / PAGE_SIZE;
  return Number.isInteger(pages) ? resizePool(xen, domid, pages) : -EINVAL;
}

/** -ENOMEM when the heap, or what the pool has free, is used up on the way; the pool stays as far as it got. */
function* resizePool(xen: Xen, domid: DomId, pages: number): Preemptible {
  const generation = domainField(xen, domid, DOM.GENERATION);
  for (let done = 1; ; done++) {
    const now = p2mPoolPages(xen, domid);
    if (now === pages) return 0;
    const moved = now < pages ? fillP2mPool(xen, domid, 1) === 1 : drainP2mPool(xen, domid);
    if (!moved) return -ENOMEM;
    if (!isGapDue(xen, done)) continue;
    yield GAP_PREEMPT;
    if (domainById(xen, domid) === undefined) return -ESRCH;
    if (domainField(xen, domid, DOM.GENERATION) !== generation) return -ESRCH;
  }
}

const pausesOf = (xen: Xen, domid: number): number =>
  domainField(xen, domid, DOM.PAUSE) & ~PAUSED_FOR_SHUTDOWN;

/** Counts one pause of the controller in. -EOVERFLOW at the limit of its counter. */
function pauseDomain(xen: Xen, domid: DomId): number {
  const pauses = pausesOf(xen, domid);
  if (pauses >= PAUSES_MAX) return -EOVERFLOW;
  addDomainField(xen, domid, DOM.PAUSE, 1);
  return 0;
}

/** Counts one pause out; at the first time that none is left the creation is over. -EINVAL: it was not paused. */
export function unpauseDomain(xen: Xen, domid: DomId | number): number {
  const pauses = pausesOf(xen, domid);
  if (pauses === 0) return -EINVAL;
  if (pauses === 1) {
    const flags = domainField(xen, domid, DOM.FLAGS) | CDF_creation_finished;
    setDomainField(xen, domid, DOM.FLAGS, flags);
  }
  addDomainField(xen, domid, DOM.PAUSE, -1);
  for (const slot of slotsOf(xen, domid)) raiseEvent(xen.words, xen.layout, slot);
  return 0;
}

/** The domain with the lowest id that is `domid` or higher, dying ones included. */
function nextDomain(xen: Xen, domid: number): DomId | undefined {
  for (let id = domid; id < xen.model.limits.domains; id++) {
    if (isPresent(xen, id)) return DomId(id);
  }
  return undefined;
}

function getDomainInfo(xen: Xen, caller: Caller, arg: number, domid: number): number {
  const target = nextDomain(xen, domid);
  if (target === undefined) return isPrivileged(xen, caller) ? -ESRCH : -EPERM;
  if (!mayManage(xen, caller, target)) return -EPERM;
  const { args } = xen;
  args.setU16(DOMCTL_DOMAIN, target);
  args.setU16(DOMINFO_DOMAIN, target);
  args.setU32(DOMINFO_FLAGS, infoFlags(xen, target));
  args.setU64(DOMINFO_TOT_PAGES, domainField(xen, target, DOM.TOT_PAGES));
  args.setU64(DOMINFO_MAX_PAGES, domainField(xen, target, DOM.MAX_PAGES));
  args.setU64(DOMINFO_OUTSTANDING_PAGES, domainField(xen, target, DOM.OUTSTANDING_PAGES));
  // Page sharing and paging do not exist on this machine.
  args.setU64(DOMINFO_SHR_PAGES, 0);
  args.setU64(DOMINFO_PAGED_PAGES, 0);
  return copyToGuest(xen, caller.domid, arg, args.bytes, 0, DOMINFO_DOMAIN + DOMINFO_SIZE)
    ? 0
    : -EFAULT;
}

const infoFlags = (xen: Xen, domid: DomId): number =>
  (domainField(xen, domid, DOM.DYING) === DYING_DEAD ? XEN_DOMINF_dying : 0) |
  (isShutDown(xen, domid) ? XEN_DOMINF_shutdown : 0) |
  (pausesOf(xen, domid) > 0 ? XEN_DOMINF_paused : 0) |
  // A domain without a code shows all ones.
  (((domainField(xen, domid, DOM.SHUTDOWN) - 1) << XEN_DOMINF_shutdownshift) >>> 0);
