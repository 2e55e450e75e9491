/**
 * Scenarios composed from shipped programs, for those who write no code: what a YAML file means.
 * Rules: the default export turns plain data of the YAML spelling, whose shape has been checked, into a
 * scenario; every worker calls it with the same data; a program's own arguments are checked here.
 * Ours.
 */
import { transferBack } from "../domains/drivers/transfer-back.ts";
import { transferFront } from "../domains/drivers/transfer-front.ts";
import { DEATHS, type Death, userBack } from "../domains/drivers/user-back.ts";
import { userFront } from "../domains/drivers/user-front.ts";
import type { Kernel } from "../domains/kernel.ts";
import { unknownName } from "../shared/nearest.ts";
import {
  type DomainProgram,
  type DomainSpec,
  defineScenario,
  type Expectation,
  type FinalState,
  type NamedProgram,
  type Scenario,
  ScenarioError,
  type Value,
  type Values,
} from "../shared/scenario.ts";
import { parseSize } from "../shared/sizes.ts";

/** Default number of pages in flight: 1 MiB. */
const TRANSFER_PAGES = 256;

/** A shipped program: which arguments it knows, and what it is with them. */
interface Shipped {
  readonly arguments: readonly string[];
  make(path: string, args: Values): DomainProgram<Kernel>;
}

/** Everything that `use:` may name. */
const PROGRAMS: Readonly<Record<string, Shipped>> = {
  "transfer-front": {
    arguments: ["backend", "bytes", "pages"],
    make: (path, args) => {
      const backend = String(required(path, args, "backend"));
      const pages = Number(args.pages ?? TRANSFER_PAGES);
      const fixed = args.bytes === undefined ? undefined : sizeOf(`${path}.bytes`, args.bytes);
      return (kernel, given) => {
        const bytes = fixed ?? Number(given.parameters.bytes ?? pages * 4096);
        return transferFront(kernel, { backend, bytes, pages });
      };
    },
  },
  "transfer-back": {
    arguments: ["source", "device", "frontends"],
    make: (path, args) => {
      const source = args.source ?? "dma-layer";
      if (source !== "dma-layer" && source !== "page_to_phys") {
        const known = ["dma-layer", "page_to_phys"];
        throw new ScenarioError(`${path}.source`, unknownName("source", String(source), known));
      }
      const device = args.device === undefined ? {} : { device: String(args.device) };
      const frontends = args.frontends === undefined ? {} : { frontends: Number(args.frontends) };
      return (kernel) => transferBack(kernel, { source, ...device, ...frontends });
    },
  },
  "user-front": {
    arguments: ["backend"],
    make: (path, args) => {
      const backend = String(required(path, args, "backend"));
      return (kernel) => userFront(kernel, { backend });
    },
  },
  "user-back": {
    arguments: ["granter", "death"],
    make: (path, args) => {
      const granter = String(required(path, args, "granter"));
      const death = String(args.death ?? "orderly end");
      const known = Object.keys(DEATHS);
      if (!known.includes(death)) {
        throw new ScenarioError(`${path}.death`, unknownName("death", death, known));
      }
      return (kernel) => userBack(kernel, { granter, death: death as Death });
    },
  },
};

function required(path: string, args: Values, name: string): Value {
  const value = args[name];
  if (value === undefined) throw new ScenarioError(path, `"${name}" is missing`);
  return value;
}

const sizeOf = (path: string, value: Value): number =>
  parseSize(path, typeof value === "boolean" ? String(value) : value);

/** The YAML spelling after its shape has been checked. */
interface Composition extends Omit<Scenario<Kernel>, "domains" | "expect" | "table"> {
  readonly version: 1;
  readonly domains: Readonly<Record<string, ComposedDomain>>;
  readonly expect?: readonly ReportClaim[];
}

interface ComposedDomain extends Omit<DomainSpec<Kernel>, "program"> {
  readonly program?: NamedProgram;
}

interface ReportClaim {
  readonly report: {
    readonly domain: string;
    readonly key: string;
    readonly equals: string | number;
  };
}

function programOf(path: string, named: NamedProgram): DomainProgram<Kernel> {
  const shipped = PROGRAMS[named.use];
  if (shipped === undefined) {
    throw new ScenarioError(
      `${path}.use`,
      unknownName("program", named.use, Object.keys(PROGRAMS)),
    );
  }
  const args = named.with ?? {};
  for (const name of Object.keys(args)) {
    if (!shipped.arguments.includes(name)) {
      const message = unknownName("argument", name, shipped.arguments);
      throw new ScenarioError(`${path}.with.${name}`, message);
    }
  }
  return shipped.make(`${path}.with`, args);
}

const claimed = (state: FinalState, { report }: ReportClaim): Expectation => {
  const found = state.reported(report.domain, report.key);
  return {
    claim: `${report.domain} reports ${report.key} = ${report.equals}`,
    holds: found === report.equals,
    got: found === undefined ? "no such report" : String(found),
  };
};

function checkClaims(claims: readonly ReportClaim[], domains: readonly string[]): void {
  for (const [i, { report }] of claims.entries()) {
    if (domains.includes(report.domain)) continue;
    const message = unknownName("domain", report.domain, domains);
    throw new ScenarioError(`expect.${i}.report.domain`, message);
  }
}

/** The scenario that a YAML file spells. */
function compose(data: unknown): Scenario<Kernel> {
  const { version: _format, domains, expect, ...rest } = data as Composition;
  const claims = expect ?? [];
  const devices = Object.keys(rest.devices ?? {});
  checkClaims(claims, [...Object.keys(domains), ...devices]);
  const composed = Object.entries(domains).map(([name, { program, ...domain }]) => {
    const path = `domains.${name}.program`;
    const own = program === undefined ? {} : { program: programOf(path, program) };
    return [name, { ...domain, ...own }] as const;
  });
  return defineScenario<Kernel>({
    ...rest,
    domains: Object.fromEntries(composed),
    expect: (state) => ({ expectations: claims.map((claim) => claimed(state, claim)) }),
  });
}

export default compose;
