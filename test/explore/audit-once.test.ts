// What an exploration does not judge twice, and how it is noticed when that was wrong.
import { describe, expect, it } from "vitest";
import { explore } from "../../explore/exploration.ts";
import { type MachineImage, restoreImage } from "../../explore/image.ts";
import { roundRobin } from "../../explore/round-robin.ts";
import type { Machine } from "../../explore/state.ts";
import { stateKey } from "../../explore/state-key.ts";
import { expandStory } from "../../explore/stories/events.ts";
import { recycleStory, revokeStory } from "../../explore/stories/grants.ts";
import { A, B } from "../../explore/stories/machines.ts";
import { stealStory } from "../../explore/stories/pv-pages.ts";
import { prepareStory, runStory } from "../../explore/story.ts";
import { grantFrame } from "../../hypervisor/active-entry.ts";
import { wordFrame } from "../../hypervisor/event-fifo-array.ts";
import { frameOwner, isXenHeap } from "../../hypervisor/frame-table.ts";
import { addDomainField, domainField } from "../../hypervisor/xen.ts";
import { EVTCHN_FIFO_BUSY } from "../../shared/abi/event-channel.ts";
import { at } from "../../shared/assert.ts";
import { DOM, LINE, lineOf } from "../../shared/layout.ts";
import { TLB_ENTRIES } from "../../shared/limits.ts";
import { FrameIndex } from "../../shared/units.ts";

describe("an audit that is not made twice", () => {
  let isWrong = false;
  /** Miscounts handles at its end, where the audit is still to come. */
  const story = {
    ...revokeStory,
    judge: ({ xen }: Machine) => {
      if (isWrong) addDomainField(xen, B, DOM.MAPPINGS, 1);
      return [];
    },
  };
  const options = { seed: 1, scheduler: roundRobin() };

  it("finds what nobody has judged", () => {
    isWrong = true;
    const { outcome } = runStory(prepareStory(story), options);
    expect(outcome.findings[0]).toMatch(/^I-14: domain 2 counts 1 live handles, 0 exist/);
  });

  it("passes over a way that has led to a sound state, and says D-3 when it is made anew and that was wrong", () => {
    const prepared = prepareStory(story);
    const verdicts = [false, true].map((wrong) => {
      isWrong = wrong;
      return runStory(prepared, options).outcome.verdict;
    });
    expect(verdicts).toEqual(["finished", "finished"]);
    const { outcome } = runStory(prepared, { ...options, everyStep: true });
    expect(outcome.findings[0]).toMatch(/^D-3: .* I-14: domain 2 counts 1 live handles/);
  });

  it("is made for each state once, however many ways lead there", () => {
    const prepared = prepareStory(recycleStory);
    explore(prepared, { schedules: 255, seed: 1, strategy: "random" });
    const ways = prepared.sound.ways.filter((way) => way !== 0).length;
    expect(prepared.sound.states.size).toBeLessThan(5);
    expect(ways).toBeGreaterThan(50);
  });
});

/** The name after a change of a machine that is as in the image. */
function nameIn(image: MachineImage, change: (image: MachineImage) => void): number {
  const xen = restoreImage(image);
  change(image);
  return stateKey(image, xen);
}

describe("the name of a state", () => {
  const { image } = prepareStory(revokeStory);
  const nameAfter = (change: (image: MachineImage) => void): number => nameIn(image, change);
  const before = nameAfter(() => {});
  const table = grantFrame(restoreImage(image), B, 0);

  it("changes with a word of the hypervisor's, and with one of a table", () => {
    const names = [
      nameAfter(({ words, layout }) => void words.fill(1, layout.actPin + 5, layout.actPin + 6)),
      nameAfter(({ words, layout }) => void words.fill(1, layout.actPin + 6, layout.actPin + 7)),
      nameAfter(({ memory }) => memory.store(table, 64, 1)),
      nameAfter(({ memory }) => memory.store(table, 68, 1)),
      nameAfter(({ memory }) => memory.store(table, 64, 2)),
    ];
    expect(new Set([before, ...names]).size).toBe(6);
  });

  it("is the same for a word that was written and is as before, and for a page that was zero", () => {
    expect(nameAfter(({ memory }) => memory.store(table, 64, memory.load(table, 64)))).toBe(before);
    const empty = FrameIndex(image.frames.indexOf(undefined));
    expect(nameAfter(({ memory }) => memory.zero(empty))).toBe(before);
    const root = FrameIndex(domainField(restoreImage(image), B, DOM.P2M_ROOT));
    expect(nameAfter(({ memory }) => memory.zero(root))).not.toBe(before);
  });

  it("says nothing of what a guest has in its own page", () => {
    const xen = restoreImage(image);
    const own = image.frames.findIndex(
      (content, frame) =>
        content === undefined && frameOwner(xen, frame) === B && !isXenHeap(xen, frame),
    );
    expect(nameAfter(({ memory }) => memory.store(FrameIndex(own), 0, 1))).toBe(before);
  });

  it("changes with what a PV guest's vCPU has cached, as long as it would use it", () => {
    const pv = prepareStory(stealStory).image;
    const cached = (value: number, generation: number): number =>
      nameIn(pv, ({ words, layout, xen }) => {
        const slot = domainField(xen, B, DOM.SLOT);
        const line = lineOf(layout, slot);
        words[line + LINE.INSIDE_GENERATION] = at(words, line + LINE.GENERATION) + generation;
        words[layout.tlbTags + slot * TLB_ENTRIES + 5] = 5;
        words[layout.tlbValues + slot * TLB_ENTRIES + 5] = value;
      });
    expect(new Set([cached(0, 0), cached(8 * 99 + 1, 0), cached(8 * 99 + 3, 0)]).size).toBe(3);
    expect(cached(8 * 99 + 1, -1)).toBe(cached(8 * 99 + 3, -1));
  });

  it("changes with the queues that a guest's event array holds", () => {
    const [first] = expandStory.tasks;
    if (first === undefined) throw new Error("A adds a page");
    const setUp = [...(expandStory.setUp ?? []), { ...first, name: "A" }];
    const fifo = prepareStory({ ...expandStory, setUp }).image;
    const frame = wordFrame(restoreImage(fifo), A, 1);
    if (frame === undefined) throw new Error("the page has been added");
    const plain = nameIn(fifo, () => {});
    expect(nameIn(fifo, ({ memory }) => memory.or(frame, 4, EVTCHN_FIFO_BUSY))).not.toBe(plain);
  });
});
