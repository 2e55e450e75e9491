/**
 * Strategies by name, and the mixture of them that is used when nobody says otherwise: half the runs by `pct` of cycling
 * depth, the rest shared by the walks, the enumeration of faults among them until it is finished.
 *
 * Rule: which strategy a run follows is decided by its number, and the run by its seed, so that either can be made again.
 * Ours; stress spec section 2.4: no scenario is tested by one strategy alone.
 */
import { item } from "../../shared/assert.ts";
import type { MachineImage } from "../image.ts";
import { randomScheduler } from "../random.ts";
import { roundRobin } from "../round-robin.ts";
import type { Scheduler } from "../scheduler.ts";
import type { Machine } from "../state.ts";
import {
  delaySearch,
  type FaultTasks,
  faultSearch,
  preemptSearch,
  type Search,
} from "./bounded.ts";
import { dporSearch } from "./dpor.ts";
import { type GuidedSearch, guidedSearch } from "./guided.ts";
import { pctScheduler } from "./pct.ts";
import { posScheduler, starveScheduler, urwScheduler } from "./walks.ts";

/** What a few runs have shown of a story: its contested choices, steps of each task (by task + 1), and its faults' tasks. */
export interface Shape {
  readonly points: number;
  readonly steps: readonly number[];
  readonly faults: readonly FaultTasks[];
}

/** The next run of a strategy. */
export interface Turn {
  readonly scheduler: Scheduler;
  /** Looks at the run, if the strategy learns from it. */
  readonly watch?: (machine: Machine, image: MachineImage) => void;
  /** Name that asks for this run again: `pct(2)`. */
  readonly strategy: string;
}

export interface Strategy {
  readonly name: string;
  /** Undefined: the enumeration is finished. */
  next(run: number): Turn | undefined;
  /** Whether every run that there is has been made; undefined: there is no end of them. */
  finished(): boolean | undefined;
}

export const STRATEGY_NAMES: readonly string[] = [
  "portfolio",
  "random",
  "urw",
  "pos",
  "pct(2)",
  "fair-pct(2)",
  "starve",
  "delay(2)",
  "preempt(2)",
  "dpor",
  "guided",
  "faults",
  "round-robin",
];

const PCT_DEPTHS: readonly number[] = [1, 2, 2, 3, 3, 4];
const REST: readonly string[] = ["random", "urw", "pos", "starve", "fair-pct(2)"];

/** A walk by name, or undefined: the name is none, or one of an enumeration. */
export function walkNamed(name: string, shape: Shape): Scheduler | undefined {
  const { base, argument } = parsed(name);
  const { points } = shape;
  switch (base) {
    case "random":
      return randomScheduler(argument ?? 0);
    case "urw":
      return urwScheduler(shape.steps);
    case "pos":
      return posScheduler();
    case "starve":
      return starveScheduler(points);
    case "pct":
      return pctScheduler({ depth: argument ?? 2, points });
    case "fair-pct":
      return pctScheduler({ depth: argument ?? 2, points, fairAfter: 2 * points });
    case "round-robin":
      return roundRobin();
    default:
      return undefined;
  }
}

function parsed(name: string): { readonly base: string; readonly argument: number | undefined } {
  const match = /^([a-z-]+?)(?:\((\d+)\))?$/.exec(name);
  const argument = match?.[2];
  return {
    base: match?.[1] ?? "",
    argument: argument === undefined ? undefined : Number(argument),
  };
}

/** An enumeration by name, or undefined. */
function searchNamed(name: string, shape: Shape): Search | undefined {
  const { base, argument } = parsed(name);
  if (base === "delay") return delaySearch(argument ?? 2);
  if (base === "preempt") return preemptSearch(argument ?? 2);
  return base === "faults" ? faultSearch(shape.faults) : undefined;
}

/** A strategy by name; `depth` makes the portfolio's pct runs all of this depth. Undefined: nobody knows the name. */
export function strategyNamed(name: string, shape: Shape, depth?: number): Strategy | undefined {
  if (name === "portfolio") return portfolio(shape, depth);
  const walk = walkNamed(name, shape);
  if (walk !== undefined) {
    const turn = { scheduler: walk, strategy: name };
    return { name, next: () => turn, finished: () => undefined };
  }
  if (name === "dpor") return dporStrategy();
  if (name === "guided") return guidedStrategy(shape);
  const search = searchNamed(name, shape);
  return search === undefined ? undefined : enumeration(name, search);
}

function dporStrategy(): Strategy {
  const search = dporSearch();
  let over = false;
  return {
    name: "dpor",
    next() {
      const scheduler = search.next();
      if (scheduler === undefined) over = true;
      return scheduler && { scheduler, strategy: "dpor", watch: search.watch };
    },
    finished: () => over,
  };
}

function guidedStrategy(shape: Shape): Strategy {
  const search = guided(shape);
  return {
    name: "guided",
    next: () => ({ scheduler: search.next(), strategy: "guided", watch: search.watch }),
    finished: () => undefined,
  };
}

/** Every task that has moved in a measured run. */
function guided({ steps, points }: Shape): GuidedSearch {
  const tasks = steps.flatMap((count, task) => (count > 0 ? [task - 1] : []));
  return guidedSearch(tasks, points);
}

function enumeration(name: string, search: Search): Strategy {
  let over = false;
  return {
    name,
    next() {
      const scheduler = search.next();
      if (scheduler === undefined) over = true;
      return scheduler === undefined ? undefined : { scheduler, strategy: name };
    },
    finished: () => over,
  };
}

function portfolio(shape: Shape, depth: number | undefined): Strategy {
  const faults = shape.faults.length === 0 ? undefined : faultSearch(shape.faults);
  const corpus = guided(shape);
  const walks = new Map<string, Scheduler>();
  const walk = (strategy: string): Turn => {
    const scheduler = walks.get(strategy) ?? walkNamed(strategy, shape) ?? roundRobin();
    walks.set(strategy, scheduler);
    return { scheduler, strategy };
  };
  return {
    name: "portfolio",
    next(run) {
      const turn = Math.floor(run / 2);
      if (run % 2 === 0) return walk(`pct(${depth ?? item(PCT_DEPTHS, turn % PCT_DEPTHS.length)})`);
      const place = turn % (REST.length + 2);
      if (place < REST.length) return walk(item(REST, place));
      if (place === REST.length) {
        return { scheduler: corpus.next(), strategy: "guided", watch: corpus.watch };
      }
      const scheduler = faults?.next();
      return scheduler === undefined ? walk("random") : { scheduler, strategy: "faults" };
    },
    finished: () => undefined,
  };
}
