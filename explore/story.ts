/**
 * A focused story: a machine as small as can be, a few programs, and what must hold. It is prepared once, by booting the
 * machine and running its set-up, and then run thousands of times from the image of that moment.
 *
 *   prepare: boot -> set-up programs, one after the other -> image
 *   run:     image -> programs under a scheduler (chaos) -> round robin (settle) -> judge, audit
 *
 * Rules: a program's `note` facts live in an object that is made anew for each run; faults are programs of the control
 * slot, and so steps like any other. Liveness is judged only after the settling phase.
 * Ours; stress spec sections 2.5 and 4.1.
 */
import type { Caller } from "../domains/kernel.ts";
import type { Xen } from "../hypervisor/xen.ts";
import { at } from "../shared/assert.ts";
import { LINE, lineOf, SLOT_KIND_VCPU } from "../shared/layout.ts";
import type { MachineModel } from "../shared/machine.ts";
import type { Program } from "../shared/trap.ts";
import { auditOnce, type SoundStates, soundStates } from "./audit-once.ts";
import { type Findings, stepCheck } from "./checks.ts";
import { watchHostileWords, watchWork } from "./handler-watch.ts";
import { type MachineImage, machineImage } from "./image.ts";
import { assign, buildMachine, machineOver } from "./machine.ts";
import { sleepersWithEvents, tagWatch } from "./quiet-watch.ts";
import { type Guest, rawGuest } from "./raw-guest.ts";
import { roundRobin } from "./round-robin.ts";
import { type Outcome, run, runPart } from "./run.ts";
import type { Scheduler } from "./scheduler.ts";
import { type Machine, mix, type Part } from "./state.ts";
import { type RacyPage, StoryMemory } from "./story-memory.ts";
import { MEMORY_MODES, type MemoryMode } from "./weak-memory.ts";

/** Facts that a story's programs leave for each other's claims and for the judge. */
export type Notes = Record<string, number>;

export interface StoryTask {
  /** Shown in reports: `A`, `B.1`. */
  readonly name: string;
  readonly domain: number;
  readonly vcpu?: number;
  readonly program: (guest: Guest, notes: Notes) => Program<unknown>;
}

/** A program of a slot that is no vCPU: the toolstack's, or a device's. */
export interface SlotTask {
  readonly name: string;
  /** 0 is the toolstack; devices follow in the order of the model. */
  readonly slot: number;
  readonly program: (machine: Machine, notes: Notes) => Program<unknown>;
  /** A fault may come at any time, or not at all. */
  readonly isFault?: true;
}

export interface Story {
  readonly name: string;
  /** One sentence. */
  readonly about: string;
  readonly model: () => MachineModel;
  /** Brings the machine to where every run begins. */
  readonly setUp?: readonly StoryTask[];
  readonly tasks: readonly StoryTask[];
  readonly others?: readonly SlotTask[];
  /** Says what does not hold at the end: `I-nn: sentence`. */
  readonly judge?: (machine: Machine, notes: Notes) => readonly string[];
  /** Domains whose guests may write anything. */
  readonly hostile?: readonly number[];
  /** Each must hold in at least one run of an exploration. */
  readonly sometimes?: Readonly<Record<string, (notes: Notes, machine: Machine) => boolean>>;
  /** Steps of one run, at most. */
  readonly steps?: number;
  /**
   * Between any two accesses of the hypervisor a hostile guest's grant headers may change, as a second vCPU could do it: one
   * recorded choice a read-modify-write, instead of a forced switch each.
   */
  readonly hostileWords?: true;
  /** Nobody must come to an end: whoever they wait for may have been killed. */
  readonly mayWait?: true;
  /** A handler that makes too many accesses between two gaps is at fault (L-7). */
  readonly boundedWork?: true;
  /** The whole audit runs after each step of the hypervisor, not only at the end. */
  readonly auditEveryStep?: true;
  /** Pages on which plain accesses of guests may race, and why. */
  readonly racy?: readonly RacyPage[];
}

export interface PreparedStory {
  readonly story: Story;
  readonly image: MachineImage;
  readonly callers: (Caller | undefined)[];
  /** What the set-up has noted: every run begins with it. */
  readonly notes: Notes;
  /** What need not be judged again. */
  readonly sound: SoundStates;
  /** How strong memory is for plain accesses of guests. */
  readonly memory: MemoryMode;
}

/** Steps of the chaos phase unless the story says otherwise: an unfair schedule may let somebody spin for ever. */
const STEPS = 2_000;
/** Steps of the settling phase, within which everybody must come to an end. */
const SETTLE_STEPS = 20_000;

export function prepareStory(
  story: Story,
  hypervisor: MachineModel["hypervisor"] = "faithful",
): PreparedStory {
  const callers: (Caller | undefined)[] = [];
  const notes: Notes = {};
  const image = machineImage({ ...story.model(), hypervisor }, (xen) =>
    setUp(story, xen, callers, notes),
  );
  return { story, image, callers, notes, sound: soundStates(), memory: "sc" };
}

function setUp(story: Story, xen: Xen, callers: (Caller | undefined)[], notes: Notes): void {
  const machine = machineOver(xen, { seed: 0, scheduler: roundRobin(), points: false });
  for (const task of story.setUp ?? []) {
    const guest = rawGuest(machine, task.domain, task.vcpu ?? 0, callers);
    const program = task.program(guest, notes);
    runPart(machine, guest.slot, { name: task.name, program, mustFinish: true });
  }
}

export interface StoryRun {
  readonly outcome: Outcome;
  readonly machine: Machine;
  readonly notes: Notes;
  readonly known: readonly string[];
}

export interface StoryOptions {
  readonly seed: number;
  readonly scheduler: Scheduler;
  readonly command?: string;
  /** Names of tasks that do not take part. */
  readonly without?: readonly string[];
  /** The whole audit after each step of the hypervisor. */
  readonly everyStep?: boolean;
  /** Called with the machine before its first step: to watch it. */
  readonly watch?: (machine: Machine, image: MachineImage) => void;
}

export function runStory(prepared: PreparedStory, options: StoryOptions): StoryRun {
  const { story, image } = prepared;
  const notes: Notes = { ...prepared.notes };
  const known: string[] = [];
  const hostile = (domid: number): boolean => story.hostile?.includes(domid) === true;
  const anew = options.everyStep === true;
  const everyStep = anew || story.auditEveryStep === true;
  const audited = (): Findings => auditOnce(prepared.sound, machine, image, { hostile, anew });
  let strayTags: (() => readonly string[]) | undefined;
  const check = (xen: Xen): readonly string[] => {
    const stray = strayTags?.() ?? [];
    if (stray.length > 0) return stray;
    const { broken, known: holes } = everyStep ? audited() : stepCheck(xen);
    known.push(...holes);
    return broken;
  };
  const phase: Phase = { settling: false, machine: undefined };
  const machine = buildMachine(image, {
    seed: options.seed,
    scheduler: settlingScheduler(options.scheduler, phase),
    points: true,
    partOf: partsOf(prepared, notes, options.without ?? []),
    audit: check,
  });
  phase.machine = machine;
  strayTags = tagWatch(machine.xen);
  assignOthers(machine, story, notes, options.without ?? []);
  if (story.boundedWork === true) watchWork(machine, image);
  if (story.hostileWords === true)
    watchHostileWords(machine, image, machine.options.scheduler, story.hostile ?? []);
  if (prepared.memory !== "sc") {
    // The same choices lead elsewhere in another memory.
    mix(machine, MEMORY_MODES.indexOf(prepared.memory));
    machine.late = new StoryMemory(machine, image, {
      mode: prepared.memory,
      racy: story.racy ?? [],
      // Whoever waits for a value finds it in the end.
      choose: (count) => (phase.settling ? 0 : machine.options.scheduler.number(count)),
    });
  }
  options.watch?.(machine, image);
  const command = options.command ?? `explore ${story.name}`;
  let outcome = run(machine, { command, maxSteps: story.steps ?? STEPS });
  if (outcome.verdict === "exhausted") {
    phase.settling = true;
    outcome = run(machine, { command, maxSteps: SETTLE_STEPS });
  }
  outcome = withLiveness(outcome, sleepers(machine, outcome));
  if (outcome.verdict !== "finished") return { outcome, machine, notes, known };
  machine.auditing = true;
  const found = [...(story.judge?.(machine, notes) ?? [])];
  if (found.length === 0) {
    const { broken, known: holes } = audited();
    known.push(...holes);
    found.push(...broken);
  }
  const verdict = found.length === 0 ? "finished" : "violation";
  return { outcome: { ...outcome, verdict, findings: found }, machine, notes, known };
}

interface Phase {
  settling: boolean;
  machine: Machine | undefined;
}

/** The strategy's choices, until the settling phase begins; fair ones from then on. What is drawn is part of the trace. */
function settlingScheduler(chaos: Scheduler, phase: Phase): Scheduler {
  const fair = roundRobin();
  return {
    begin: (seed, scene) => {
      fair.begin(seed);
      chaos.begin(seed, scene);
    },
    choose: (candidates, count) => (phase.settling ? fair : chaos).choose(candidates, count),
    number: (below) => {
      const drawn = chaos.number(below);
      if (phase.machine !== undefined) mix(phase.machine, drawn);
      return drawn;
    },
  };
}

/** Whoever sleeps at the end although an event has come for it. */
function sleepers(machine: Machine, { verdict }: Outcome): readonly string[] {
  if (verdict !== "stuck" && verdict !== "finished") return [];
  machine.auditing = true;
  const found = sleepersWithEvents(machine);
  machine.auditing = false;
  return found;
}

/** Nobody can move although somebody must (L-2), or nobody comes to an end under a fair schedule (L-5). */
function withLiveness(outcome: Outcome, asleep: readonly string[]): Outcome {
  const { verdict, findings } = outcome;
  if (asleep.length > 0) return { ...outcome, verdict: "violation", findings: asleep };
  if (verdict !== "stuck" && verdict !== "exhausted") return outcome;
  const id = verdict === "stuck" ? "L-2" : "L-5";
  return { ...outcome, verdict: "violation", findings: findings.map((text) => `${id}: ${text}`) };
}

const slotField = (machine: Machine, slot: number, field: number): number =>
  at(machine.words, lineOf(machine.layout, slot) + field);

/** What runs on each vCPU of the story. */
function partsOf(prepared: PreparedStory, notes: Notes, without: readonly string[]) {
  const { story, callers } = prepared;
  return (machine: Machine, slot: number): Part | undefined => {
    if (slotField(machine, slot, LINE.KIND) !== SLOT_KIND_VCPU) return undefined;
    const domain = slotField(machine, slot, LINE.DOMAIN);
    const vcpu = slotField(machine, slot, LINE.NUMBER);
    const task = story.tasks.find((one) => one.domain === domain && (one.vcpu ?? 0) === vcpu);
    if (task === undefined || without.includes(task.name)) return undefined;
    const guest = rawGuest(machine, domain, vcpu, callers);
    const mustFinish = story.mayWait !== true;
    return { name: task.name, program: task.program(guest, notes), mustFinish };
  };
}

function assignOthers(
  machine: Machine,
  story: Story,
  notes: Notes,
  without: readonly string[],
): void {
  for (const { name, slot, program, isFault } of story.others ?? []) {
    if (without.includes(name)) continue;
    const mustFinish = isFault !== true && story.mayWait !== true;
    assign(machine, slot, { name, program: program(machine, notes), mustFinish });
  }
}
