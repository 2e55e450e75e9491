/**
 * Hypercalls that do nothing: from the channel's client stub, and from a guest program one and three levels deep.
 */
import { openHost } from "../../platform/host.ts";
import { Runner } from "../../platform/runner.ts";
import { CLIENT_PROBES_EVERY, policyOf } from "../../platform/worker-common.ts";
import { HYPERVISOR_xen_version, XENVER_version } from "../../shared/abi/xen.ts";
import { type HypercallTrap, type Program, TRAP_HYPERCALL } from "../../shared/trap.ts";
import { MAPPER } from "../machine.ts";
import { pushRecord, recordOf } from "../raw-guest.ts";
import { guestOn } from "../threaded-guest.ts";
import type { Job, Setup } from "../worker-api.ts";

const nullCall = (): Int32Array => recordOf(HYPERVISOR_xen_version, [XENVER_version, 0]);

/** What every null hypercall answers. */
function checkVersion(version: number): void {
  if (version <= 0) throw new Error(`xen_version answered ${version}`);
}

export function clientStub(setup: Setup): Job {
  const { guest } = guestOn(setup, MAPPER);
  const record = nullCall();
  let version = 0;
  return {
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) version = pushRecord(guest, record);
    },
    end: () => checkVersion(version),
  };
}

function* shallow(trap: HypercallTrap, calls: number): Program<number> {
  let version = 0;
  for (let call = 0; call < calls; call++) version = yield trap;
  return version;
}

function* deep(trap: HypercallTrap, calls: number): Program<number> {
  let version = 0;
  for (let call = 0; call < calls; call++) version = yield* second(trap);
  return version;
}

function* second(trap: HypercallTrap): Program<number> {
  return yield* third(trap);
}

function* third(trap: HypercallTrap): Program<number> {
  return yield trap;
}

function programJob(
  setup: Setup,
  program: (trap: HypercallTrap, calls: number) => Program<number>,
): Job {
  const { guest, board, machine } = guestOn(setup, MAPPER);
  const trap: HypercallTrap = { kind: TRAP_HYPERCALL, record: nullCall() };
  const runner = new Runner({
    words: board.words,
    layout: board.layout,
    slot: guest.slot,
    policy: policyOf(machine.waiting, CLIENT_PROBES_EVERY),
    host: openHost(undefined),
    report: () => {},
  });
  let version = 0;
  return {
    run: (turns) => {
      const result = runner.run(program(trap, turns));
      version = typeof result === "number" ? result : 0;
    },
    end: () => checkVersion(version),
  };
}

export const shallowProgram = (setup: Setup): Job => programJob(setup, shallow);
export const deepProgram = (setup: Setup): Job => programJob(setup, deep);
