/**
 * A focused story: a machine as small as can be, a few programs, and what must hold. It is prepared once, by booting the
 * machine and running its set-up, and then run thousands of times from the image of that moment.
 *
 *   prepare: boot -> set-up programs, one after the other -> image
 *   run:     image -> programs under a scheduler (chaos, then settling: liveness.ts) -> judge, audit
 *
 * Rules: a program's `note` facts live in an object that is made anew for each run; faults are programs of the control
 * slot, and so steps like any other.
 * Ours; stress spec sections 2.5 and 4.1.
 */
import type { Caller } from "../domains/kernel.ts";
import type { Xen } from "../hypervisor/xen.ts";
import { at } from "../shared/assert.ts";
import { LINE, lineOf, SLOT_KIND_VCPU } from "../shared/layout.ts";
import type { MachineModel } from "../shared/machine.ts";
import type { Program } from "../shared/trap.ts";
import { isOver } from "./actor.ts";
import { auditOnce, type SoundStates, STATES_MAX, soundStates } from "./audit-once.ts";
import { type Findings, stepCheck } from "./checks.ts";
import { judgeOnce } from "./commit-replay.ts";
import { type CommitLog, openCommits } from "./commits.ts";
import { watchHandlerMemory } from "./handler-memory.ts";
import { watchHostileWords } from "./handler-watch.ts";
import { type MachineImage, machineImage } from "./image.ts";
import { leavingOut } from "./left-out.ts";
import { SETTLE_STEPS, watchLiveness } from "./liveness.ts";
import { assign, buildMachine, machineOver } from "./machine.ts";
import { tagWatch } from "./quiet-watch.ts";
import { type Guest, rawGuest } from "./raw-guest.ts";
import { roundRobin } from "./round-robin.ts";
import { type Outcome, run, runPart } from "./run.ts";
import type { Scheduler } from "./scheduler.ts";
import { type Machine, mix, type Part } from "./state.ts";
import { stateKey } from "./state-key.ts";
import { type RacyPage, StoryMemory } from "./story-memory.ts";
import { dyingDomains, giveBack, stuckTeardown } from "./teardown.ts";
import { MEMORY_MODES, type MemoryMode } from "./weak-memory.ts";

/** Facts that a story's programs leave for each other's claims and for the judge. */
export type Notes = Record<string, number>;

export interface StoryTask {
  /** Shown in reports: `A`, `B.1`. */
  readonly name: string;
  readonly domain: number;
  readonly vcpu?: number;
  readonly program: (guest: Guest, notes: Notes) => Program<unknown>;
  /** A fault may come at any time, or not at all. */
  readonly isFault?: true;
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
  /** Claims of its programs say nothing, because one of its guests does what none should. */
  readonly unjudged?: true;
  /** Faults that may come in it. */
  readonly faults?: readonly StoryFault[];
  /** Nobody must come to an end: whoever they wait for may have been killed. */
  readonly mayWait?: true;
  /** Its grant operations are noted and judged: every write of a grant entry is `grant` or `withdraw` of raw-guest.ts. */
  readonly history?: true;
  /** The whole audit runs after each step of the hypervisor, not only at the end, and what memory handlers touch is watched. */
  readonly auditEveryStep?: true;
  /** Pages on which plain accesses of guests may race, and why. */
  readonly racy?: readonly RacyPage[];
}

/** A fault in a story: its rows in the catalogue, its name, the tasks that it is made of, and whether it has come to anything. */
export interface StoryFault {
  readonly ids: readonly string[];
  readonly name: string;
  readonly tasks: readonly string[];
  /** What happens between its first step and its last makes a difference. */
  readonly lasts: boolean;
  readonly fired: (machine: Machine, notes: Notes) => boolean;
}

export interface PreparedStory {
  readonly story: Story;
  readonly image: MachineImage;
  readonly callers: (Caller | undefined)[];
  /** What the set-up has noted: every run begins with it. */
  readonly notes: Notes;
  /** What need not be judged again. */
  readonly sound: SoundStates;
  /** Histories that need not be judged again. */
  readonly histories: Set<number>;
  /** How strong memory is for plain accesses of guests. */
  readonly memory: MemoryMode;
}

/** Room for the history of a story that keeps one, and for what the hypervisor traces meanwhile. */
const HISTORY_LIMITS = { historyRecords: 128, traceRecords: 64 } as const;

/** Steps of the chaos phase unless the story says otherwise: an unfair schedule may let somebody spin for ever. */
const STEPS = 2_000;

export function prepareStory(
  story: Story,
  hypervisor: MachineModel["hypervisor"] = "faithful",
): PreparedStory {
  const callers: (Caller | undefined)[] = [];
  const notes: Notes = {};
  const model = story.model();
  const limits = { ...model.limits, ...(story.history === true ? HISTORY_LIMITS : {}) };
  const image = machineImage({ ...model, limits, hypervisor }, (xen) =>
    setUp(story, xen, callers, notes),
  );
  const histories = new Set<number>();
  return { story, image, callers, notes, sound: soundStates(), histories, memory: "sc" };
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
  /** When its grant operations took effect, in a story that keeps a history. */
  readonly log: CommitLog | undefined;
  /** Who says what is wrong: the checks of every run, a program of the story, or the story's own judge. */
  readonly said: Said;
}

export type Said = "checks" | "program" | "judge";

export interface StoryOptions {
  readonly seed: number;
  readonly scheduler: Scheduler;
  readonly command?: string;
  /** Names of tasks that do not take part, and of calls that are not made (left-out.ts). */
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
  const chaosSteps = story.steps ?? STEPS;
  const liveness = watchLiveness(options.scheduler, chaosSteps);
  const machine = buildMachine(image, {
    seed: options.seed,
    scheduler: liveness.scheduler,
    points: true,
    partOf: partsOf(prepared, notes, options.without ?? []),
    audit: check,
    chosen: () => log?.look(),
  });
  const log = story.history === true ? openCommits(machine) : undefined;
  liveness.begin(machine, image);
  strayTags = tagWatch(machine.xen);
  assignOthers(machine, story, notes, options.without ?? []);
  setTerms(machine, prepared, options);
  options.watch?.(machine, image);
  const command = options.command ?? `explore ${story.name}`;
  const maxSteps = chaosSteps + SETTLE_STEPS;
  const outcome = liveness.judge(run(machine, { command, maxSteps }));
  const told = { machine, notes, known, log };
  if (outcome.verdict !== "finished") {
    return { ...told, outcome, said: machine.claimed ? "program" : "checks" };
  }
  machine.auditing = true;
  const claims = story.judge?.(machine, notes) ?? [];
  if (claims.length > 0) {
    return { ...told, outcome: violation(outcome, claims), said: "judge" };
  }
  const end = (): readonly string[] => {
    const { broken, known: holes } = audited();
    known.push(...holes);
    if (broken.length > 0 || log === undefined) return broken;
    return judgeOnce(prepared.histories, machine, log);
  };
  const ended = judgeEnd({ prepared, machine, anew }, outcome, end);
  return { ...told, outcome: ended, said: "checks" };
}

/** What is special about the memory of a run, and about what takes part in it. */
function setTerms(
  machine: Machine,
  { story, image, memory }: PreparedStory,
  { without = [], everyStep = false }: StoryOptions,
): void {
  if (story.hostileWords === true)
    watchHostileWords(machine, image, machine.options.scheduler, story.hostile ?? []);
  if (everyStep || story.auditEveryStep === true) watchHandlerMemory(machine, image);
  // The same choices lead elsewhere without some of the calls.
  for (const letter of without.join()) mix(machine, letter.codePointAt(0) ?? 0);
  if (memory === "sc") return;
  // The same choices lead elsewhere in another memory.
  mix(machine, MEMORY_MODES.indexOf(memory));
  machine.late = new StoryMemory(machine, image, {
    mode: memory,
    racy: story.racy ?? [],
    // Whoever waits for a value finds it in the end.
    choose: (count) => (machine.settling ? 0 : machine.options.scheduler.number(count)),
  });
}

const violation = (outcome: Outcome, findings: readonly string[]): Outcome => ({
  ...outcome,
  verdict: "violation",
  findings,
});

interface Ended {
  readonly prepared: PreparedStory;
  readonly machine: Machine;
  /** Nothing is taken for sound because it was so before. */
  readonly anew: boolean;
}

/** The audit, and whether the dead go once everybody gives back what he holds of them (L-6). */
function judgeEnd(
  { prepared, machine, anew }: Ended,
  outcome: Outcome,
  audit: () => readonly string[],
): Outcome {
  const { image, sound } = prepared;
  const broken = audit();
  if (broken.length > 0) return violation(outcome, broken);
  if (dyingDomains(machine.xen).length === 0) return outcome;
  const state = isCalm(machine) ? stateKey(image, machine.xen) : undefined;
  if (state !== undefined && !anew && sound.mortal.has(state)) return outcome;
  const after = giveBack(machine, prepared.callers);
  if (after.verdict === "bug") return after;
  const stuck = [...machine.findings, ...stuckTeardown(machine.xen)];
  const findings = stuck.length > 0 ? stuck : audit();
  if (findings.length > 0) return violation(outcome, findings);
  if (state !== undefined && sound.mortal.size < STATES_MAX) sound.mortal.add(state);
  return outcome;
}

/** Whether every program has come to its end. */
const isCalm = ({ actors }: Machine): boolean =>
  actors.every((actor) => actor === undefined || isOver(actor));

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
    const guest = {
      ...rawGuest(machine, domain, vcpu, callers),
      unjudged: story.unjudged === true,
    };
    const isFault = task.isFault === true;
    const mustFinish = !isFault && story.mayWait !== true;
    const program = leavingOut(task.name, task.program(guest, notes), without);
    return { name: task.name, program, mustFinish, isFault };
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
    const fault = isFault === true;
    const its = leavingOut(name, program(machine, notes), without);
    assign(machine, slot, { name, program: its, mustFinish, isFault: fault });
  }
}
