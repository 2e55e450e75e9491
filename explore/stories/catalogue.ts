/** The focused stories by name: what `gfn2mfn explore` knows besides scenarios, and what the mutants are shown with. */
import type { Story } from "../story.ts";
import { adversaryStory } from "./adversary.ts";
import { reconnectStory } from "./backend.ts";
import { BOOKKEEPING_STORIES } from "./bookkeeping.ts";
import { killDeviceOwnerStory, moveRangeStory } from "./devices.ts";
import { expandStory, portsFullStory, resetStory, sendStory, unmaskStory } from "./events.ts";
import { fifoUnmaskStory } from "./fifo.ts";
import {
  copyMappedStory,
  copyPinnedStory,
  emptyUnmapStory,
  flipReadonlyStory,
  partialUnmapStory,
  recycleStory,
  refusedStory,
  revokeStory,
  rewriteStory,
} from "./grants.ts";
import { stormStory } from "./kernels.ts";
import {
  dyingAcquiresStory,
  infoStory,
  killGranterStory,
  killMapperStory,
  lifeStory,
  manyMappingsStory,
  reuseStory,
  scrubStory,
} from "./life.ts";
import {
  batchCopyStory,
  noTableStory,
  placeTwiceStory,
  poolStory,
  quotaStory,
  refusedResourceStory,
  splitBlockStory,
} from "./pages.ts";
import { halvesRaceStory, halvesStory } from "./pv.ts";
import {
  attachStory,
  pinnedTableStory,
  shrinkStory,
  statusFramesStory,
  stealStory,
  transferStory,
} from "./pv-pages.ts";

import {
  ringIndexStory,
  ringPublishStory,
  ringRequestStory,
  ringResponseStory,
  ringSleepStory,
} from "./ring.ts";
import { ringAnswersStory } from "./ring-answers.ts";
import { collapseStory, liveEntryStory, untrackedStory } from "./tables.ts";

import {
  movePageStory,
  placeStatusStory,
  statusFreedStory,
  transitiveStory,
  versionUnderMapStory,
} from "./x86.ts";

export const STORIES: readonly Story[] = [
  revokeStory,
  copyMappedStory,
  copyPinnedStory,
  flipReadonlyStory,
  rewriteStory,
  refusedStory,
  partialUnmapStory,
  recycleStory,
  emptyUnmapStory,
  placeTwiceStory,
  quotaStory,
  noTableStory,
  batchCopyStory,
  refusedResourceStory,
  poolStory,
  killMapperStory,
  killGranterStory,
  manyMappingsStory,
  scrubStory,
  dyingAcquiresStory,
  lifeStory,
  sendStory,
  unmaskStory,
  fifoUnmaskStory,
  resetStory,
  portsFullStory,
  ringSleepStory,
  ringIndexStory,
  ringAnswersStory,
  ringResponseStory,
  ringRequestStory,
  ringPublishStory,
  stormStory,
  reconnectStory,
  collapseStory,
  liveEntryStory,
  untrackedStory,
  movePageStory,
  statusFreedStory,
  versionUnderMapStory,
  splitBlockStory,
  killDeviceOwnerStory,
  adversaryStory,
  ...BOOKKEEPING_STORIES,
  halvesStory,
  halvesRaceStory,
  reuseStory,
  transferStory,
  stealStory,
  pinnedTableStory,
  statusFramesStory,
  attachStory,
  shrinkStory,
  expandStory,
  infoStory,
  moveRangeStory,
  placeStatusStory,
  transitiveStory,
];

export const storyNamed = (name: string): Story | undefined =>
  STORIES.find((story) => story.name === name);
