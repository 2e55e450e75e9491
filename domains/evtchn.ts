/**
 * /dev/xen/evtchn: event channels of user space. A process binds ports, reads the numbers of those that fired, and
 * writes a number back to hear of it again.
 *
 *   event -> port disabled and masked -> its number in the ring -> read -> written back: unmasked
 *
 * Rules: a port fires once until it is written back, so two events are one number. The ring has no entry before the
 * first bind and grows with the ports, so it overflows only when ports are written back without being read; then
 * reading fails until a reset, which leaves disabled ports disabled.
 * Behaviour: Linux drivers/xen/evtchn.c; checks in its order.
 */
import {
  IOCTL_EVTCHN_BIND_INTERDOMAIN,
  IOCTL_EVTCHN_BIND_UNBOUND_PORT,
  IOCTL_EVTCHN_BIND_VIRQ,
  IOCTL_EVTCHN_NOTIFY,
  IOCTL_EVTCHN_RESET,
  IOCTL_EVTCHN_RESTRICT_DOMID,
  IOCTL_EVTCHN_UNBIND,
} from "../shared/abi/evtchn.ts";
import {
  O_NONBLOCK,
  POLLERR,
  POLLIN,
  POLLOUT,
  POLLRDNORM,
  POLLWRNORM,
} from "../shared/abi/linux.ts";
import { DOMID_FIRST_RESERVED } from "../shared/abi/xen.ts";
import { item } from "../shared/assert.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import {
  EACCES,
  EAGAIN,
  EFAULT,
  EFBIG,
  EINTR,
  EINVAL,
  ENOSYS,
  ENOTCONN,
} from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { structFromUser, structToUser } from "./address-space.ts";
import { xenIrqLateeoi } from "./event-eoi.ts";
import { takePort } from "./event-state.ts";
import {
  allocPort,
  bindPort,
  evtchnMakeRefcounted,
  evtchnMaxChannels,
  evtchnPut,
  maskPort,
  notifyPort,
  requestIrq,
} from "./events.ts";
import { bindVirq as bindVirqCall } from "./hypercalls.ts";
import { type Kernel, spawnDaemon, waitUntil } from "./kernel.ts";
import { createFile, type FileOps, type OpenFile, type Process } from "./process.ts";
import { structure } from "./structure.ts";

const PORT_BYTES = 4;
/** Entries of the first ring; each further one has twice as many. */
const RING_ENTRIES_FIRST = 64;
/** User space ends each event itself, by writing its port back. */
const LATE = { late: true } as const;

/** struct per_user_data. */
interface EvtchnUser {
  readonly kernel: Kernel;
  /** Ports bound here, and whether the next event of each is taken. */
  readonly ports: Map<number, { enabled: boolean }>;
  /** Ports that fired, oldest first. */
  readonly ring: number[];
  ringSize: number;
  overflow: boolean;
  /** The only domain it may bind to; undefined: no restriction. */
  restricted: number | undefined;
  released: boolean;
}

const EVTCHN_OPS: FileOps = { ioctl, read, write, poll, release };

const userOf = (file: OpenFile): EvtchnUser => file.data as EvtchnUser;

/** A new open file of the device, with the task that stands for its interrupt handlers. */
export function openEvtchn(kernel: Kernel, flags: number): OpenFile {
  const user: EvtchnUser = {
    kernel,
    ports: new Map(),
    ring: [],
    ringSize: 0,
    overflow: false,
    restricted: undefined,
    released: false,
  };
  spawnDaemon(kernel, "evtchn", interrupts(user));
  return createFile(EVTCHN_OPS, user, flags);
}

/** evtchn_interrupt: what has fired stays masked until its process writes the port back. */
function* interrupts(user: EvtchnUser): Program {
  const { kernel, ports, ring } = user;
  while (!user.released) {
    let fired: readonly number[] = [];
    yield* waitUntil(kernel, () => {
      fired = [...ports.keys()].filter((port) => takePort(kernel.events, port));
      return user.released || fired.length > 0;
    });
    for (const port of fired) {
      const state = ports.get(port);
      if (state === undefined || !state.enabled) continue;
      state.enabled = false;
      if (ring.length < user.ringSize) ring.push(port);
      else user.overflow = true;
    }
  }
}

function* ioctl(
  file: OpenFile,
  process: Process,
  request: number,
  argument: number,
): Program<number> {
  const user = userOf(file);
  switch (request) {
    case IOCTL_EVTCHN_BIND_VIRQ:
      return yield* bindVirq(user, process, argument);
    case IOCTL_EVTCHN_BIND_INTERDOMAIN:
      return yield* bindInterdomain(user, process, argument);
    case IOCTL_EVTCHN_BIND_UNBOUND_PORT:
      return yield* bindUnbound(user, process, argument);
    case IOCTL_EVTCHN_UNBIND:
      return yield* unbind(user, process, argument);
    case IOCTL_EVTCHN_NOTIFY:
      return yield* notify(user, process, argument);
    case IOCTL_EVTCHN_RESET:
      user.ring.length = 0;
      user.overflow = false;
      return 0;
    case IOCTL_EVTCHN_RESTRICT_DOMID:
      return yield* restrictDomid(user, process, argument);
    default:
      return -ENOSYS;
  }
}

/** The local port, or -EACCES (restricted), -EFAULT, or the hypervisor's refusal. */
function* bindVirq(user: EvtchnUser, process: Process, argument: number): Program<number> {
  if (user.restricted !== undefined) return -EACCES;
  const from = yield* structFromUser(process, argument, 4);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  // Straight to the hypervisor: a virtual interrupt that a driver here has bound is not lent.
  const port = yield* bindVirqCall(user.kernel, view.getUint32(0, true));
  return bindToUser(user, port < 0 ? port : yield* requestIrq(user.kernel, port, LATE));
}

/** The local port, or -EFAULT, -EACCES (restricted to another domain), or the hypervisor's refusal. */
function* bindInterdomain(user: EvtchnUser, process: Process, argument: number): Program<number> {
  const from = yield* structFromUser(process, argument, 8);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const remote = view.getUint32(0, true);
  if (user.restricted !== undefined && user.restricted !== remote) return -EACCES;
  return bindToUser(user, yield* bindPort(user.kernel, remote, view.getUint32(4, true), LATE));
}

/** The local port, or -EACCES (restricted), -EFAULT, or the hypervisor's refusal. */
function* bindUnbound(user: EvtchnUser, process: Process, argument: number): Program<number> {
  if (user.restricted !== undefined) return -EACCES;
  const from = yield* structFromUser(process, argument, 4);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  return bindToUser(user, yield* allocPort(user.kernel, view.getUint32(0, true), LATE));
}

/** evtchn_bind_to_user with evtchn_resize_ring. A negative port is passed on. */
function bindToUser(user: EvtchnUser, port: number): number {
  if (port < 0) return port;
  user.ports.set(port, { enabled: true });
  if (user.ports.size > user.ringSize) {
    user.ringSize = user.ringSize === 0 ? RING_ENTRIES_FIRST : 2 * user.ringSize;
  }
  evtchnMakeRefcounted(user.kernel, port);
  return port;
}

/** 0, -EFAULT, -EINVAL (no such port number), -ENOTCONN (not bound here). */
function* unbind(user: EvtchnUser, process: Process, argument: number): Program<number> {
  const from = yield* structFromUser(process, argument, 4);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const port = view.getUint32(0, true);
  if (port >= evtchnMaxChannels(user.kernel)) return -EINVAL;
  if (!user.ports.has(port)) return -ENOTCONN;
  yield* unbindFromUser(user, port);
  return 0;
}

/** The handler goes; the channel lives on while a notification names it. */
function* unbindFromUser(user: EvtchnUser, port: number): Program {
  user.ports.delete(port);
  yield* maskPort(user.kernel, port);
  yield* evtchnPut(user.kernel, port);
}

/** 0, -EFAULT, -ENOTCONN (not bound here). What the hypervisor says to the send is ignored. */
function* notify(user: EvtchnUser, process: Process, argument: number): Program<number> {
  const from = yield* structFromUser(process, argument, 4);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const port = view.getUint32(0, true);
  if (!user.ports.has(port)) return -ENOTCONN;
  yield* notifyPort(user.kernel, port);
  return 0;
}

/** 0, -EACCES (restricted already), -EFAULT, -EINVAL (dom0, or no domain's number). */
function* restrictDomid(user: EvtchnUser, process: Process, argument: number): Program<number> {
  if (user.restricted !== undefined) return -EACCES;
  const from = yield* structFromUser(process, argument, 2);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const domid = view.getUint16(0, true);
  if (domid === 0 || domid >= DOMID_FIRST_RESERVED) return -EINVAL;
  user.restricted = domid;
  return 0;
}

/** A whole number of ports, a page at most. */
const portsIn = (length: number): number =>
  Math.floor(Math.min(length, PAGE_SIZE) / PORT_BYTES) * PORT_BYTES;

/** Bytes of ports that fired; 0 for less than one; -EFBIG after an overflow, -EAGAIN, -EINTR, -EFAULT. */
function* read(file: OpenFile, process: Process, into: number, length: number): Program<number> {
  const user = userOf(file);
  const bytes = portsIn(length);
  if (bytes === 0) return 0;
  if (!user.overflow && user.ring.length === 0) {
    if ((file.flags & O_NONBLOCK) !== 0) return -EAGAIN;
    yield* waitUntil(user.kernel, () => process.killed || user.overflow || user.ring.length > 0);
    if (process.killed) return -EINTR;
  }
  if (user.overflow) return -EFBIG;
  const count = Math.min(bytes / PORT_BYTES, user.ring.length);
  const answer = structure(count * PORT_BYTES);
  for (let i = 0; i < count; i++) answer.view.setUint32(i * PORT_BYTES, item(user.ring, i), true);
  if (!(yield* structToUser(process, into, answer))) return -EFAULT;
  user.ring.splice(0, count);
  return count * PORT_BYTES;
}

/** Re-enables the ports named that are bound here and disabled; others are ignored. Bytes taken, or -EFAULT. */
function* write(file: OpenFile, process: Process, from: number, length: number): Program<number> {
  const user = userOf(file);
  const count = portsIn(length);
  const list = yield* structFromUser(process, from, count);
  if (list === undefined) return -EFAULT;
  for (let at = 0; at < count; at += PORT_BYTES) {
    const port = list.view.getUint32(at, true);
    const state = user.ports.get(port);
    if (state === undefined || state.enabled) continue;
    state.enabled = true;
    yield* xenIrqLateeoi(user.kernel, port);
  }
  return count;
}

/** Always writable; readable when something fired; after an overflow an error and nothing else. */
function poll(file: OpenFile): number {
  const { overflow, ring } = userOf(file);
  if (overflow) return POLLERR;
  return POLLOUT | POLLWRNORM | (ring.length > 0 ? POLLIN | POLLRDNORM : 0);
}

/** Every port is unbound. */
function* release(file: OpenFile): Program {
  const user = userOf(file);
  user.released = true;
  for (const port of [...user.ports.keys()]) yield* unbindFromUser(user, port);
}
