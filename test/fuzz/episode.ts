/** An episode: one fresh machine, a list of commands with the audit after each, and the end of every domain. */

import type { MachineImage } from "../../explore/image.ts";
import { audit } from "../../hypervisor/audit.ts";
import { scratchPages } from "../../hypervisor/iommu-context.ts";
import { XEN_DOMCTL_destroydomain } from "../../shared/abi/domctl.ts";
import { at } from "../../shared/assert.ts";
import { MACHINE } from "../../shared/layout.ts";
import { CONTROL_DOMCTL, hypercallTrap, setRecord } from "../../shared/trap.ts";
import { type Command, perform } from "./commands.ts";
import { Refusals } from "./refusal.ts";
import { CONTROL_SLOT, Violation, World } from "./world.ts";

/** What went wrong, and after which command (counted from 0; -1: at the end of all domains). */
export interface Failure {
  readonly error: unknown;
  readonly index: number;
  readonly log: readonly string[];
}

export class Episode {
  readonly world: World;
  readonly #refusals: Refusals;

  constructor(image: MachineImage) {
    this.world = new World(image);
    this.#refusals = new Refusals(this.world);
  }

  /** One command and the audit; throws what it finds. */
  run(command: Command): string {
    const text = perform(this.world, this.#refusals, command);
    this.world.check();
    return text;
  }

  /** Kills everybody; of nobody may anything be left. */
  end(): void {
    const { world } = this;
    world.settle();
    for (const domid of world.domains()) {
      const { record } = hypercallTrap();
      setRecord(record, CONTROL_DOMCTL, [XEN_DOMCTL_destroydomain, domid]);
      world.channel(CONTROL_SLOT).push(record);
      world.settle();
      world.check();
    }
    const { xen } = world;
    const left = world.domains();
    if (left.length > 0) throw new Violation(`domain ${left.join(", ")} cannot be got rid of`);
    const free = at(xen.words, MACHINE.XEN_HEAP_FREE);
    const all = xen.model.limits.xenHeapPages - scratchPages(xen);
    if (free !== all) throw new Violation(`${all - free} pages of the Xen heap are lost`);
    const findings = audit(xen);
    if (findings.length > 0) throw new Violation(findings.join("; "));
  }
}

/** Runs a whole list; undefined: all went well. */
export function runEpisode(image: MachineImage, commands: readonly Command[]): Failure | undefined {
  const episode = new Episode(image);
  const log: string[] = [];
  let index = 0;
  try {
    for (; index < commands.length; index++) {
      const command = commands[index];
      if (command !== undefined) log.push(episode.run(command));
    }
    index = -1;
    episode.end();
    return undefined;
  } catch (error) {
    return { error, index, log: [...log, episode.world.now] };
  }
}

/** The shortest list found that still fails with the same kind of error: pieces are left out, large ones first. */
export function shorten(
  image: MachineImage,
  commands: readonly Command[],
  failure: Failure,
): { readonly commands: readonly Command[]; readonly failure: Failure } {
  let best = failure.index < 0 ? commands : commands.slice(0, failure.index + 1);
  let last = failure;
  const sameKind = (found: Failure): boolean =>
    kindOf(found.error) === kindOf(failure.error) && found.index < 0 === failure.index < 0;
  for (let size = Math.ceil(best.length / 2); size >= 1; size = Math.floor(size / 2)) {
    for (let from = 0; from < best.length; ) {
      const shorter = [...best.slice(0, from), ...best.slice(from + size)];
      const found = runEpisode(image, shorter);
      if (found === undefined || !sameKind(found)) {
        from += size;
        continue;
      }
      best = found.index < 0 ? shorter : shorter.slice(0, found.index + 1);
      last = found;
    }
  }
  return { commands: best, failure: last };
}

/** The message without its numbers: what a shorter run must still show. */
const kindOf = (error: unknown): string =>
  error instanceof Error ? `${error.name} ${error.message.replace(/\d+/g, "#").slice(0, 60)}` : "";
