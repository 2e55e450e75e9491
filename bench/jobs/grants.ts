/**
 * Map and unmap of grants through the channel, in batches: two hypercalls with their argument structures published to
 * guest memory and read back.
 */
import { checkBatch, grantBatch, grantPages, publishMaps, publishUnmaps } from "../grant-batch.ts";
import { GRANTER, MAPPER } from "../machine.ts";
import { pushRecord } from "../raw-guest.ts";
import { guestOn } from "../threaded-guest.ts";
import type { Job, Setup } from "../worker-api.ts";

export function throughChannel(setup: Setup): Job {
  const { batch: count = 1 } = setup;
  const mapper = guestOn(setup, MAPPER).guest;
  const granter = guestOn(setup, GRANTER).guest;
  grantPages(granter, mapper.domid, count);
  const batch = grantBatch(mapper, granter, count);
  return {
    per: count,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) {
        publishMaps(batch);
        pushRecord(mapper, batch.mapCall);
        publishUnmaps(batch);
        pushRecord(mapper, batch.unmapCall);
      }
    },
    end: () => checkBatch(batch),
  };
}
