// The quick form of the fuzzer: the same commands as `npm run fuzz`, found and shortened by fast-check. A failure prints
// seed and path; put them into the parameters of fc.assert to see it again.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { anyCommand, type Command } from "./commands.ts";
import { Episode } from "./episode.ts";
import { type Hypervisor, Machines, SHAPES } from "./machine.ts";

const SEED = 20_261_125;
const RUNS = 20;
const COMMANDS_MAX = 300;

const machines = new Machines();

/** A command as fast-check runs it: on nothing but the machine, in any state. */
class FuzzCommand implements fc.Command<object, Episode> {
  readonly #command: Command;
  #text = "not run";

  constructor(command: Command) {
    this.#command = command;
  }
  check(): boolean {
    return true;
  }
  run(_model: object, episode: Episode): void {
    try {
      this.#text = episode.run(this.#command);
    } catch (error) {
      this.#text = episode.world.now;
      throw error;
    }
  }
  toString(): string {
    return this.#text;
  }
}

const commands = fc.commands([anyCommand.map((command) => new FuzzCommand(command))], {
  maxCommands: COMMANDS_MAX,
  size: "max",
});

function fuzz(hypervisor: Hypervisor): void {
  const property = fc.property(commands, fc.nat({ max: SHAPES - 1 }), (list, shape) => {
    const episode = new Episode(machines.image(hypervisor, shape));
    fc.modelRun(() => ({ model: {}, real: episode }), list);
    episode.end();
  });
  fc.assert(property, { seed: SEED, numRuns: RUNS });
}

describe("whatever guests, devices and the toolstack ask for, in any order", () => {
  test("the strict hypervisor stays consistent, answers, and leaves no trace of what it refuses", () => {
    fuzz("strict");
  });

  test("the faithful hypervisor does too, but for the holes that the recorded Xen has", () => {
    fuzz("faithful");
  });

  test("the operations are the same for the same seed", () => {
    const texts = [1, 2].map(() =>
      fc
        .sample(fc.array(anyCommand, { minLength: 40, maxLength: 40 }), { seed: 3, numRuns: 1 })
        .map((list) => {
          const episode = new Episode(machines.image("strict", 1));
          return list.map((command) => episode.run(command)).join("\n");
        }),
    );
    expect(texts[0]).toEqual(texts[1]);
  });
});
