/**
 * Steps that stand for many calls: maps and unmaps in a row, and maps or event array pages until one is refused.
 *
 * Rule: the calls are laid out as a step of one map would be; what is written down is how many went well and how
 * the last one ended.
 */
import type { Actor } from "./conform-actor.ts";
import { replayCall } from "./conform-call.ts";
import type { Fields, Value } from "./conform-format.ts";
import { numberValue, type Replay } from "./conform-replay.ts";

/** Calls of one repeat: above Xen's bounds on pins and on the handles of a small maptrack. */
const REPEAT_MAX = 4096;

interface Mapped {
  readonly status: number;
  readonly handle: number;
}

/** One writable map of a granter's reference at an address. */
function map(replay: Replay, actor: Actor, granter: number, ref: number, address: number): Mapped {
  const args = [{ host_addr: address, flags: "host_map", ref, dom: granter }];
  const out = grantCall(replay, actor, "map_grant_ref", args, { status: 0, handle: 0 });
  return { status: Number(out.status), handle: Number(out.handle) };
}

function unmap(replay: Replay, actor: Actor, handle: number, address: number): void {
  const args = [{ host_addr: address, dev_bus_addr: 0, handle }];
  grantCall(replay, actor, "unmap_grant_ref", args, { status: 0 });
}

function grantCall(
  replay: Replay,
  actor: Actor,
  cmd: string,
  args: readonly Value[],
  outputs: Fields,
): Fields {
  const fields: Fields = { call: "grant_table_op", cmd, count: 1, args, ret: 0, out: [outputs] };
  const got = replayCall(replay, actor, { i: 0, by: actor.name, fields });
  const out = got.out;
  return (Array.isArray(out) ? ((out as readonly Value[])[0] ?? {}) : {}) as Fields;
}

const EXPAND = /^expand_array with one more RAM page/;
/** First of the pages for an event array: RAM that no recording names otherwise. */
const ARRAY_PAGE = 256;

/** Whether a repeat of this kind can be carried out. */
export const canRepeat = (what: string): boolean =>
  what.startsWith("map_grant_ref") || EXPAND.test(what);

/** `repeat`: until the call is refused. */
export function repeatCalls(replay: Replay, actor: Actor, fields: Fields): Record<string, Value> {
  if (!EXPAND.test(String(fields.what))) return repeatMaps(replay, actor, fields);
  for (let i = 0; i < REPEAT_MAX; i++) {
    const args = { array_gfn: actor.places.f0 + ARRAY_PAGE + i };
    const step = { call: "event_channel_op", cmd: "expand_array", args };
    const { ret } = replayCall(replay, actor, { i: 0, by: actor.name, fields: step });
    if (ret !== 0) return { succeeded: i, last_ret: ret ?? null };
  }
  return { succeeded: REPEAT_MAX };
}

/** loop_map_unmap, and the two forms of repeat that are about maps. */
export function repeatMaps(replay: Replay, actor: Actor, fields: Fields): Record<string, Value> {
  if (fields.do === "loop_map_unmap") return loop(replay, actor, fields);
  const what = String(fields.what);
  const same = /of (\$(\w+)\.r(\d+)) at \$(\w+)\.v0/.exec(what);
  if (same !== null) {
    const ref = numberValue(replay, same[1]);
    return untilRefused(replay, actor, fields, numberValue(replay, `$${same[2] ?? ""}`), () => ref);
  }
  const range = /of refs (\d+)\.\.(\d+) in turn/.exec(what);
  const first = Number(range?.[1]);
  const count = Number(range?.[2]) - first + 1;
  // The references are those that the scenario has set: their owner is the granter.
  const granter = [...replay.entries.values()].find((entry) => entry.ref === first)?.actor.domid;
  return untilRefused(replay, actor, fields, granter ?? 0, (i) => first + (i % count));
}

function loop(replay: Replay, actor: Actor, fields: Fields): Record<string, Value> {
  const ref = numberValue(replay, fields.ref);
  const granter = numberValue(replay, fields.dom);
  const address = numberValue(replay, fields.addr);
  const handles: number[] = [];
  for (let i = 0; i < Math.min(Number(fields.count), REPEAT_MAX); i++) {
    const { handle } = map(replay, actor, granter, ref, address);
    handles.push(handle);
    unmap(replay, actor, handle, address);
  }
  return { handles_raw: handles };
}

function untilRefused(
  replay: Replay,
  actor: Actor,
  fields: Fields,
  granter: number,
  refAt: (i: number) => number,
): Record<string, Value> {
  let handle = 0;
  for (let i = 0; i < REPEAT_MAX; i++) {
    const mapped = map(replay, actor, granter, refAt(i), (actor.places.v0 + i) * 4096);
    if (mapped.status === 0) {
      handle = mapped.handle;
      continue;
    }
    const got: Record<string, Value> = { succeeded: i, last_status: mapped.status };
    if (fields.last_handle !== undefined) got.last_handle = handle;
    return got;
  }
  return { succeeded: REPEAT_MAX };
}
