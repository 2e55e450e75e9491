/**
 * The catalogue of faults: each row of stress spec section 5, what happens, and where it is let loose.
 *
 *   fault      by a word of faults.ts, on every story that has room for it
 *   schedule   by every strategy: it is an order of steps
 *   story      by a story of its own
 *   test       by a test, because a raw program has no part in it
 *   none       not on this machine
 * Ours.
 */
export interface FaultRow {
  readonly id: string;
  /** What happens. */
  readonly sentence: string;
  readonly how: "fault" | "schedule" | "story" | "test" | "none";
  /** Words of faults, names of stories, paths of tests; or, for a schedule and for none, why. */
  readonly where: readonly string[];
}

const row = (
  id: string,
  sentence: string,
  how: FaultRow["how"],
  ...where: readonly string[]
): FaultRow => ({ id, sentence, how, where });

const THREADS = "test/threads.test.ts";

export const FAULTS: readonly FaultRow[] = [
  row("F-01", "a domain is killed between hypercalls", "fault", "kill"),
  row("F-02", "a domain is killed inside a hypercall, before its commit", "fault", "kill"),
  row("F-03", "a domain is killed after the commit, before the return", "fault", "kill"),
  row("F-04", "a domain is killed at a gap of a batch", "fault", "kill"),
  row("F-05", "a mapper is killed with mappings of a live granter", "fault", "kill"),
  row("F-06", "a granter is killed while others map its pages", "fault", "kill"),
  row("F-07", "both ends are killed at once", "fault", "kill A and"),
  row("F-08", "a backend is killed with requests in flight", "story", "ring-sleep", "reconnect"),
  row("F-09", "a frontend is killed with requests in flight", "test", THREADS),
  row("F-10", "a worker is really terminated", "test", THREADS),
  row("F-11", "the n-th allocation finds nothing", "fault", "fail allocation"),
  row("F-12", "no allocation finds anything any more", "fault", "no memory"),
  row("F-13", "a mapper gets no handle, for a while", "fault", "no handles for"),
  row("F-14", "a domain gets no port, for a while", "fault", "no ports for"),
  row("F-15", "a domain's free table pages are gone", "fault", "no table pages for"),
  row("F-16", "the next wake-up of a domain is lost", "fault", "lose wake-up of"),
  row("F-17", "a wake-up is late", "schedule", "whoever is woken moves when he is chosen"),
  row("F-18", "a wake-up comes twice, or for nothing", "fault", "nudge"),
  row("F-19", "a domain sends event after event", "fault", "storm from"),
  row("F-20", "a sleeper wakes without cause", "fault", "nudge"),
  row(
    "F-21",
    "a flush is over late",
    "schedule",
    "it is over when the walker that it waits for is chosen",
  ),
  row("F-22", "the IOMMU's queue is full", "none", "it has room for every slot's flush"),
  row(
    "F-23",
    "a device bursts during unmap, detach and kill",
    "story",
    "kill-device-owner",
    "attach",
  ),
  row("F-24", "a guest rewrites an entry that grants", "fault", "rewrite entry of"),
  row("F-25", "a guest rewrites a request that it has published", "story", "ring-request"),
  row("F-26", "a guest sets a ring's index to anything", "story", "ring-index"),
  row("F-27", "a backend answers more than was asked", "story", "ring-response"),
  row("F-28", "arguments change or go while a call reads them", "fault", "spoil arguments of"),
  row("F-29", "a guest names what does not exist", "fault", "nonsense from"),
  row("F-30", "every batch lets go after each element", "fault", "let go always"),
  row(
    "F-31",
    "a lane stands still",
    "none",
    "there is one lane; a paused domain is the word pause",
  ),
  row(
    "F-32",
    "ports are reset, pages moved, the table's version switched during other calls",
    "fault",
    "reset ports of",
    "move pages of",
    "switch version of",
  ),
  row("F-33", "a number is used again as soon as its domain is gone", "fault", "reuse"),
  row("F-34", "the clock jumps", "fault", "clock jumps"),
  row("F-35", "a domain is killed while it is being killed", "fault", "kill A twice"),
];
