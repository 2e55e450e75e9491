/** domctl, hvm_op and xen_version as guests call them: the order of refusals and the values of the recordings. */
import { describe, expect, test } from "vitest";
import {
  XEN_DOMCTL_createdomain,
  XEN_DOMCTL_destroydomain,
  XEN_DOMCTL_getdomaininfo,
  XEN_DOMCTL_max_mem,
  XEN_DOMCTL_pausedomain,
  XEN_DOMCTL_unpausedomain,
  XEN_DOMINF_dying,
  XEN_DOMINF_paused,
} from "../../shared/abi/domctl.ts";
import {
  DOMID_SELF,
  HVM_PARAM_STORE_EVTCHN,
  HVM_PARAM_STORE_PFN,
  HVMOP_get_param,
  HVMOP_set_param,
  HYPERVISOR_domctl,
  HYPERVISOR_hvm_op,
  HYPERVISOR_xen_version,
  XENVER_build_id,
  XENVER_capabilities,
  XENVER_changeset,
  XENVER_commandline,
  XENVER_compile_info,
  XENVER_extraversion,
  XENVER_get_features,
  XENVER_guest_handle,
  XENVER_pagesize,
  XENVER_platform_parameters,
  XENVER_version,
} from "../../shared/abi/xen.ts";
import { CDF_creation_finished, DOM } from "../../shared/layout.ts";
import { EFAULT, EINVAL, ENODATA, ENOSYS, EOVERFLOW, EPERM, ESRCH } from "../../shared/status.ts";
import { domctl as controlDomctl, create, field, trio } from "./domains.ts";
import { argumentAddress } from "./grants.ts";
import { type Actor, call, readGuest, type TestMachine, writeGuest } from "./harness.ts";

const NOBODY = 4660;

function domctl(machine: TestMachine, by: Actor, cmd: number, domid: number, argument = 0): number {
  const bytes = new Uint8Array(128);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, cmd, true);
  view.setUint16(8, domid, true);
  view.setUint32(16, argument, true);
  writeGuest(by, argumentAddress(by), bytes);
  return call(machine, by, HYPERVISOR_domctl, argumentAddress(by));
}

function info(machine: TestMachine, by: Actor, domid: number): readonly number[] | number {
  const ret = domctl(machine, by, XEN_DOMCTL_getdomaininfo, domid);
  if (ret !== 0) return ret;
  const view = new DataView(readGuest(by, argumentAddress(by), 64).buffer);
  const pages = [24, 32].map((at) => Number(view.getBigUint64(at, true)));
  // The upper half is the shutdown code, all ones as long as there is none.
  return [view.getUint16(16, true), view.getUint32(20, true) & 0xffff, ...pages];
}

function param(
  machine: TestMachine,
  by: Actor,
  op: number,
  domid: number,
  index: number,
  value = 0,
): readonly [ret: number, value: number] {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, domid, true);
  view.setUint32(4, index, true);
  view.setUint32(8, value, true);
  writeGuest(by, argumentAddress(by), bytes);
  const ret = call(machine, by, HYPERVISOR_hvm_op, op, argumentAddress(by));
  return [ret, new DataView(readGuest(by, argumentAddress(by), 16).buffer).getUint32(8, true)];
}

describe("domctl", () => {
  test("by a plain guest is -EPERM for domains that exist and -ESRCH for others", () => {
    const { machine, granter } = trio();
    expect(domctl(machine, granter, XEN_DOMCTL_destroydomain, granter.domid)).toBe(-EPERM);
    expect(domctl(machine, granter, XEN_DOMCTL_destroydomain, 0)).toBe(-EPERM);
    expect(domctl(machine, granter, XEN_DOMCTL_destroydomain, NOBODY)).toBe(-ESRCH);
    expect(domctl(machine, granter, XEN_DOMCTL_getdomaininfo, 0)).toBe(-EPERM);
  });

  test("reads its structure first", () => {
    const { machine, granter } = trio();
    expect(call(machine, granter, HYPERVISOR_domctl, 0x7000_0000)).toBe(-EFAULT);
  });

  test("hypervisor case 118: nobody destroys itself", () => {
    const { machine, dom0 } = trio();
    expect(domctl(machine, dom0, XEN_DOMCTL_destroydomain, dom0.domid)).toBe(-EINVAL);
    expect(domctl(machine, dom0, XEN_DOMCTL_destroydomain, NOBODY)).toBe(-ESRCH);
    expect(domctl(machine, dom0, XEN_DOMCTL_destroydomain, DOMID_SELF)).toBe(-ESRCH);
  });

  test("counts pauses, and unpausing a running domain is -EINVAL", () => {
    const { machine, dom0, granter } = trio();
    expect(domctl(machine, dom0, XEN_DOMCTL_pausedomain, granter.domid)).toBe(0);
    expect(info(machine, dom0, granter.domid)).toEqual([1, XEN_DOMINF_paused, 256, 256]);
    expect(domctl(machine, dom0, XEN_DOMCTL_unpausedomain, granter.domid)).toBe(0);
    expect(domctl(machine, dom0, XEN_DOMCTL_unpausedomain, granter.domid)).toBe(-EINVAL);
    expect(domctl(machine, dom0, XEN_DOMCTL_pausedomain, dom0.domid)).toBe(-EINVAL);
    for (let i = 0; i < 255; i++) controlDomctl(machine, XEN_DOMCTL_pausedomain, granter.domid);
    expect(controlDomctl(machine, XEN_DOMCTL_pausedomain, granter.domid)).toBe(-EOVERFLOW);
  });

  test("the first unpause finishes a creation", () => {
    const { machine } = trio();
    const domid = create(machine, 3);
    expect(field(machine.xen, domid, DOM.FLAGS) & CDF_creation_finished).toBe(0);
    expect(controlDomctl(machine, XEN_DOMCTL_unpausedomain, domid)).toBe(0);
    expect(field(machine.xen, domid, DOM.FLAGS) & CDF_creation_finished).not.toBe(0);
  });

  test("information about an id that is gone is about the next higher one", () => {
    const { machine, dom0, granter, mapper } = trio();
    expect(domctl(machine, dom0, XEN_DOMCTL_destroydomain, granter.domid)).toBe(0);
    expect(info(machine, dom0, granter.domid)).toEqual([mapper.domid, 0, 256, 256]);
    expect(info(machine, dom0, mapper.domid + 1)).toBe(-ESRCH);
    expect(controlDomctl(machine, XEN_DOMCTL_getdomaininfo, granter.domid)).toBe(mapper.domid);
  });

  test("shows a zombie as dying and not as paused", () => {
    const { machine, dom0, granter } = trio();
    field(machine.xen, granter.domid, DOM.PAUSE);
    // A page that somebody refers to keeps the dead domain.
    const frame =
      machine.xen.words[machine.xen.layout.domains + granter.domid * 64 + DOM.PAGE_LIST] ?? -1;
    const count = machine.xen.layout.frameCount + frame;
    machine.xen.words[count] = (machine.xen.words[count] ?? 0) + 1;
    domctl(machine, dom0, XEN_DOMCTL_destroydomain, granter.domid);
    expect(info(machine, dom0, granter.domid)).toEqual([1, XEN_DOMINF_dying, 1, 256]);
  });

  test("max_mem counts in KiB, and creating by hypercall is not there", () => {
    const { machine, dom0, granter } = trio();
    expect(domctl(machine, dom0, XEN_DOMCTL_max_mem, granter.domid, 401)).toBe(0);
    expect(field(machine.xen, granter.domid, DOM.MAX_PAGES)).toBe(100);
    expect(domctl(machine, dom0, XEN_DOMCTL_createdomain, granter.domid)).toBe(-ENOSYS);
  });
});

describe("hvm_op", () => {
  test("shows a guest its store page and port, and lets only a control domain change them", () => {
    const { machine, dom0, granter, mapper } = trio();
    const get = (by: Actor, domid: number, index: number): readonly number[] =>
      param(machine, by, HVMOP_get_param, domid, index);
    expect(get(granter, DOMID_SELF, HVM_PARAM_STORE_PFN)).toEqual([0, granter.ram + 255]);
    expect(get(granter, granter.domid, HVM_PARAM_STORE_EVTCHN)).toEqual([0, 1]);
    expect(get(mapper, granter.domid, HVM_PARAM_STORE_EVTCHN)[0]).toBe(-EPERM);
    expect(get(dom0, granter.domid, HVM_PARAM_STORE_EVTCHN)).toEqual([0, 1]);
    expect(get(dom0, NOBODY, HVM_PARAM_STORE_EVTCHN)[0]).toBe(-ESRCH);
    expect(get(granter, DOMID_SELF, 40)[0]).toBe(-EINVAL);
    const set = (by: Actor, domid: number): number =>
      param(machine, by, HVMOP_set_param, domid, HVM_PARAM_STORE_EVTCHN, 9)[0];
    expect(set(granter, DOMID_SELF)).toBe(-EPERM);
    expect(set(dom0, granter.domid)).toBe(0);
    expect(get(granter, DOMID_SELF, HVM_PARAM_STORE_EVTCHN)).toEqual([0, 9]);
    expect(call(machine, granter, HYPERVISOR_hvm_op, 77, argumentAddress(granter))).toBe(-ENOSYS);
  });
});

describe("xen_version", () => {
  const features = (machine: TestMachine, by: Actor, submap: number): readonly number[] => {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setUint32(0, submap, true);
    writeGuest(by, argumentAddress(by), bytes);
    const ret = call(machine, by, HYPERVISOR_xen_version, XENVER_get_features, argumentAddress(by));
    return [ret, new DataView(readGuest(by, argumentAddress(by), 8).buffer).getUint32(4, true)];
  };

  test("answers as recorded", () => {
    const { machine, dom0, granter } = trio();
    const at = argumentAddress(granter);
    const version = (cmd: number, arg: number): number =>
      call(machine, granter, HYPERVISOR_xen_version, cmd, arg);
    expect(version(XENVER_version, 0)).toBe(262161);
    expect(features(machine, granter, 0)).toEqual([0, 90117]);
    expect(features(machine, dom0, 0)).toEqual([0, 157701]);
    expect(features(machine, granter, 1)[0]).toBe(-EINVAL);
    expect(version(XENVER_platform_parameters, at)).toBe(0);
    expect(new DataView(readGuest(granter, at, 8).buffer).getUint32(0, true)).toBe(2097152);
    expect(version(XENVER_pagesize, at)).toBe(-EINVAL);
    expect(version(XENVER_pagesize, 0)).toBe(4096);
    expect(version(99, at)).toBe(-ENOSYS);
  });

  test("texts about the build fill their arrays, and a plain guest is denied the command line", () => {
    const { machine, dom0, granter } = trio();
    const read = (by: Actor, cmd: number): string => {
      const at = argumentAddress(by);
      writeGuest(by, at, new Uint8Array(1024).fill(0x5a));
      expect(call(machine, by, HYPERVISOR_xen_version, cmd, at)).toBe(0);
      return new TextDecoder().decode(readGuest(by, at, 1024)).replace(/\0+/g, "|");
    };
    expect(read(granter, XENVER_extraversion)).toMatch(/^\.7\|Z+$/);
    expect(read(granter, XENVER_capabilities)).toBe("xen-3.0-aarch64 xen-3.0-armv7l |");
    expect(read(granter, XENVER_compile_info)).toBe(`|${"Z".repeat(880)}`);
    expect(read(granter, XENVER_changeset)).toBe(`|${"Z".repeat(960)}`);
    expect(read(granter, XENVER_guest_handle)).toBe(`|${"Z".repeat(1008)}`);
    expect(read(granter, XENVER_commandline)).toBe("<denied>|");
    expect(read(dom0, XENVER_commandline)).toBe("|");
    const buildId = (by: Actor): number =>
      call(machine, by, HYPERVISOR_xen_version, XENVER_build_id, argumentAddress(by));
    expect(buildId(granter)).toBe(-EPERM);
    expect(buildId(dom0)).toBe(-ENODATA);
    const nowhere = 0x7800_0000;
    expect(call(machine, granter, HYPERVISOR_xen_version, XENVER_changeset, nowhere)).toBe(-EFAULT);
  });
});
