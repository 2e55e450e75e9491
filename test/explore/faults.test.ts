// Every fault at every point of every focused story: whatever is killed, paused or woken, the machine stays sound.
import { describe, expect, it } from "vitest";
import { explore } from "../../explore/exploration.ts";
import { faultsOf, withFault } from "../../explore/faults.ts";
import { STORIES } from "../../explore/stories/catalogue.ts";
import { prepareStory } from "../../explore/story.ts";

const cases = STORIES.flatMap((story) =>
  faultsOf(story).map((fault) => [`${story.name} + ${fault.name}`, story, fault] as const),
);

describe("a fault at every point of the calm run", () => {
  it.each(cases)("%s", (_, story, fault) => {
    const prepared = prepareStory(withFault(story, fault));
    const every = explore(prepared, { schedules: 5_000, seed: 1, strategy: "faults" });
    expect(every?.failure?.findings).toBeUndefined();
    expect(every?.finished).toBe(true);
    const some = explore(prepared, { schedules: 150, seed: 1, strategy: "portfolio" });
    expect(some?.failure?.findings).toBeUndefined();
  });
});
