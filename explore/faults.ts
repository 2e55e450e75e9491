/**
 * Faults that can be let loose on any focused story. Each is a task, or two, of a vCPU that is added for it, so that where it
 * strikes is chosen by the same strategies as everything else.
 *
 *   of dom0:         what the toolstack does (kill, pause, ...), and what happens to the machine (no memory, a lost wake-up, ...)
 *   of the guest:    what a guest does that nobody should (a storm, entries and arguments that change, ...)
 *
 * Rules: with a fault that shows, a story is judged for safety and liveness alone: whoever waits for a domain that was killed waits
 * rightly, and what the story claims of its domains it claims of living ones. With one that nobody may notice it is judged as without
 * it. The model of a grant knows deaths, but no refusal for want of anything. Where a guest misbehaves, claims of programs say nothing. Ours; stress spec section 5, catalogue in fault-catalogue.ts.
 */
import { item } from "../shared/assert.ts";
import { VCPUS_MAX } from "../shared/limits.ts";
import type { MachineModel } from "../shared/machine.ts";
import {
  drainPool,
  type FaultProgram,
  failAllocation,
  failAllocations,
  hasFailed,
  jump,
  kill,
  killWithoutMemory,
  letGoAlways,
  loseWakeup,
  movePages,
  noHandles,
  nonsense,
  noPorts,
  nudge,
  pause,
  reset,
  reuse,
  rewriteEntry,
  spoilArguments,
  storm,
  switchVersion,
} from "./fault-programs.ts";
import type { Machine } from "./state.ts";
import type { SlotTask, Story, StoryFault, StoryTask } from "./story.ts";

/** quiet: nobody notices. fatal: somebody dies. refused: calls are. hostile: a guest does what none should. */
type Manner = "quiet" | "fatal" | "refused" | "hostile";

/** A fault that a story has room for. */
export interface Fault {
  /** Rows of the catalogue that it stands for: where it strikes makes the difference. */
  readonly ids: readonly string[];
  /** `kill A` */
  readonly name: string;
  readonly manner: Manner;
  /** A program of a vCPU of its own for each. */
  readonly parts: readonly { readonly domain: number; readonly program: FaultProgram }[];
  /** Domain whose number the toolstack gives to a new one; there are no parts then. */
  readonly reuses?: number;
  /** What happens between its first step and its last makes a difference. */
  readonly lasts?: true;
  /** Unless its programs say so themselves. */
  readonly fired?: (machine: Machine) => boolean;
}

const HOST = 0;
const LASTS = { lasts: true } as const;
/** Between hypercalls, inside one, at each gap; of a mapper, of a granter. */
const KILLS: readonly string[] = ["F-01", "F-02", "F-03", "F-04", "F-05", "F-06"];

/** Domains that take part in a story: in its programs, or before them. */
function domainsOf(story: Story): readonly number[] {
  const tasks = [...(story.setUp ?? []), ...story.tasks];
  return [...new Set(tasks.map(({ domain }) => domain))].filter((domid) => domid > HOST).toSorted();
}

/** Every fault that a story has room for. */
export function faultsOf(story: Story): readonly Fault[] {
  const model = story.model();
  const domids = domainsOf(story);
  const [one, other] = domids;
  const nameOf = (domid: number): string => model.domains[domid]?.name ?? String(domid);
  const host = (program: FaultProgram) => ({ domain: HOST, program });
  const pair = (id: string, name: string, first: number, second: number): Fault => ({
    ids: [id],
    name,
    manner: "fatal",
    parts: [host(kill(first)), host(kill(second))],
  });
  const each = domids.flatMap((domid) => faultsOfDomain(model, domid, nameOf(domid)));
  const both =
    one === undefined || other === undefined
      ? []
      : [pair("F-07", `kill ${nameOf(one)} and ${nameOf(other)}`, one, other)];
  const twice = domids.map((domid) => pair("F-35", `kill ${nameOf(domid)} twice`, domid, domid));
  const memory = { manner: "refused", fired: hasFailed } as const;
  const machine: readonly Fault[] = [
    { ids: ["F-11"], name: "fail allocation", ...memory, parts: [host(failAllocation)] },
    { ids: ["F-12"], name: "no memory", ...memory, parts: [host(failAllocations)] },
    { ids: ["F-30"], name: "let go always", manner: "quiet", parts: [host(letGoAlways)] },
    { ids: ["F-34"], name: "clock jumps", manner: "quiet", parts: [host(jump)] },
  ];
  const again = hasToolstack(story)
    ? []
    : domids.map(
        (domid): Fault => ({
          ids: ["F-33"],
          name: `reuse ${nameOf(domid)}`,
          manner: "hostile",
          parts: [],
          reuses: domid,
        }),
      );
  return [...each, ...both, ...twice, ...machine, ...again].filter((fault) =>
    hasRoom(model, fault),
  );
}

/** Whether the toolstack's slot has something to do in a story. */
const hasToolstack = ({ others = [] }: Story): boolean => others.some(({ slot }) => slot === 0);

function faultsOfDomain(model: MachineModel, domid: number, name: string): readonly Fault[] {
  const isPv = model.domains[domid]?.guest === "pv";
  const host = (
    ids: readonly string[],
    word: string,
    manner: Manner,
    program: FaultProgram,
    more: Pick<Fault, "fired" | "lasts"> = {},
  ): Fault => ({
    ids,
    name: `${word} ${name}`,
    manner,
    parts: [{ domain: HOST, program }],
    ...more,
  });
  const guest = (id: string, word: string, program: FaultProgram): Fault => ({
    ids: [id],
    name: `${word} ${name}`,
    manner: "hostile",
    parts: [{ domain: domid, program }],
  });
  const translated = [
    guest("F-24", "rewrite entry of", rewriteEntry),
    guest("F-28", "spoil arguments of", spoilArguments),
    guest("F-32", "move pages of", movePages),
    ...(model.arch === "x86" ? [guest("F-32", "switch version of", switchVersion)] : []),
  ];
  return [
    host(KILLS, "kill", "fatal", kill(domid)),
    host(["F-12"], "no memory, then kill", "refused", killWithoutMemory(domid)),
    host(["F-13"], "no handles for", "refused", noHandles(domid), LASTS),
    host(["F-14"], "no ports for", "refused", noPorts(domid), LASTS),
    host(["F-15"], "no table pages for", "refused", drainPool(domid)),
    host(["F-16"], "lose wake-up of", "quiet", loseWakeup(domid), {
      fired: (m) => m.lostWakeups > 0,
    }),
    host(["F-18", "F-20"], "nudge", "quiet", nudge(domid), LASTS),
    host(["F-31"], "pause", "quiet", pause(domid), LASTS),
    guest("F-19", "storm from", storm),
    guest("F-29", "nonsense from", nonsense),
    guest("F-32", "reset ports of", reset),
    ...(isPv ? [] : translated),
  ];
}

/** Whether each domain has a vCPU left for each part of a fault. */
const hasRoom = ({ domains }: MachineModel, { parts }: Fault): boolean =>
  parts.every(({ domain }) => {
    const needed = parts.filter((part) => part.domain === domain).length;
    return (domains[domain]?.vcpus ?? VCPUS_MAX) + needed <= VCPUS_MAX;
  });

const withVcpu = (model: MachineModel, domid: number): MachineModel => ({
  ...model,
  domains: model.domains.map((domain, i) =>
    i === domid ? { ...domain, vcpus: domain.vcpus + 1 } : domain,
  ),
  limits: { ...model.limits, slots: model.limits.slots + 1 },
});

/** A vCPU of its own for each program, with what the story is then. */
function withTasks(
  story: Story,
  added: readonly Pick<StoryTask, "name" | "domain" | "program">[],
): Story {
  const model = story.model();
  const tasks = added.map((task, i): StoryTask => {
    const before = added.slice(0, i).filter(({ domain }) => domain === task.domain).length;
    const vcpu = (model.domains[task.domain]?.vcpus ?? 0) + before;
    return { ...task, vcpu, isFault: true };
  });
  return {
    ...story,
    model: () => added.reduce((wider, { domain }) => withVcpu(wider, domain), story.model()),
    tasks: [...story.tasks, ...tasks],
  };
}

/** The story with a toolstack that gives a domain's number to a new one, made as the former one was. */
function withReuse(
  story: Story,
  fault: Fault,
  domid: number,
  isWanted: (machine: Machine) => boolean = () => true,
): Story {
  const { length } = story.model().domains;
  const toolstack: SlotTask = {
    name: fault.name,
    slot: 0,
    isFault: true,
    program: function* (machine, notes) {
      if (!isWanted(machine)) return;
      notes[begunKey(fault)] = 1;
      if (yield* reuse(machine, domid, length)) notes[firedKey(fault)] = 1;
    },
  };
  return {
    ...story,
    model: () => {
      const model = story.model();
      const { domains, limits } = model;
      const again = { ...item(domains, domid), name: "new", atBoot: false };
      return {
        ...model,
        domains: [...domains, again],
        limits: { ...limits, domains: limits.domains + 1 },
      };
    },
    others: [...(story.others ?? []), toolstack],
  };
}

/** The story with a fault in it. */
export function withFault(story: Story, fault: Fault): Story {
  const { judge, sometimes: _sometimes, ...rest } = story;
  const { name, parts, manner } = fault;
  const tasks = parts.map(({ domain, program }, part) => ({
    name: parts.length === 1 ? name : `${name} (${part + 1})`,
    domain,
    program: noting(fault, program),
  }));
  const faulty: Story = {
    ...(fault.reuses === undefined ? withTasks(rest, tasks) : withReuse(rest, fault, fault.reuses)),
    name: `${story.name} + ${name}`,
    faults: [entryOf(fault, tasks)],
  };
  if (manner === "quiet") return judge === undefined ? faulty : { ...faulty, judge };
  const { history: _history, ...unrecorded } = faulty;
  if (manner === "fatal") return { ...faulty, mayWait: true };
  if (manner === "refused") return { ...unrecorded, mayWait: true };
  const hostile = [...(story.hostile ?? []), ...parts.map(({ domain }) => domain)];
  return { ...unrecorded, mayWait: true, unjudged: true, hostile };
}

/** Tasks of dom0 in a swarm. */
const SWARM_TASKS = 2;

/**
 * The story with every fault in it that it has room for at once: in each run each of the added tasks draws whether it takes part, and
 * with which fault, so that rare ones meet without the common ones too.
 */
export function withSwarm(story: Story): Story {
  const { judge: _judge, sometimes: _sometimes, history: _history, ...rest } = story;
  const faults = faultsOf(story);
  const model = story.model();
  const places = Array.from({ length: SWARM_TASKS }, (_, i) => ({
    name: `swarm ${i + 1}`,
    domain: HOST,
  }));
  const guests = domainsOf(story).map((domain) => ({ name: `swarm of ${domain}`, domain }));
  const added = [...places, ...guests].filter(
    ({ domain }, i, all) =>
      (model.domains[domain]?.vcpus ?? VCPUS_MAX) +
        all.slice(0, i + 1).filter((one) => one.domain === domain).length <=
      VCPUS_MAX,
  );
  const tasks = added.map(({ name, domain }) => ({
    name,
    domain,
    program: drawing(
      faults.flatMap((fault) =>
        fault.parts.flatMap((part) =>
          part.domain === domain ? [noting(fault, part.program)] : [],
        ),
      ),
    ),
  }));
  const hostile = [...(story.hostile ?? []), ...guests.map(({ domain }) => domain)];
  const again = faults.find(({ reuses }) => reuses !== undefined);
  return {
    ...withTasks(
      again?.reuses === undefined ? rest : withReuse(rest, again, again.reuses, isDrawn),
      tasks,
    ),
    name: `${story.name} + ${SWARM}`,
    faults: faults.map((fault) => entryOf(fault, [])),
    mayWait: true,
    unjudged: true,
    hostile,
  };
}

/** Name of all faults at once. */
export const SWARM = "swarm";

/** Whether a task of a swarm takes part in this run. */
const isDrawn = ({ options }: Machine): boolean => options.scheduler.number(2) === 1;

/** One of the programs, or none. */
const drawing = (programs: readonly StoryTask["program"][]): StoryTask["program"] =>
  function* (guest, notes) {
    if (programs.length === 0 || !isDrawn(guest.machine)) return;
    const { scheduler } = guest.machine.options;
    yield* item(programs, scheduler.number(programs.length))(guest, notes);
  };

function entryOf(fault: Fault, tasks: readonly { readonly name: string }[]): StoryFault {
  // Asked after every run: the names are put together once.
  const begun = begunKey(fault);
  const fired = firedKey(fault);
  return {
    ids: fault.ids,
    name: fault.name,
    tasks: tasks.map(({ name }) => name),
    lasts: fault.lasts === true,
    fired: (machine, notes) => notes[begun] === 1 && (fault.fired?.(machine) ?? notes[fired] === 1),
  };
}

const begunKey = ({ name }: Fault): string => `begun: ${name}`;
const firedKey = ({ name }: Fault): string => `fired: ${name}`;

function noting(fault: Fault, program: FaultProgram): StoryTask["program"] {
  const begun = begunKey(fault);
  const fired = firedKey(fault);
  return function* (guest, notes) {
    notes[begun] = 1;
    if (yield* program(guest)) notes[fired] = 1;
  };
}
