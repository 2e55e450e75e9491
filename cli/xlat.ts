/**
 * `gfn2mfn xlat`: one address followed through every table, as the CPU and as each device of the domain; without
 * a gfn, what the domain has mapped.
 */
import { NOT_PRESENT } from "../shared/limits.ts";
import { unknownName } from "../shared/nearest.ts";
import { formatHex, parseAddress } from "../shared/sizes.ts";
import { EXIT_SUCCESS, UsageError } from "../toolstack/exit-codes.ts";
import { loadScenario } from "../toolstack/load.ts";
import { type MappedRange, mappedRanges, type Walk } from "../toolstack/p2m-walk.ts";
import { type Prepared, prepare } from "../toolstack/prepare.ts";
import { openLive } from "../toolstack/replay.ts";
import { machineAt, type Stage } from "../toolstack/stage.ts";
import { alignTable, paintFor } from "../toolstack/table.ts";
import type { View } from "../toolstack/view.ts";
import {
  type Chain,
  type DeviceChain,
  domidNamed,
  type FrameReport,
  rootOf,
  translate,
} from "../toolstack/xlat.ts";
import { type MachineOptions, wishOf } from "./machine-options.ts";

export interface XlatOptions extends MachineOptions {
  /** By default the first DMA burst, or the boot of a machine without devices; a number: after that step. */
  readonly at?: Stage | number;
  readonly json?: true;
  readonly color: "auto" | "always" | "never";
}

export async function xlat(
  id: string,
  domain: string,
  gfnText: string | undefined,
  options: XlatOptions,
): Promise<number> {
  const gfn = gfnText === undefined ? undefined : gfnOf(gfnText);
  const variants = await prepare(await loadScenario(id), wishOf(options));
  const names = variants.flatMap(({ resolved }) => resolved.model.domains.map(({ name }) => name));
  if (!names.includes(domain)) throw new UsageError(unknownName("domain", domain, names));
  // Not every variant boots every domain: the first one that does shows it.
  const prepared =
    variants.find(({ resolved }) =>
      resolved.model.domains.some(({ name, atBoot }) => name === domain && atBoot),
    ) ?? variants[0];
  if (prepared === undefined) throw new UsageError(`${id} has no variant`);
  const stage = options.at ?? (prepared.resolved.model.devices.length > 0 ? "dma" : "boot");
  const view: View =
    typeof stage === "number" ? stepOf(prepared, stage) : machineAt(prepared, stage);
  const domid = domidNamed(view, domain);
  const when = typeof stage === "number" ? `step ${stage}` : stage;
  if (domid === undefined) throw new UsageError(`${domain} does not exist at ${when}`);
  if (rootOf(view, domid) === NOT_PRESENT) {
    throw new UsageError(`${domain} has no P2M: it is not translated, its gfn is the mfn`);
  }
  process.stderr.write(
    `${id}, ${prepared.resolved.variant}: seed ${options.seed}, at ${when}, domain ${domain} is d${domid}\n`,
  );
  if (gfn === undefined) return printRanges(mappedRanges(view, rootOf(view, domid)), options);
  const chain = translate(view, domid, gfn);
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ schema: "gfn2mfn/xlat@1", ...chain })}\n`);
  } else {
    process.stdout.write(`${chainLines(chain, options).join("\n")}\n`);
  }
  return EXIT_SUCCESS;
}

function stepOf(prepared: Prepared, step: number): View {
  const live = openLive(prepared);
  try {
    live.to(step);
    return live.machine;
  } finally {
    live.close();
  }
}

/** A frame number: 36 bits, decimal or hexadecimal. */
function gfnOf(text: string): number {
  try {
    const gfn = parseAddress("gfn", text);
    if (gfn < 2 ** 36) return gfn;
  } catch {
    // Said below, in the same words for every way of being wrong.
  }
  throw new UsageError(`"${text}" is not a guest frame number below 2^36, such as 0x40010`);
}

function printRanges(ranges: readonly MappedRange[], options: XlatOptions): number {
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ schema: "gfn2mfn/p2m@1", ranges })}\n`);
    return EXIT_SUCCESS;
  }
  const lines = alignTable(
    ["gfn", "frames", "type", "mfn"],
    ranges.map(({ first, count, type, mfn, consecutive }) => [
      count === 1 ? formatHex(first) : `${formatHex(first)}..${formatHex(first + count - 1)}`,
      String(count),
      type,
      `${formatHex(mfn)}${consecutive ? "" : " and others, scattered"}`,
    ]),
    ["left", "right", "left", "left"],
  );
  process.stdout.write(`${lines.join("\n")}\n`);
  return EXIT_SUCCESS;
}

function chainLines(chain: Chain, options: XlatOptions): readonly string[] {
  const paint = paintFor(options.color, process.stdout);
  return [
    paint("bold", `CPU: pfn ${formatHex(chain.pfn)} = gfn ${formatHex(chain.gfn)}`),
    ...walkLines(chain.cpu),
    `  ${chain.cpu.mfn === undefined ? "fault: nothing is mapped there" : `mfn ${formatHex(chain.cpu.mfn)}`}`,
    ...frameLine(chain.cpuFrame),
    ...chain.devices.flatMap((device) => [
      "",
      paint("bold", `DMA by ${device.device}:`),
      ...deviceLines(chain, device),
    ]),
    ...(chain.devices.length === 0 ? ["", `${chain.domain} has no device`] : []),
  ];
}

function deviceLines(chain: Chain, device: DeviceChain): readonly string[] {
  const { by, bfn, busAddress, dfn } = device;
  const bus =
    busAddress === undefined
      ? []
      : [
          `  bus address ${formatHex(busAddress)}`,
          `  dfn ${dfn === undefined ? "?" : formatHex(dfn)} beyond the bus`,
        ];
  return [
    `  ${by}: pfn ${formatHex(chain.pfn)} -> bfn ${formatHex(bfn)}`,
    ...bus,
    ...(device.walk === undefined ? [] : walkLines(device.walk)),
    `  translated by ${device.translatedBy}: ${device.outcome}`,
    ...frameLine(device.frame),
  ];
}

const walkLines = (walk: Walk): readonly string[] =>
  walk.steps.map(
    ({ level, table, slot, raw, meaning }) =>
      `  level ${level}: table mfn ${formatHex(table)}, slot ${slot}: ${raw}  ${meaning}`,
  );

function frameLine(frame: FrameReport | undefined): readonly string[] {
  if (frame === undefined || frame.owner === undefined) return [];
  const flags = frame.flags.length === 0 ? "" : `, ${frame.flags.join(" ")}`;
  return [
    `  frame ${formatHex(frame.mfn)}: owner ${frame.owner}, ${frame.references} references${flags}`,
  ];
}
