/**
 * A look at a machine while it runs on threads: its hypervisor stands still between two records meanwhile, guests and
 * devices do not. Rule: whatever happens, no worker is left afterwards.
 * Ours; as with a debug key of Xen, what guests may write themselves can be in the middle of a change.
 */
import type { ThreadedMachine } from "../platform/threads.ts";
import { at } from "../shared/assert.ts";
import { MACHINE } from "../shared/layout.ts";
import { threadedMachine } from "./engine-threads.ts";
import { UsageError } from "./exit-codes.ts";
import type { Prepared } from "./prepare.ts";
import type { View } from "./view.ts";

/** How often the main thread looks how far the hypervisor has come. */
const LOOK_EVERY_MS = 1;

interface Look<Result> {
  /** Records after which to look, or a little later; undefined: once all programs are over. */
  readonly record: number | undefined;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  read(view: View): Result;
}

/** What `read` says of the machine at that moment, and what had gone wrong by then, if anything. */
export async function lookAtThreads<Result>(
  prepared: Prepared,
  look: Look<Result>,
): Promise<{ readonly result: Result; readonly trouble: string | undefined }> {
  const machine = await threadedMachine(prepared, look.signal);
  try {
    machine.start();
    const trouble = await waitFor(machine, look);
    // Without its hypervisor nothing changes any more.
    const isGone = machine.deaths.some(({ kind }) => kind === "hypervisor");
    const read = (): Result => look.read(machine);
    return { result: isGone ? read() : await machine.held(read), trouble };
  } finally {
    await machine.stop();
  }
}

async function waitFor<Result>(
  machine: ThreadedMachine,
  { record, timeoutMs, signal }: Look<Result>,
): Promise<string | undefined> {
  const deadline = performance.now() + timeoutMs;
  let isOver = false;
  void machine.finished().then(() => {
    isOver = true;
  });
  for (;;) {
    const now = at(machine.words, MACHINE.STEP);
    const [death] = machine.deaths;
    if (record !== undefined && now >= record) return undefined;
    if (death !== undefined) return `${death.kind} ${death.name} died: ${death.reason}`;
    if (isOver) {
      if (record === undefined) return undefined;
      throw new UsageError(
        `record ${record} is beyond the end of the run, which was record ${now} this time`,
      );
    }
    if (signal.aborted) return "interrupted";
    if (performance.now() > deadline) return `not over after ${timeoutMs} ms`;
    await new Promise((wake) => setTimeout(wake, LOOK_EVERY_MS));
  }
}
