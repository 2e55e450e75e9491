/**
 * The shape of a scenario, for both spellings: which fields there are, their kinds, and nothing about how
 * they fit together (shared/resolve.ts does that). zod is loaded by whoever imports this file, so import it
 * lazily.
 *
 * Rule: strict everywhere; an unknown key names the nearest known one.
 * Ours.
 */
import * as z from "zod";
import { unknownName } from "../shared/nearest.ts";

const size = z.union([z.number(), z.string()]);
const address = z.union([z.number(), z.string()]);
const value = z.union([z.string(), z.number(), z.boolean()]);
const values = z.record(z.string(), value);
const range = z.strictObject({ base: address, size });
const dmaRange = z.strictObject({ dma: address, cpu: address, size });
/** YAML 1.2 reads `on` and `off` as words. */
const onOff = z.enum(["on", "off"]);
const program = z.custom<(...args: never[]) => unknown>(
  (candidate) => typeof candidate === "function",
  "expected a generator function",
);
const named = z.strictObject({ use: z.string(), with: values.optional() });

const iommu = z.strictObject({
  mode: onOff.optional(),
  tables: z.enum(["shared", "separate"]).optional(),
  quarantine: z.enum(["off", "basic", "scratch-page"]).optional(),
  invalidation: z.enum(["registers", "queue"]).optional(),
  iotlb: z
    .strictObject({
      entries: z.int().optional(),
      flush: z.enum(["strict", "lazy", "never"]).optional(),
    })
    .optional(),
});

const machine = z.strictObject({
  arch: z.enum(["arm64", "x86"]).optional(),
  preset: z.string().optional(),
  memory: size.optional(),
  banks: z.array(range).optional(),
  iommu: iommu.optional(),
  allocator: z.enum(["contiguous", "scattered", "fragmented"]).optional(),
  ipaBits: z.union([z.literal(40), z.literal(44)]).optional(),
  hypervisor: z.enum(["faithful", "strict"]).optional(),
  lacks: z.array(z.enum(["cache_flush", "mapping_features"])).optional(),
  xsm: z.enum(["dummy", "silo"]).optional(),
  xenHeap: size.optional(),
  traceRecords: z.int().min(1).max(1048576).optional(),
  historyRecords: z.int().min(0).max(1048576).optional(),
  domains: z.int().optional(),
  slots: z.int().optional(),
});

const device = z.strictObject({
  kind: z.enum(["disk"]),
  port: z.string().optional(),
  registers: address.optional(),
  busOffset: address.optional(),
  dmaRanges: z.array(dmaRange).optional(),
  addressWidth: z.int().optional(),
  behindIommu: z.boolean().optional(),
  streamId: z.int().min(0).max(65535).optional(),
  coherent: z.boolean().optional(),
  line: z.int().optional(),
});

const kernel = z.strictObject({
  unpopulatedAlloc: z.enum(["list", "rfc", "pool", "off"]).optional(),
  freeKnows: z.enum(["flag", "zone-device", "pool-address", "region"]).optional(),
  fallback: z.boolean().optional(),
  longBits: z.literal([32, 64]).optional(),
  patchFaults: z
    .array(z.enum(["wrong-variable", "no-lock", "bytes-for-pages", "single-page-hole"]))
    .optional(),
  poolSingles: z.enum(["chunk", "page"]).optional(),
  poolFree: z.enum(["page", "range"]).optional(),
  privateCleanup: z.enum(["dma-free", "free-only"]).optional(),
  devBusAddr: z.enum(["page_to_phys", "pfn_to_bfn", "page_to_dma"]).optional(),
  grantVersion: z.union([z.literal("auto"), z.literal([1, 2])]).optional(),
  memoryHotplug: z.boolean().optional(),
  hotplugUnpopulated: z.boolean().optional(),
  setPrivateFailsAt: z.int().optional(),
  pagesPerSection: z.int().optional(),
  swiotlbPages: z.int().optional(),
  swiotlbForce: z.boolean().optional(),
  dmaOps: z.enum(["detect", "swiotlb-xen", "dma-direct"]).optional(),
  eventAbi: z.enum(["fifo", "2-level"]).optional(),
  virtioForceGrant: z.boolean().optional(),
});

const domainFields = {
  kind: z.enum(["dom0", "driver", "domU"]),
  memory: size.optional(),
  mapping: z.enum(["direct", "scattered"]).optional(),
  devices: z.array(z.string()).optional(),
  backend: z.strictObject({ pages: z.enum(["unpopulated", "balloon"]).optional() }).optional(),
  kernel: kernel.optional(),
  virtio: z
    .record(z.string(), z.strictObject({ backend: z.string(), iommus: z.string().optional() }))
    .optional(),
  staticMemory: z.array(range).optional(),
  ramBase: address.optional(),
  extendedRegions: z.array(range).optional(),
  vcpus: z.int().optional(),
  runs: z.boolean().optional(),
  atBoot: z.boolean().optional(),
  serves: z.boolean().optional(),
  iommu: z.boolean().optional(),
  privileged: z.boolean().optional(),
  maxGrantFrames: z.int().optional(),
  guest: z.enum(["pv", "pvh"]).optional(),
  maxGrantVersion: z.union([z.literal(1), z.literal(2)]).optional(),
  maxMaptrackFrames: z.int().optional(),
  maxEvtchnPort: z.int().optional(),
  p2mPoolPages: z.int().optional(),
};

const parameter = z.strictObject({
  about: z.string(),
  kind: z.enum(["file", "size", "count", "word"]),
  default: z.union([z.string(), z.number()]).optional(),
  min: z.number().optional(),
  max: z.number().optional(),
  values: z.array(z.string()).optional(),
});

const variant = z.strictObject({
  name: z.string().min(1),
  set: z.record(z.string(), z.unknown()).optional(),
  facts: values.optional(),
});

const common = {
  name: z.string().min(1),
  about: z.string().optional(),
  theme: z.string().optional(),
  moral: z.string().optional(),
  machine: machine.optional(),
  devices: z.record(z.string(), device).optional(),
  facts: values.optional(),
  parameters: z.record(z.string(), parameter).optional(),
  variants: z.array(variant).optional(),
};

const anyFunction = z.custom((candidate) => typeof candidate === "function", "expected a function");

/** A scenario written in TypeScript: programs are functions. */
export const typescriptScenario = z.strictObject({
  ...common,
  domains: z.record(z.string(), z.strictObject({ ...domainFields, program: program.optional() })),
  expect: anyFunction.optional(),
  table: z
    .strictObject({ columns: z.array(z.unknown()).min(1), heading: anyFunction.optional() })
    .optional(),
});

/** One claim of a YAML file about what a domain has reported. */
const reportClaim = z.strictObject({
  report: z.strictObject({
    domain: z.string(),
    key: z.string(),
    equals: z.union([z.string(), z.number()]),
  }),
});

/** A scenario composed in YAML: programs are named. */
export const yamlScenario = z.strictObject({
  version: z.literal(1),
  ...common,
  domains: z.record(z.string(), z.strictObject({ ...domainFields, program: named.optional() })),
  expect: z.array(reportClaim).optional(),
});

/** One thing that is wrong, at a path of keys. */
export interface Finding {
  readonly path: readonly PropertyKey[];
  readonly message: string;
  /** The finding is about the key at the end of `path`, not about its value. */
  readonly atKey: boolean;
}

/** Everything that is wrong with the shape of `scenario`; empty: nothing. */
export function shapeFindings(
  schema: typeof typescriptScenario | typeof yamlScenario,
  scenario: unknown,
): readonly Finding[] {
  const result = schema.safeParse(scenario, { reportInput: true });
  if (result.success) return [];
  return result.error.issues.flatMap((issue) => findingsOf(schema, issue));
}

function findingsOf(schema: z.ZodType, issue: z.core.$ZodIssue): readonly Finding[] {
  if (issue.code === "unrecognized_keys") {
    const known = keysAt(schema, issue.path);
    return issue.keys.map((key) => ({
      path: [...issue.path, key],
      message: unknownName("key", key, known),
      atKey: true,
    }));
  }
  return [{ path: issue.path, message: sentenceOf(schema, issue), atKey: false }];
}

function sentenceOf(schema: z.ZodType, issue: z.core.$ZodIssue): string {
  const found = issue.input;
  if (issue.code === "invalid_value" && typeof found === "string") {
    return unknownName("value", found, issue.values.map(String));
  }
  const words = wordsAt(schema, issue.path);
  if (issue.code === "invalid_union" && typeof found === "string" && words.length > 0) {
    return unknownName("value", found, words);
  }
  return issue.message.replace(/^Invalid input: /, "");
}

/** Follows a path of keys through objects, records, lists and optionals. */
function schemaAt(schema: z.ZodType, path: readonly PropertyKey[]): z.ZodType | undefined {
  let node: unknown = bare(schema);
  for (const key of path) {
    if (node instanceof z.ZodObject) node = bare(node.shape[String(key)]);
    else if (node instanceof z.ZodRecord) node = bare(node.valueType);
    else if (node instanceof z.ZodArray) node = bare(node.element);
    else return undefined;
  }
  return node instanceof z.ZodType ? node : undefined;
}

function bare(schema: unknown): unknown {
  return schema instanceof z.ZodOptional ? bare(schema.unwrap()) : schema;
}

function keysAt(schema: z.ZodType, path: readonly PropertyKey[]): readonly string[] {
  const node = schemaAt(schema, path);
  return node instanceof z.ZodObject ? Object.keys(node.shape) : [];
}

/** Words that a union at `path` admits. */
function wordsAt(schema: z.ZodType, path: readonly PropertyKey[]): readonly string[] {
  const node = schemaAt(schema, path);
  if (!(node instanceof z.ZodUnion)) return [];
  return node.options.flatMap((option) =>
    option instanceof z.ZodEnum ? option.options.map(String) : [],
  );
}
