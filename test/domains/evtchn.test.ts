import { describe, expect, test } from "vitest";
import { allocPort, bindPort } from "../../domains/events.ts";
import { wait } from "../../domains/kernel.ts";
import { loadWord } from "../../domains/memory.ts";
import { pageToPhys } from "../../domains/pages.ts";
import { fileOf, type Process } from "../../domains/process.ts";
import {
  killProcess,
  runProcess,
  SIGKILL,
  sysClose,
  sysFork,
  sysIoctl,
  sysOpen,
  sysPoll,
  sysRead,
  sysWaitpid,
  sysWrite,
  userLoad,
} from "../../domains/syscalls.ts";
import { mapGrants, setUnmapNotify } from "../../domains/xengnttab.ts";
import {
  IOCTL_EVTCHN_BIND_INTERDOMAIN,
  IOCTL_EVTCHN_BIND_UNBOUND_PORT,
  IOCTL_EVTCHN_BIND_VIRQ,
  IOCTL_EVTCHN_NOTIFY,
  IOCTL_EVTCHN_RESET,
  IOCTL_EVTCHN_RESTRICT_DOMID,
  IOCTL_EVTCHN_UNBIND,
} from "../../shared/abi/evtchn.ts";
import { UNMAP_NOTIFY_CLEAR_BYTE, UNMAP_NOTIFY_SEND_EVENT } from "../../shared/abi/gntdev.ts";
import {
  O_NONBLOCK,
  O_RDWR,
  POLLERR,
  POLLIN,
  POLLOUT,
  POLLRDNORM,
  POLLWRNORM,
} from "../../shared/abi/linux.ts";
import { item } from "../../shared/assert.ts";
import {
  EACCES,
  EAGAIN,
  EEXIST,
  EFAULT,
  EFBIG,
  EINVAL,
  ENOSYS,
  ENOTCONN,
} from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { testModel } from "../hypervisor/harness.ts";
import {
  BACK,
  FRONT,
  type Front,
  inFront,
  NOWHERE,
  named,
  rest,
  staged,
  storeUserWord,
  type UserOptions,
  withGrants,
} from "./user.ts";

const EVTCHN = "/dev/xen/evtchn";
const WRITABLE = POLLOUT | POLLWRNORM;
const READABLE = POLLIN | POLLRDNORM;

/** A process with the device open, and what it asks of it. */
interface Evtchn {
  readonly process: Process;
  readonly fd: number;
  ask(request: number, ...words: number[]): Program<number>;
  /** Ports that have fired, oldest first. */
  read(ports: number): Program<readonly number[]>;
  write(...ports: number[]): Program<number>;
}

function* openDevice(process: Process, flags: number = O_RDWR | O_NONBLOCK): Program<Evtchn> {
  const fd = yield* sysOpen(process, EVTCHN, flags);
  return {
    process,
    fd,
    *ask(request, ...words) {
      return yield* sysIoctl(process, fd, request, yield* staged(process, ...words));
    },
    *read(ports) {
      const at = yield* staged(process, ...new Array<number>(ports).fill(0));
      const bytes = yield* sysRead(process, fd, at, ports * 4);
      if (bytes < 0) return [bytes];
      const read = yield* userLoad(process, at, bytes);
      const view = new DataView(read.buffer);
      return Array.from({ length: bytes / 4 }, (_, i) => view.getUint32(i * 4, true));
    },
    *write(...ports) {
      return yield* sysWrite(process, fd, yield* staged(process, ...ports), ports.length * 4);
    },
  };
}

function withEvtchn(
  program: (device: Evtchn, front: Front) => Program,
  options: UserOptions = {},
): void {
  withGrants(function* ({ process }, front) {
    yield* program(yield* openDevice(process), front);
  }, options);
}

/** A channel of the domain with itself, both ends bound by the process; neither has an event that it has not seen. */
function* loopback(device: Evtchn): Program<{ readonly here: number; readonly there: number }> {
  const here = yield* device.ask(IOCTL_EVTCHN_BIND_UNBOUND_PORT, BACK);
  const there = yield* device.ask(IOCTL_EVTCHN_BIND_INTERDOMAIN, BACK, here);
  expect(Math.min(here, there)).toBeGreaterThan(0);
  yield* rest(device.process.kernel);
  // A new port begins with an event.
  expect(yield* device.read(8)).toEqual([there]);
  yield* device.write(there);
  return { here, there };
}

describe("/dev/xen/evtchn", () => {
  test("reads a port that has fired, and lets it fire again once it is written back", () => {
    withEvtchn(function* (device) {
      const { kernel } = device.process;
      const { here, there } = yield* loopback(device);
      for (let round = 0; round < 2; round++) {
        expect(yield* device.ask(IOCTL_EVTCHN_NOTIFY, there)).toBe(0);
        yield* rest(kernel);
        expect(yield* device.read(8)).toEqual([here]);
        expect(yield* device.write(here)).toBe(4);
      }
    });
  });

  test("guest case 65: a port fires once until it is written back, and what came meanwhile is not lost", () => {
    withEvtchn(function* (device) {
      const { process, fd } = device;
      const { here, there } = yield* loopback(device);
      const at = yield* staged(process, 0);
      expect(yield* sysRead(process, fd, at, 3)).toBe(0);
      expect(yield* sysRead(process, fd, at, 4)).toBe(-EAGAIN);
      for (let i = 0; i < 2; i++) {
        yield* device.ask(IOCTL_EVTCHN_NOTIFY, there);
        yield* rest(process.kernel);
      }
      expect(yield* device.read(8)).toEqual([here]);
      expect(yield* device.read(8)).toEqual([-EAGAIN]);
      // A port that is not its own, or not disabled, is passed over.
      expect(yield* device.write(77, there, here)).toBe(12);
      yield* rest(process.kernel);
      expect(yield* device.read(8)).toEqual([here]);
    });
  });

  test("guest case 63: notify and unbind know their own ports only, and no other request is known", () => {
    withEvtchn(function* (device) {
      const { process, fd } = device;
      const { here, there } = yield* loopback(device);
      const other = yield* openDevice(process);
      expect(yield* other.ask(IOCTL_EVTCHN_NOTIFY, there)).toBe(-ENOTCONN);
      expect(yield* other.ask(IOCTL_EVTCHN_UNBIND, there)).toBe(-ENOTCONN);
      expect(yield* device.ask(IOCTL_EVTCHN_UNBIND, 131072)).toBe(-EINVAL);
      expect(yield* device.ask(0x1234, 0)).toBe(-ENOSYS);
      expect(yield* device.ask(IOCTL_EVTCHN_UNBIND, here)).toBe(0);
      expect(yield* device.ask(IOCTL_EVTCHN_NOTIFY, here)).toBe(-ENOTCONN);
      // The other end lives, and a send into nothing is no error.
      expect(yield* device.ask(IOCTL_EVTCHN_NOTIFY, there)).toBe(0);
      for (const request of [
        IOCTL_EVTCHN_BIND_VIRQ,
        IOCTL_EVTCHN_BIND_INTERDOMAIN,
        IOCTL_EVTCHN_BIND_UNBOUND_PORT,
        IOCTL_EVTCHN_UNBIND,
        IOCTL_EVTCHN_NOTIFY,
        IOCTL_EVTCHN_RESTRICT_DOMID,
      ]) {
        expect(yield* sysIoctl(process, fd, request, NOWHERE)).toBe(-EFAULT);
      }
    });
  });

  test("guest case 64: a file is restricted once, to a domain that may exist, and then binds to no other", () => {
    withEvtchn(function* (device, front) {
      const remote = { port: 0 };
      yield* inFront(
        device.process,
        front,
        (function* () {
          remote.port = yield* allocPort(front.kernel, BACK);
        })(),
      );
      const restrict = (domid: number) => device.ask(IOCTL_EVTCHN_RESTRICT_DOMID, domid);
      expect(yield* restrict(0)).toBe(-EINVAL);
      expect(yield* restrict(0x7ff0)).toBe(-EINVAL);
      expect(yield* restrict(FRONT)).toBe(0);
      expect(yield* restrict(FRONT)).toBe(-EACCES);
      // Before the argument is looked at, but for a bind to another domain.
      const { process, fd } = device;
      expect(yield* sysIoctl(process, fd, IOCTL_EVTCHN_BIND_VIRQ, NOWHERE)).toBe(-EACCES);
      expect(yield* sysIoctl(process, fd, IOCTL_EVTCHN_BIND_UNBOUND_PORT, NOWHERE)).toBe(-EACCES);
      expect(yield* sysIoctl(process, fd, IOCTL_EVTCHN_BIND_INTERDOMAIN, NOWHERE)).toBe(-EFAULT);
      expect(yield* device.ask(IOCTL_EVTCHN_BIND_INTERDOMAIN, BACK, 1)).toBe(-EACCES);
      expect(yield* device.ask(IOCTL_EVTCHN_BIND_INTERDOMAIN, FRONT, remote.port)).toBeGreaterThan(
        0,
      );
    });
  });

  test("what the hypervisor refuses is the answer, and nothing is bound", () => {
    withEvtchn(function* (device) {
      expect(yield* device.ask(IOCTL_EVTCHN_BIND_INTERDOMAIN, FRONT, 99)).toBeLessThan(0);
      const port = yield* device.ask(IOCTL_EVTCHN_BIND_VIRQ, 1);
      expect(port).toBeGreaterThan(0);
      // One that is bound already is not lent.
      expect(yield* device.ask(IOCTL_EVTCHN_BIND_VIRQ, 1)).toBe(-EEXIST);
    });
  });

  test("poll says what would not block, and a reader that waits is woken", () => {
    withEvtchn(function* (device) {
      const { process } = device;
      const { here, there } = yield* loopback(device);
      expect(yield* sysPoll(process, device.fd)).toBe(WRITABLE);
      const child = yield* sysFork(process, function* (forked) {
        const at = yield* staged(forked, there);
        yield* sysIoctl(forked, device.fd, IOCTL_EVTCHN_NOTIFY, at);
      });
      expect(child).not.toBeTypeOf("number");
      expect(yield* sysPoll(process, device.fd, POLLIN)).toBe(WRITABLE | READABLE);
      expect(yield* device.read(1)).toEqual([here]);
    });
  });

  test("a reader that blocks is woken by an event, and its process dies of a signal meanwhile", () => {
    withGrants(function* ({ process }) {
      const device = yield* openDevice(process, O_RDWR);
      const here = yield* device.ask(IOCTL_EVTCHN_BIND_UNBOUND_PORT, BACK);
      const seen = { ports: 0 };
      const reader = yield* sysFork(process, function* (forked) {
        const at = yield* staged(forked, 0);
        seen.ports += yield* sysRead(forked, device.fd, at, 4);
        yield* sysRead(forked, device.fd, at, 4);
        seen.ports = -1;
        yield* userLoad(forked, at, 4);
      });
      if (typeof reader === "number") throw new Error(`fork answered ${reader}`);
      yield* rest(process.kernel);
      expect(seen.ports).toBe(0);
      const there = yield* device.ask(IOCTL_EVTCHN_BIND_INTERDOMAIN, BACK, here);
      yield* rest(process.kernel);
      expect(seen.ports).toBe(4);
      killProcess(reader);
      expect(yield* sysWaitpid(process, reader)).toBe(SIGKILL);
      expect(yield* device.ask(IOCTL_EVTCHN_NOTIFY, there)).toBe(0);
    });
  });

  test("ports written back unread overflow the ring; reading fails until a reset, which enables no port", () => {
    withEvtchn(function* (device) {
      const { process, fd } = device;
      const { here, there } = yield* loopback(device);
      for (let i = 0; i < 65; i++) {
        yield* device.ask(IOCTL_EVTCHN_NOTIFY, there);
        yield* rest(process.kernel);
        if (i < 64) yield* device.write(here);
      }
      expect(yield* sysPoll(process, fd)).toBe(POLLERR);
      expect(yield* device.read(8)).toEqual([-EFBIG]);
      expect(yield* device.ask(IOCTL_EVTCHN_RESET)).toBe(0);
      expect(yield* device.read(8)).toEqual([-EAGAIN]);
      yield* device.ask(IOCTL_EVTCHN_NOTIFY, there);
      yield* rest(process.kernel);
      expect(yield* device.read(8)).toEqual([-EAGAIN]);
      yield* device.write(here);
      yield* rest(process.kernel);
      expect(yield* device.read(8)).toEqual([here]);
    });
  });

  test("the ring grows with the ports, so that all of them may fire", () => {
    withEvtchn(
      function* (device) {
        const { process, fd } = device;
        const ports: number[] = [];
        for (let i = 0; i < 65; i++) {
          ports.push(yield* device.ask(IOCTL_EVTCHN_BIND_UNBOUND_PORT, BACK));
        }
        const other = yield* openDevice(process);
        const ends: number[] = [];
        for (const port of ports) {
          ends.push(yield* other.ask(IOCTL_EVTCHN_BIND_INTERDOMAIN, BACK, port));
        }
        for (const end of ends) yield* other.ask(IOCTL_EVTCHN_NOTIFY, end);
        yield* rest(process.kernel);
        expect(fileOf(process, fd)?.data).toMatchObject({ ringSize: 128, overflow: false });
        expect((yield* device.read(128)).toSorted((a, b) => a - b)).toEqual(ports);
      },
      {
        back: { maxEvtchnPort: 160 },
        machine: { limits: { ...testModel([]).limits, ports: 256 } },
      },
    );
  });
});

describe("a notification of gntdev by event", () => {
  /** A port of the frontend that the process binds, and the word of the granted page at the time of its event. */
  function* connect(device: Evtchn, front: Front) {
    const remote = { port: 0 };
    yield* inFront(
      device.process,
      front,
      (function* () {
        remote.port = yield* allocPort(front.kernel, BACK);
      })(),
    );
    const port = yield* device.ask(IOCTL_EVTCHN_BIND_INTERDOMAIN, FRONT, remote.port);
    expect(port).toBeGreaterThan(0);
    return { port, remote: remote.port };
  }

  test.each([[undefined], [1], [2], [3], [4]])(
    "trace T7: the peer sees the cleared byte before or with the event, although the process is gone (schedule %s)",
    (seed) => {
      const seen = { word: -1 };
      withGrants(
        function* (file, front) {
          const { kernel } = front;
          const { process } = file;
          const page = item(front.pages, 0);
          const child = runProcess(process.kernel, "notifier", function* (notifier) {
            const device = yield* openDevice(notifier);
            const gntdev = { process: notifier, fd: yield* sysOpen(notifier, "/dev/xen/gntdev") };
            const { port, remote } = yield* connect(device, front);
            const mapping = yield* mapGrants(gntdev, named(front.refs.slice(0, 1)));
            if (typeof mapping === "number") throw new Error(`mapping answered ${mapping}`);
            yield* storeUserWord(notifier, mapping.address, 0xffffffff);
            const action = UNMAP_NOTIFY_CLEAR_BYTE | UNMAP_NOTIFY_SEND_EVENT;
            expect(yield* setUnmapNotify(gntdev, { offset: 1, action, port })).toBe(0);
            front.jobs.push(
              (function* () {
                yield* wait(kernel, remote);
                seen.word = (yield* loadWord(kernel.cpu, pageToPhys(page))) >>> 0;
              })(),
            );
            // The device file goes first; the notification keeps the port.
            yield* sysClose(notifier, device.fd);
            expect(yield* setUnmapNotify(gntdev, { offset: 1, action, port: 99 })).toBe(-EINVAL);
          });
          yield* child;
          while (front.jobs.length > 0) yield* rest(process.kernel);
        },
        seed === undefined ? {} : { seed },
      );
      expect(seen.word).toBe(0xffff00ff);
    },
  );

  test("guest case 49: only a port that was bound through the device may be named", () => {
    withGrants(function* (file, front) {
      const { process } = file;
      const device = yield* openDevice(process);
      const { port } = yield* connect(device, front);
      const mapping = yield* mapGrants(file, named(front.refs));
      expect(mapping).not.toBeTypeOf("number");
      const notify = (named: number) =>
        setUnmapNotify(file, { offset: 0, action: UNMAP_NOTIFY_SEND_EVENT, port: named });
      // A port of a driver in the kernel, one that is unbound, one that cannot exist.
      const own = yield* allocPort(process.kernel, BACK);
      const other = yield* bindPort(process.kernel, BACK, own);
      expect(yield* notify(other)).toBe(-EINVAL);
      expect(yield* notify(120)).toBe(-EINVAL);
      expect(yield* notify(200_000)).toBe(-EINVAL);
      expect(yield* notify(port)).toBe(0);
      // The second request takes the port before it drops the first one's.
      expect(yield* notify(port)).toBe(0);
      expect(process.kernel.events.irqs[port]?.refcnt).toBe(2);
      yield* sysClose(process, device.fd);
      expect(process.kernel.events.irqs[port]?.refcnt).toBe(1);
      yield* sysClose(process, file.fd);
    });
  });
});
