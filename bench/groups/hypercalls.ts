/**
 * A hypercall that does nothing, there and back: at the channel's client stub, and from a guest program.
 */
import { bootBare } from "../machine.ts";
import type { Row } from "../rows.ts";
import type { Bench } from "../yardsticks.ts";

export async function hypercallRows(bench: Bench): Promise<readonly Row[]> {
  return [...(await awake(bench)), ...(await asleep(bench))];
}

async function awake(bench: Bench): Promise<readonly Row[]> {
  const machine = await bootBare("adaptive");
  const setup = { machine: machine.shared };
  try {
    return [
      await bench.rowOnTwoCores(
        { name: "null hypercall, both awake (1)", yardstick: "S", target: { most: 1.4 } },
        "hypercall",
        setup,
      ),
      await bench.rowOnTwoCores(
        {
          name: "null hypercall, both awake, times faster than K (3)",
          yardstick: "K",
          target: { least: 180 },
        },
        "hypercall",
        setup,
      ),
      await bench.rowOnTwoCores(
        { name: "null hypercall of a program (30)", yardstick: "S", target: { most: 1.9 } },
        "program-1",
        setup,
      ),
      await bench.rowOnTwoCores(
        {
          name: "null hypercall of a program, three levels deep (30)",
          yardstick: "S",
          target: { most: 3 },
        },
        "program-3",
        setup,
      ),
    ];
  } finally {
    await machine.close();
  }
}

async function asleep(bench: Bench): Promise<readonly Row[]> {
  const machine = await bootBare("blocking");
  const setup = { machine: machine.shared };
  try {
    return [
      await bench.rowOnTwoCores(
        { name: "null hypercall, spinning off (2)", yardstick: "F", target: { most: 1.1 } },
        "hypercall",
        setup,
      ),
      await bench.rowOnTwoCores(
        {
          name: "null hypercall, spinning off, faster than K (4)",
          yardstick: "K",
          target: { least: 6 },
        },
        "hypercall",
        setup,
      ),
    ];
  } finally {
    await machine.close();
  }
}
