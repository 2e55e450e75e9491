/** Event channels, parameters, versions, domain control, numbers that mean nothing, and what devices and control push. */

import {
  ECS_RESERVED,
  ECS_UNBOUND,
  portRemoteDomain,
  portState,
} from "../../hypervisor/event-ports.ts";
import { domainField } from "../../hypervisor/xen.ts";
import {
  ASSIGN_DEV,
  ASSIGN_FLAGS,
  ASSIGN_PATH,
  ASSIGN_PATH_SIZE,
  ASSIGN_SBDF,
  DOMCTL_CMD,
  DOMCTL_DOMAIN,
  DOMCTL_SIZE,
  MAX_MEM_MAX_MEMKB,
  XEN_DOMCTL_assign_device,
  XEN_DOMCTL_DEV_DT,
  XEN_DOMCTL_DEV_PCI,
  XEN_DOMCTL_deassign_device,
  XEN_DOMCTL_destroydomain,
  XEN_DOMCTL_get_paging_mempool_size,
  XEN_DOMCTL_getdomaininfo,
  XEN_DOMCTL_max_mem,
  XEN_DOMCTL_pausedomain,
  XEN_DOMCTL_set_paging_mempool_size,
  XEN_DOMCTL_test_assign_device,
  XEN_DOMCTL_unpausedomain,
} from "../../shared/abi/domctl.ts";
import {
  EVTCHNOP_alloc_unbound,
  EVTCHNOP_bind_interdomain,
  EVTCHNOP_bind_ipi,
  EVTCHNOP_bind_virq,
  EVTCHNOP_expand_array,
  EVTCHNOP_init_control,
  EVTCHNOP_reset,
  EVTCHNOP_status,
} from "../../shared/abi/event-channel.ts";
import {
  DOMID_INVALID,
  DOMID_IO,
  DOMID_SELF,
  HVM_PARAM_INDEX,
  HVM_PARAM_SIZE,
  HVM_PARAM_VALUE,
  HYPERVISOR_domctl,
  HYPERVISOR_event_channel_op,
  HYPERVISOR_hvm_op,
  HYPERVISOR_sched_op,
  HYPERVISOR_xen_version,
} from "../../shared/abi/xen.ts";
import { DOM } from "../../shared/layout.ts";
import {
  CONTROL_CREATE,
  CONTROL_DOMCTL,
  CONTROL_VCPU_DIED,
  DEVICE_FAULT,
  DEVICE_RAISE,
} from "../../shared/trap.ts";
import type { DomId } from "../../shared/units.ts";
import type { Call } from "./call.ts";
import type { Draw } from "./draw.ts";
import { fillWords } from "./grant-calls.ts";
import { Structure } from "./structure.ts";
import { anyAddress, anyDomid, anyGfn, anyWord, presentDomid, ramOf } from "./values.ts";
import type { World } from "./world.ts";

const WORDS_SIZE = 64;

/** A structure at some address, as most operations take it. */
function callWith(
  world: World,
  domid: DomId,
  draw: Draw,
  op: number,
  cmd: readonly number[],
  structure: Structure,
): Call {
  const gaddr = anyAddress(world.xen, domid, draw, structure.bytes.length);
  return { op, args: [...cmd, gaddr], memory: [{ gaddr, bytes: structure.bytes }] };
}

/** A port of the domain that is in use; its store port, most likely, when nothing else is. */
function usedPort(world: World, domid: DomId, draw: Draw): number {
  const valid = domainField(world.xen, domid, DOM.VALID_EVTCHNS);
  const first = draw.below(8);
  for (let i = 0; i < valid; i++) {
    const port = (first + i) % valid;
    if (portState(world.xen, domid, port) > ECS_RESERVED) return port;
  }
  return first;
}

/** A port of `other` that `domid` may bind, or any. */
function openPort(world: World, domid: DomId, other: number, draw: Draw): number {
  const { xen } = world;
  const valid = domainField(xen, other, DOM.VALID_EVTCHNS);
  for (let port = 1; port < valid; port++) {
    if (portState(xen, other, port) !== ECS_UNBOUND) continue;
    if (portRemoteDomain(xen, other, port) === domid) return port;
  }
  return draw.below(8);
}

/** An event operation that has a chance. */
function soundEventCall(world: World, domid: DomId, draw: Draw): Call {
  const at = new Structure(24);
  const other = presentDomid(world.xen, draw);
  const used = usedPort(world, domid, draw);
  const cmd = draw.below(15);
  switch (cmd) {
    case EVTCHNOP_bind_interdomain:
      at.u16(0, other).u32(4, openPort(world, domid, other, draw));
      break;
    case EVTCHNOP_alloc_unbound:
      at.u16(0, DOMID_SELF).u16(2, other);
      break;
    case EVTCHNOP_bind_virq:
      at.u32(0, draw.below(24)).u32(4, draw.below(2));
      break;
    case EVTCHNOP_bind_ipi:
      at.u32(0, draw.below(2));
      break;
    case EVTCHNOP_status:
      at.u16(0, DOMID_SELF).u32(4, used);
      break;
    case EVTCHNOP_reset:
      at.u16(0, DOMID_SELF);
      break;
    case EVTCHNOP_init_control:
      at.u64(0, ramOf(world.xen, domid).first + draw.below(6));
      at.u32(8, draw.below(8) * 8).u32(12, draw.below(2));
      break;
    case EVTCHNOP_expand_array:
      at.u64(0, ramOf(world.xen, domid).first + draw.below(6));
      break;
    default:
      at.u32(0, used).u32(4, draw.below(3));
  }
  return callWith(world, domid, draw, HYPERVISOR_event_channel_op, [cmd], at);
}

export function eventCall(world: World, domid: DomId, draw: Draw): Call {
  const { xen } = world;
  if (!draw.once(3)) return soundEventCall(world, domid, draw);
  const cmd = draw.once(20) ? anyWord(draw) : draw.below(15);
  const small = (): number => (draw.once(10) ? anyWord(draw) : draw.below(8));
  const at = new Structure(24);
  switch (draw.below(4)) {
    case 0:
      at.u16(0, anyDomid(xen, domid, draw)).u16(2, anyDomid(xen, domid, draw));
      break;
    case 1:
      at.u64(0, anyGfn(xen, domid, draw))
        .u32(8, draw.below(64) * 64)
        .u32(12, draw.below(3));
      return callWith(world, domid, draw, HYPERVISOR_event_channel_op, [cmd], at);
    default:
      at.u32(0, small());
  }
  for (let offset = 4; offset < 24; offset += 4) at.u32(offset, small());
  return callWith(world, domid, draw, HYPERVISOR_event_channel_op, [cmd], at);
}

export function otherCall(world: World, domid: DomId, draw: Draw): Call {
  const { xen } = world;
  const words = new Structure(WORDS_SIZE);
  fillWords(world, domid, draw, words);
  switch (draw.below(8)) {
    case 0:
      return callWith(world, domid, draw, HYPERVISOR_xen_version, [draw.below(13)], words);
    case 1:
    case 2: {
      const at = new Structure(HVM_PARAM_SIZE).u16(0, anyDomid(xen, domid, draw));
      at.u32(HVM_PARAM_INDEX, draw.once(4) ? anyWord(draw) : draw.below(4));
      at.u64(HVM_PARAM_VALUE, anyGfn(xen, domid, draw));
      const cmd = draw.once(6) ? anyWord(draw) : draw.below(2);
      return callWith(world, domid, draw, HYPERVISOR_hvm_op, [cmd], at);
    }
    case 3:
      return domctlCall(world, domid, draw);
    case 4:
    case 5:
      return callWith(world, domid, draw, HYPERVISOR_sched_op, [draw.below(8)], words);
    case 6:
      return callWith(world, domid, draw, draw.below(64), [draw.below(32)], words);
    default:
      return {
        op: anyWord(draw) | 0,
        args: [anyWord(draw), anyWord(draw), draw.u32()],
        memory: [],
      };
  }
}

const DEVICE_COMMANDS = [
  XEN_DOMCTL_assign_device,
  XEN_DOMCTL_test_assign_device,
  XEN_DOMCTL_deassign_device,
] as const;

/** A device by its path or its function, mostly one that exists. */
function assignCall(world: World, domid: DomId, draw: Draw): Call {
  const at = new Structure(DOMCTL_SIZE);
  const { model } = world.xen;
  const device = draw.oneOf(model.devices);
  const named = draw.once(8)
    ? draw.oneOf([DOMID_IO, DOMID_INVALID])
    : presentDomid(world.xen, draw);
  at.u32(DOMCTL_CMD, draw.oneOf(DEVICE_COMMANDS)).u16(DOMCTL_DOMAIN, named);
  at.u32(ASSIGN_DEV, model.arch === "x86" || draw.once(9) ? XEN_DOMCTL_DEV_PCI : XEN_DOMCTL_DEV_DT);
  at.u32(ASSIGN_FLAGS, draw.once(9) ? draw.below(4) : 0);
  const gaddr = anyAddress(world.xen, domid, draw, DOMCTL_SIZE);
  if (model.arch === "x86") {
    at.u32(ASSIGN_SBDF, draw.once(9) ? anyWord(draw) : device.streamId);
    return { op: HYPERVISOR_domctl, args: [gaddr], memory: [{ gaddr, bytes: at.bytes }] };
  }
  const path = Uint8Array.from(`/${device.name}`, (letter) => letter.charCodeAt(0));
  const place = anyAddress(world.xen, domid, draw, path.length);
  at.u32(ASSIGN_PATH_SIZE, draw.once(9) ? anyWord(draw) : path.length).u64(ASSIGN_PATH, place);
  return {
    op: HYPERVISOR_domctl,
    args: [gaddr],
    memory: [
      { gaddr: place, bytes: path },
      { gaddr, bytes: at.bytes },
    ],
  };
}

function domctlCall(world: World, domid: DomId, draw: Draw): Call {
  if (draw.once(3)) return assignCall(world, domid, draw);
  const at = new Structure(DOMCTL_SIZE);
  const gentle = [XEN_DOMCTL_pausedomain, XEN_DOMCTL_unpausedomain, XEN_DOMCTL_getdomaininfo];
  const cmd = draw.once(12)
    ? XEN_DOMCTL_destroydomain
    : draw.once(4)
      ? draw.below(96)
      : draw.oneOf([...gentle, XEN_DOMCTL_max_mem]);
  // Words of an unknown command; a destroy that such a command happens to be is as good as any.
  if (cmd > XEN_DOMCTL_getdomaininfo && cmd !== XEN_DOMCTL_max_mem) {
    fillWords(world, domid, draw, at);
  }
  at.u32(DOMCTL_CMD, cmd).u16(DOMCTL_DOMAIN, anyDomid(world.xen, domid, draw));
  if (cmd === XEN_DOMCTL_max_mem) at.u64(MAX_MEM_MAX_MEMKB, maxMemory(draw));
  return callWith(world, domid, draw, HYPERVISOR_domctl, [], at);
}

const maxMemory = (draw: Draw): number =>
  draw.once(4) ? 2 ** draw.below(60) : (64 + draw.below(512)) * 4;

/** What the toolstack asks for. Destruction is rare, or nobody would be left to try anything. */
export function controlCall(world: World, draw: Draw): Call {
  const control = (op: number, ...args: readonly number[]): Call => ({ op, args, memory: [] });
  const domid = (): number => anyDomid(world.xen, -1, draw);
  switch (draw.below(12)) {
    case 0:
    case 1:
    case 2:
    case 3:
      return control(CONTROL_CREATE, draw.once(6) ? anyWord(draw) : draw.below(5));
    case 4:
    case 5:
      return control(CONTROL_DOMCTL, XEN_DOMCTL_destroydomain, 1 + draw.below(6));
    case 6:
      return control(CONTROL_VCPU_DIED, draw.once(3) ? anyWord(draw) : draw.below(world.slots));
    case 7:
      return control(CONTROL_DOMCTL, XEN_DOMCTL_max_mem, domid(), maxMemory(draw));
    case 8:
      if (draw.once(2)) return control(CONTROL_DOMCTL, draw.below(96), domid(), anyWord(draw));
      if (draw.once(2)) {
        const device = draw.below(3);
        return control(CONTROL_DOMCTL, draw.oneOf(DEVICE_COMMANDS), domid(), device);
      }
      return control(
        CONTROL_DOMCTL,
        draw.oneOf([XEN_DOMCTL_set_paging_mempool_size, XEN_DOMCTL_get_paging_mempool_size]),
        presentDomid(world.xen, draw),
        draw.below(40) * 4096,
      );
    case 9:
      return control(anyWord(draw) | 0, anyWord(draw), anyWord(draw));
    default:
      return control(
        CONTROL_DOMCTL,
        draw.oneOf([XEN_DOMCTL_unpausedomain, XEN_DOMCTL_pausedomain]),
        domid(),
      );
  }
}

export function deviceCall(draw: Draw): Call {
  switch (draw.below(4)) {
    case 0:
      return { op: anyWord(draw) | 0, args: [anyWord(draw)], memory: [] };
    case 1:
      return {
        op: DEVICE_FAULT,
        args: [2 ** draw.below(60), draw.below(3), anyWord(draw)],
        memory: [],
      };
    default:
      return { op: DEVICE_RAISE, args: [draw.once(3) ? anyWord(draw) : draw.below(6)], memory: [] };
  }
}
