/** A story that a bug in the sources shows itself in only with a fault, loaded with the bug or without. */
import { copyOp, gnttabBatchCopy } from "../../domains/grant-copy.ts";
import { loadWord, storeWord } from "../../domains/memory.ts";
import { explore } from "../../explore/exploration.ts";
import { faultsOf, withFault } from "../../explore/faults.ts";
import { wrong } from "../../explore/raw-guest.ts";
import { B, RAM, smallModel } from "../../explore/stories/machines.ts";
import { prepareStory, type Story } from "../../explore/story.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { Gfn } from "../../shared/units.ts";

const PIECES = 3;

/** A batch that is over before anybody wants it to let go. */
const smallBatchStory: Story = {
  name: "small-batch",
  about: "B copies three pieces in one batch",
  model: () => smallModel(),
  tasks: [
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        const [source, dest] = [Gfn(RAM + 12), Gfn(RAM + 13)];
        yield* storeWord(guest.cpu, source * PAGE_SIZE, 7);
        const ops = Array.from({ length: PIECES }, (_, i) =>
          copyOp({ gfn: source, offset: 0 }, { gfn: dest, offset: 4 * i }, 4),
        );
        yield* gnttabBatchCopy(guest.caller, ops);
        const last = yield* loadWord(guest.cpu, dest * PAGE_SIZE + 4 * (PIECES - 1));
        if (last !== 7) wrong(guest, "I-31", "the last piece of a batch was not copied");
      },
    },
  ],
};

/** What the enumeration of a fault finds in it; without a name, what no fault finds. */
export function findingsWith(fault?: string): readonly string[] {
  const word = faultsOf(smallBatchStory).find(({ name }) => name === fault);
  const story = word === undefined ? smallBatchStory : withFault(smallBatchStory, word);
  const strategy = word === undefined ? "portfolio" : "faults";
  const found = explore(prepareStory(story), { schedules: 200, seed: 1, strategy });
  return found?.failure?.findings ?? [];
}
