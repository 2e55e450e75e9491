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
  XEN_DOMCTL_assign_device,
  XEN_DOMCTL_createdomain,
  XEN_DOMCTL_destroydomain,
  XEN_DOMCTL_getdomaininfo,
  XEN_DOMCTL_max_mem,
  XEN_DOMCTL_pausedomain,
  XEN_DOMCTL_unpausedomain,
  XEN_DOMINF_dying,
  XEN_DOMINF_paused,
  XEN_DOMINF_shutdown,
} from "../shared/abi/domctl.ts";
import { raiseEvent } from "../shared/channel.ts";
import { CDF_creation_finished, DOM } from "../shared/layout.ts";
import { PAUSES_MAX } from "../shared/limits.ts";
import { EFAULT, EINVAL, ENOSYS, EOVERFLOW, EPERM, ESRCH } from "../shared/status.ts";
import { DomId } from "../shared/units.ts";
import { killDomain } from "./domain-death.ts";
import { slotsOf } from "./domain-teardown.ts";
import { copyArgs, copyToGuest } from "./guest-access.ts";
import {
  type Caller,
  domainById,
  domainField,
  isDying,
  isPresent,
  isPrivileged,
  type Preemptible,
  setDomainField,
  type Xen,
} from "./xen.ts";

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
]);
/** Commands that are known to Xen and named by the ABI of this machine, but not answered. */
const NOT_BUILT: ReadonlySet<number> = new Set([XEN_DOMCTL_createdomain, XEN_DOMCTL_assign_device]);

/** Whether this command is known but not answered. */
export const domctlNotBuilt = (cmd: number): boolean => NOT_BUILT.has(cmd);

/** domctl(arg): `arg` is the guest address of a struct xen_domctl. */
export function domctlOp(xen: Xen, caller: Caller, arg: number): number | Preemptible {
  if (!copyArgs(xen, caller.domid, arg, DOMCTL_SIZE)) return -EFAULT;
  const cmd = xen.args.u32(DOMCTL_CMD);
  const domid = xen.args.u16(DOMCTL_DOMAIN);
  const target = domainById(xen, domid);
  if (target === undefined && cmd !== XEN_DOMCTL_getdomaininfo) return -ESRCH;
  if (!isPrivileged(xen, caller)) return -EPERM;
  if (cmd === XEN_DOMCTL_getdomaininfo) return getDomainInfo(xen, caller, arg, domid);
  return control(xen, caller, cmd, domid, xen.args.u64(MAX_MEM_MAX_MEMKB));
}

/** The toolstack's record: command, domain, and the command's argument (max_mem: KiB). */
export function controlDomctl(
  xen: Xen,
  caller: Caller,
  cmd: number,
  domid: number,
  argument: number,
): number | Preemptible {
  if (cmd === XEN_DOMCTL_getdomaininfo) return nextDomain(xen, domid) ?? -ESRCH;
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
    default:
      return target === caller.domid ? -EINVAL : killDomain(xen, caller.slot, target);
  }
}

/** Counts one pause of the controller in. -EOVERFLOW at the limit of its counter. */
function pauseDomain(xen: Xen, domid: DomId): number {
  const pauses = domainField(xen, domid, DOM.PAUSE);
  if (pauses >= PAUSES_MAX) return -EOVERFLOW;
  setDomainField(xen, domid, DOM.PAUSE, pauses + 1);
  return 0;
}

/** Counts one pause out; at the first time that none is left the creation is over. -EINVAL: it was not paused. */
export function unpauseDomain(xen: Xen, domid: DomId | number): number {
  const pauses = domainField(xen, domid, DOM.PAUSE);
  if (pauses === 0) return -EINVAL;
  if (pauses === 1) {
    const flags = domainField(xen, domid, DOM.FLAGS) | CDF_creation_finished;
    setDomainField(xen, domid, DOM.FLAGS, flags);
  }
  setDomainField(xen, domid, DOM.PAUSE, pauses - 1);
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
  if (target === undefined) return -ESRCH;
  const { args } = xen;
  args.setU16(DOMCTL_DOMAIN, target);
  args.setU16(DOMINFO_DOMAIN, target);
  args.setU32(DOMINFO_FLAGS, infoFlags(xen, target));
  args.setU64(DOMINFO_TOT_PAGES, domainField(xen, target, DOM.TOT_PAGES));
  args.setU64(DOMINFO_MAX_PAGES, domainField(xen, target, DOM.MAX_PAGES));
  // Claims, page sharing and paging do not exist on this machine.
  args.setU64(DOMINFO_OUTSTANDING_PAGES, 0);
  args.setU64(DOMINFO_SHR_PAGES, 0);
  args.setU64(DOMINFO_PAGED_PAGES, 0);
  return copyToGuest(xen, caller.domid, arg, args.bytes, 0, DOMINFO_DOMAIN + DOMINFO_SIZE)
    ? 0
    : -EFAULT;
}

const infoFlags = (xen: Xen, domid: DomId): number =>
  (isDying(xen, domid) ? XEN_DOMINF_dying : 0) |
  (domainField(xen, domid, DOM.SHUTDOWN) !== 0 ? XEN_DOMINF_shutdown : 0) |
  (domainField(xen, domid, DOM.PAUSE) > 0 ? XEN_DOMINF_paused : 0);
