// Every check of the fuzzer has been seen to fail: each bug below is planted into a copy of the sources, and the
// fuzzer finds it there.
import fc from "fast-check";
import { afterAll, expect, test } from "vitest";
import { type Patch, type PlantedTree, plant } from "../explore/planted.ts";
import type { Command } from "./commands.ts";

type Commands = typeof import("./commands.ts");
type Episodes = typeof import("./episode.ts");
type Machine = typeof import("./machine.ts");

/** Episodes in which a planted bug must show. */
const EPISODES_MAX = 40;
const trees: PlantedTree[] = [];
afterAll(() => {
  for (const tree of trees) tree.remove();
});

/** The first error that the fuzzer meets in a copy with the patches. `kind`: every command is made one of that kind. */
async function firstError(
  name: string,
  patches: readonly Patch[],
  kind?: Command["kind"],
): Promise<Error | undefined> {
  const tree = plant(`fuzz-${name}`, patches);
  trees.push(tree);
  const { anyCommand } = await tree.load<Commands>("test/fuzz/commands.ts");
  const { runEpisode } = await tree.load<Episodes>("test/fuzz/episode.ts");
  const { Machines, machineOfEpisode } = await tree.load<Machine>("test/fuzz/machine.ts");
  const machines = new Machines();
  const list = fc.array(anyCommand, { minLength: 400, maxLength: 400, size: "max" });
  for (let episode = 0; episode < EPISODES_MAX; episode++) {
    const { hypervisor, shape } = machineOfEpisode(episode);
    const drawn = fc.sample(list, { numRuns: 1, seed: episode })[0] ?? [];
    const commands = drawn.map((command) => (kind ? { ...command, kind } : command));
    const failure = runEpisode(machines.image(hypervisor, shape), commands);
    if (failure?.error instanceof Error) return failure.error;
  }
  return undefined;
}

test("a handle that a failing map forgets is found by the audit", async () => {
  const error = await firstError("handle", [
    {
      file: "hypervisor/grant-map.ts",
      from: "  putHandle(xen, caller.domid, handle);\n  refused(",
      to: "  refused(",
    },
  ]);
  expect(error?.message).toMatch(/neither live nor free|frame|free list/);
});

test("status bits that a refused map leaves behind are found by the comparison", async () => {
  const error = await firstError("status", [
    {
      file: "hypervisor/grant-map.ts",
      from: "\n  reduceStatus(xen, granter, ref, readonly);\n  return GNTST_general_error;\n",
      to: "\n  return GNTST_general_error;\n",
    },
  ]);
  expect(error?.message).toMatch(/was refused with .* but word \d+ of Xen's page/);
});

test("a port that a refused caller gets nevertheless is found by the comparison", async () => {
  const error = await firstError("port", [
    {
      file: "hypervisor/event-channel.ts",
      from: "  if (!mayTarget(xen, caller, domid)) return -EPERM;\n  bindPort(",
      to: "  if (!mayTarget(xen, caller, domid)) {\n    bindPort(xen, domid, port, ECS_UNBOUND, domid);\n    return -EPERM;\n  }\n  bindPort(",
    },
  ]);
  expect(error?.message).toMatch(/was refused with -1, but portState/);
});

test("an answer that never comes is found when everybody has come to rest", async () => {
  const error = await firstError("answer", [
    {
      file: "hypervisor/main.ts",
      from: "    xen.channels[slot]?.reply(result.value);\n",
      to: "",
    },
  ]);
  expect(error?.message).toMatch(/waits for an answer that nobody gives/);
});

test("a batch without gaps is found by the bound on guest memory", async () => {
  const patch = {
    file: "hypervisor/grant-copy.ts",
    from: "if (i > 0 && isGapDue(xen, i)) {",
    to: "if (i > 0 && isGapDue(xen, i) && i < 0) {",
  };
  const error = await firstError("gaps", [patch], "grantOp");
  expect(error?.message).toMatch(/words of guests without a gap/);
});

test("an assertion that a guest can reach is found as what it is", async () => {
  const error = await firstError("assertion", [
    {
      file: "hypervisor/grant-unmap.ts",
      from: "  if (flags === 0) return GNTST_bad_handle;\n",
      to: "",
    },
    {
      file: "hypervisor/grant-unmap.ts",
      from: "if (hostAddress !== 0 && (flags & GNTMAP_host_map) !== 0) {",
      to: "if (hostAddress !== 0) {",
    },
  ]);
  expect(error?.name).toMatch(/EmulatorBug|Violation/);
});

test("a page that the end of a domain forgets is missed at the end of all domains", async () => {
  const error = await firstError("leak", [
    {
      file: "hypervisor/domain-teardown.ts",
      from: "if (info !== NOT_PRESENT) freeXenPage(xen, info);",
      to: "",
    },
    {
      file: "hypervisor/audit-frames.ts",
      from: "return used + held + free === all",
      to: "return all > 0",
    },
  ]);
  expect(error?.message).toMatch(/pages of the Xen heap are lost|Xen heap/);
});

test("the hole of an unmap at an empty gfn is no known finding in the strict machine", async () => {
  const error = await firstError("strict", [
    {
      file: "hypervisor/grant-unmap.ts",
      from: 'if (profileOf(xen).unmapWantsEntry || xen.model.hypervisor === "strict") {',
      to: "if (readonly && !readonly) {",
    },
  ]);
  expect(error?.message).toMatch(/without a grant/);
});
