/**
 * A focused story under the portfolio: what one schedule costs with everything that belongs to it (a fresh machine, its programs,
 * the checks), and what one of its steps does.
 */
import { type OpenExploration, openExploration } from "../../explore/exploration.ts";
import { revokeStory } from "../../explore/stories/grants.ts";
import { prepareStory } from "../../explore/story.ts";
import { assert } from "../../shared/assert.ts";
import type { Job } from "../worker-api.ts";

const SEED = 7;

function exploration(): OpenExploration {
  const limits = { schedules: 0, seed: SEED, strategy: "portfolio" };
  const open = openExploration(prepareStory(revokeStory), limits);
  assert(open !== undefined, "the portfolio is a strategy");
  return open;
}

const sound = (open: OpenExploration): void =>
  assert(open.result().failure === undefined, "the machine is sound");

/** One operation is one schedule. */
export function schedules(): Job {
  const open = exploration();
  return { run: (turns) => void open.go(turns), end: () => sound(open) };
}

/** One operation is one step of whatever schedules there are. */
export function steps(): Job {
  const open = exploration();
  let wanted = 0;
  return {
    run: (turns) => {
      wanted += turns;
      while (open.result().steps < wanted) open.go(1);
    },
    end: () => sound(open),
  };
}
