/** Memory as a walker meets it that is slow: somebody else comes between the two words of an entry that it reads. */
import { MachineMemory } from "../../shared/mem.ts";
import type { FrameIndex } from "../../shared/units.ts";

/** The machine's memory under a walker; between the two words of one entry, somebody else comes first. */
export class SlowMemory extends MachineMemory {
  readonly #real: MachineMemory;
  readonly #second: number;
  #between: (() => void) | undefined;

  constructor(real: MachineMemory, second: number, between: () => void) {
    super(new ArrayBuffer(0));
    this.#real = real;
    this.#second = second;
    this.#between = between;
  }

  override peek(frame: FrameIndex, offset: number): number {
    const between = frame * 4096 + offset === this.#second ? this.#between : undefined;
    if (between !== undefined) this.#between = undefined;
    between?.();
    return this.#real.peek(frame, offset);
  }
  override peekAgain(frame: FrameIndex, offset: number): number {
    return this.#real.peekAgain(frame, offset);
  }
}
