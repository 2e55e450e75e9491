/**
 * The machine on threads: a worker for the hypervisor, for every domain and for every device, over one memory.
 *
 *   reserve memory -> start all workers at once -> each boots -> hashes agree -> start: all run -> programs over -> stop
 *
 * Rules: the main thread owns the control slot and is the only one to start or end a worker. When a domain's
 * worker is gone, its access is evened first and then the hypervisor is told, which destroys the domain in stages;
 * a death that nobody asked for ends the wait for the programs. Nothing outlives `stop`.
 * Ours (design 10.5, 10.10).
 */
import { XEN_DOMCTL_unpausedomain } from "../shared/abi/domctl.ts";
import { assert, at, item } from "../shared/assert.ts";
import { raiseEvent, wakeHypervisor } from "../shared/channel.ts";
import {
  DOM,
  DOMAIN_PRESENT,
  domainOf,
  type Layout,
  LINE,
  layoutOf,
  lineOf,
  MACHINE,
  machineBytes,
  SLOT_LIVE,
} from "../shared/layout.ts";
import { NOT_PRESENT } from "../shared/limits.ts";
import type { MachineModel } from "../shared/machine.ts";
import { load, MachineMemory, notify, store, type Words, wordsOf } from "../shared/mem.ts";
import { leaveForDead } from "../shared/mmu.ts";
import { modelHash } from "../shared/model-hash.ts";
import { PROGRAM_KEY, type Report } from "../shared/scenario.ts";
import {
  CONTROL_AUDIT,
  CONTROL_CREATE,
  CONTROL_DOMCTL,
  CONTROL_HOLD,
  CONTROL_VCPU_DIED,
} from "../shared/trap.ts";
import { ControlSlot } from "./control.ts";
import { bufferOf, reserveMemory } from "./page-ops.ts";
import { type GuestPart, loadDevice, loadDomain, loadHypervisor, type Running } from "./parts.ts";
import type { End, Place, Posted, ScenarioSource, Start, Waiting } from "./worker-api.ts";

/** URLs of the modules that the workers import: the platform itself knows no part of the machine. */
export interface MachineModules {
  readonly hypervisor: string;
  readonly domain: string;
  readonly device: string;
}

export interface ThreadsOptions {
  readonly model: MachineModel;
  readonly scenario: ScenarioSource;
  /** Whether `finished` waits for the program of each domain, by index (Resolved.awaited). */
  readonly awaited: readonly boolean[];
  readonly modules: MachineModules;
  /** `blocking` never spins: for deterministic runs and tests. */
  readonly waiting?: Waiting;
  /** File behind the disk, which the toolstack has checked. */
  readonly diskPath?: string;
  /** Delays the programs at their points: a stress run. */
  readonly delaySeed?: number;
  /** Ends the machine at any moment, in the middle of its boot too. */
  readonly signal?: AbortSignal;
}

/** An end that nobody had asked for. */
export interface Death {
  readonly kind: "hypervisor" | "domain" | "device";
  /** Name of the domain or device. */
  readonly name: string;
  readonly reason: string;
  /** The emulator is wrong, not the part. */
  readonly isBug: boolean;
}

interface Guest extends Place {
  readonly name: string;
  readonly part: GuestPart;
  readonly isAwaited: boolean;
  /** `over`: its program has ended; its kernel goes on, as its services may be needed. `gone`: no worker is left. */
  state: "running" | "over" | "gone";
}

/** A domain of the model whose worker is ready. */
interface Loaded {
  readonly index: number;
  readonly part: GuestPart;
}

/**
 * Boots a machine: when this resolves it is built, every worker has loaded its part, and `start` lets them run.
 * Refused when a part cannot be loaded or has resolved another machine; then nothing is left of it.
 */
export async function bootThreads(options: ThreadsOptions): Promise<ThreadedMachine> {
  options.signal?.throwIfAborted();
  const machine = new ThreadedMachine(options);
  try {
    await machine.boot();
  } catch (error) {
    await machine.stop();
    options.signal?.throwIfAborted();
    throw error;
  }
  return machine;
}

export class ThreadedMachine {
  readonly model: MachineModel;
  readonly layout: Layout;
  /** Views for readers: the main thread writes nothing that the hypervisor owns. */
  readonly words: Words;
  readonly memory: MachineMemory;
  /** In the order in which they arrived from each part. */
  readonly reports: Report[] = [];
  readonly deaths: Death[] = [];
  readonly #options: ThreadsOptions;
  readonly #start: Start;
  readonly #hash: string;
  readonly #control: ControlSlot;
  readonly #hypervisorGone = Promise.withResolvers<never>();
  readonly #guests: Guest[] = [];
  readonly #parts: Running[] = [];
  readonly #keep = (part: Running): void => void this.#parts.push(part);
  readonly #abort = (): void => void this.stop();
  #begin: () => void = () => assert(false, "a machine boots before it starts");
  #finished = Promise.withResolvers<void>();
  #isFinished = false;
  #stopping: Promise<void> | undefined;

  constructor(options: ThreadsOptions) {
    const { model, modules, waiting = "adaptive", diskPath, delaySeed } = options;
    const layout = layoutOf(model);
    const memory = reserveMemory(machineBytes(layout));
    const control = new SharedArrayBuffer(layout.words * Int32Array.BYTES_PER_ELEMENT);
    this.model = model;
    this.layout = layout;
    this.words = wordsOf(control);
    this.memory = new MachineMemory(bufferOf(memory));
    this.#options = options;
    this.#hash = modelHash(model);
    const file = {
      ...(diskPath === undefined ? {} : { diskPath }),
      ...(delaySeed === undefined ? {} : { delaySeed }),
    };
    this.#start = { model, control, memory, module: modules.hypervisor, waiting, ...file };
    this.#hypervisorGone.promise.catch(() => {});
    this.#control = new ControlSlot(this.words, layout, this.#hypervisorGone.promise);
  }

  /** Starts every worker at once; each loads its part. Called once, by bootThreads. */
  async boot(): Promise<void> {
    this.#options.signal?.addEventListener("abort", this.#abort, { once: true });
    const { domains, devices } = this.model;
    const indexes = domains.flatMap((domain, index) =>
      domain.atBoot && domain.runs && domain.vcpus > 0 ? [index] : [],
    );
    const [hypervisor, ports, guests] = await Promise.all([
      loadHypervisor(this.#start, this.#keep),
      Promise.all(devices.map(({ name }, index) => this.#loadDevice(name, index))),
      Promise.all(indexes.map((index) => this.#loadDomain(index))),
    ]);
    this.#begin = () => {
      void hypervisor.run().then((end) => this.#hypervisorEnded(end));
      ports.forEach((port, index) => {
        void port.run().then((end) => this.#deviceEnded(index, end));
      });
      for (const { index, part } of guests) this.#runDomain(index, this.#domidOf(index), part);
      this.#settle();
    };
  }

  /** Lets every part run. Called once. */
  start(): void {
    assert(this.#stopping === undefined, "a machine that is stopped stays so");
    this.#begin();
  }

  #loadDevice(name: string, index: number) {
    const start = { ...this.#start, module: this.#options.modules.device };
    return loadDevice(start, { name, index }, this.#keep, (posted) => this.#take(name, posted));
  }

  async #loadDomain(index: number): Promise<Loaded> {
    const { model: _resolvedByTheWorker, ...start } = this.#start;
    const { modules, scenario } = this.#options;
    const { name } = item(this.model.domains, index);
    const own = { ...start, module: modules.domain, scenario, index };
    const part = await loadDomain(own, { name, hash: this.#hash }, this.#keep, (posted) =>
      this.#take(name, posted),
    );
    return { index, part };
  }

  /** A report, which may be that of a program's end. */
  #take(name: string, { key, value }: Posted): void {
    this.reports.push({ domain: name, key, value });
    if (key !== PROGRAM_KEY) return;
    const guest = this.#guests.findLast((one) => one.name === name);
    if (guest?.state === "running") guest.state = "over";
    this.#settle();
  }

  /** Id of the newest domain that was built from `index` of the model, as the hypervisor's table has it. */
  #domidOf(index: number): number {
    for (let domid = this.model.limits.domains - 1; domid >= 0; domid--) {
      const row = domainOf(this.layout, domid);
      const isPresent = at(this.words, row + DOM.STATE) === DOMAIN_PRESENT;
      if (isPresent && at(this.words, row + DOM.MODEL) === index) return domid;
    }
    assert(false, "a boot domain exists once the machine is built");
  }

  #runDomain(index: number, domid: number, part: GuestPart): void {
    const { name } = item(this.model.domains, index);
    const slot = at(this.words, domainOf(this.layout, domid) + DOM.SLOT);
    assert(slot !== NOT_PRESENT, "a domain that runs has a slot");
    const isAwaited = this.#options.awaited[index] === true;
    const guest: Guest = { name, part, domid, slot, isAwaited, state: "running" };
    this.#guests.push(guest);
    void part.run({ domid, slot }).then((end) => this.#domainEnded(guest, end));
  }

  #hypervisorEnded(end: End): void {
    if (this.#stopping !== undefined) return;
    this.#hypervisorGone.reject(new Error("the hypervisor is gone"));
    this.#noteDeath("hypervisor", "hypervisor", end);
  }

  /** A device never returns: whatever ends it is a death, and its open access must not hold up a flush. */
  #deviceEnded(index: number, end: End): void {
    if (this.#stopping !== undefined) return;
    this.#noteDeath("device", item(this.model.devices, index).name, end);
    const slot = at(this.words, this.layout.deviceSlot + index);
    leaveForDead(this.words, this.layout, slot);
    this.control(CONTROL_VCPU_DIED, slot).catch(() => {});
  }

  /** A kernel that returns idles for ever, and so does one that has lost its slot; a fault stops the domain. */
  #domainEnded(guest: Guest, end: End): void {
    if (guest.state === "gone" || this.#stopping !== undefined) return;
    if (end.how === "fault" || end.how === "bug") {
      this.#noteDeath("domain", guest.name, end);
      // The hypervisor may itself be gone; then there is nobody left to tell.
      this.#bury(guest).catch(() => {});
      return;
    }
    guest.state = end.how === "lost" ? "gone" : "over";
    this.#settle();
  }

  #noteDeath(kind: Death["kind"], name: string, end: End): void {
    if (this.#stopping !== undefined) return;
    const reason = end.error ?? (end.how === "lost" ? "its slot is gone" : "it has ended");
    this.deaths.push({ kind, name, reason, isBug: end.how === "bug" || kind === "hypervisor" });
    this.#settle();
  }

  /** Ends a domain's worker, evens its access, and tells the hypervisor. */
  async #bury(guest: Guest): Promise<number> {
    guest.state = "gone";
    await guest.part.terminate();
    this.#settle();
    const line = lineOf(this.layout, guest.slot);
    const isOurs = at(this.words, line + LINE.DOMAIN) === guest.domid;
    if (!isOurs || load(this.words, line + LINE.STATE) !== SLOT_LIVE) return 0;
    leaveForDead(this.words, this.layout, guest.slot);
    return this.control(CONTROL_VCPU_DIED, guest.slot);
  }

  #settle(): void {
    const busy = this.#guests.some(({ isAwaited, state }) => isAwaited && state === "running");
    if (busy && this.deaths.length === 0) return;
    this.#isFinished = true;
    this.#finished.resolve();
  }

  /**
   * Resolves once every awaited program is over or its domain is gone, or when a part has died unasked: then `deaths`
   * says which. A domain created meanwhile is waited for by the next call.
   */
  finished(): Promise<void> {
    return this.#finished.promise;
  }

  /** A record of the control slot (CONTROL_* of shared/trap.ts); resolves to its return value. */
  control(op: number, ...args: readonly number[]): Promise<number> {
    return this.#control.call(op, args);
  }

  /**
   * What `read` makes of the bytes while the hypervisor stands still between two handlers. Guests and devices run on,
   * until they need it: what they may write themselves can change meanwhile.
   */
  async held<Result>(read: () => Result): Promise<Result> {
    store(this.words, MACHINE.HOLD, 1);
    try {
      await this.control(CONTROL_HOLD);
      return read();
    } finally {
      store(this.words, MACHINE.HOLD, 0);
      notify(this.words, MACHINE.HOLD);
    }
  }

  /** Number of findings of the whole-state audit, which the hypervisor runs between two handlers. */
  audit(): Promise<number> {
    return this.control(CONTROL_AUDIT);
  }

  /**
   * Kills the worker of domain `name` wherever it stands; the hypervisor then destroys the domain in stages. Resolves
   * when that has begun, to what the hypervisor answered.
   */
  kill(name: string): Promise<number> {
    const guest = this.#guests.findLast((one) => one.name === name && one.state !== "gone");
    if (guest === undefined) throw new Error(`no domain named ${name} runs`);
    return this.#bury(guest);
  }

  /** Creates the domain at `index` of the model and starts its program; resolves to its domid, or to -errno. */
  async create(index: number): Promise<number> {
    const { runs, vcpus } = item(this.model.domains, index);
    const loaded = runs && vcpus > 0 ? await this.#loadDomain(index) : undefined;
    const domid = await this.control(CONTROL_CREATE, index);
    if (domid < 0) {
      await loaded?.part.terminate();
      return domid;
    }
    await this.control(CONTROL_DOMCTL, XEN_DOMCTL_unpausedomain, domid);
    if (loaded !== undefined) {
      if (this.#isFinished) this.#finished = Promise.withResolvers<void>();
      this.#isFinished = false;
      this.#runDomain(index, domid, loaded.part);
    }
    return domid;
  }

  /**
   * Ends the machine: no worker plays a part in it afterwards, whatever it was doing. May be called at any time and more
   * than once.
   */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    this.#options.signal?.removeEventListener("abort", this.#abort);
    store(this.words, MACHINE.STOP, 1);
    wakeHypervisor(this.words);
    for (let slot = 0; slot < this.model.limits.slots; slot++) {
      raiseEvent(this.words, this.layout, slot);
    }
    // After a clean end the workers are worth keeping; after any other nobody knows what they are in the middle of.
    const isClean =
      this.#isFinished && this.deaths.length === 0 && this.#options.signal?.aborted !== true;
    await Promise.all(this.#parts.map((part) => (isClean ? part.retire() : part.terminate())));
    this.#hypervisorGone.reject(new Error("the machine is stopped"));
    this.#finished.resolve();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
