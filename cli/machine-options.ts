/**
 * What the options that choose a machine mean: `--iommu`, `--disk` and `--bytes` are short for `--set`.
 */
import type { Setting } from "../shared/settings.ts";
import type { Wish } from "../toolstack/prepare.ts";

/** Seeds are 32 bits wide, as the generator's state is filled from one word. */
export const SEED_MAX = 0xffff_ffff;

export interface MachineOptions {
  readonly seed: number;
  readonly set?: readonly Setting[];
  readonly iommu?: "on" | "off";
  readonly variant?: readonly string[];
  readonly disk?: string;
  readonly bytes?: string;
}

/** The overrides of a run, in the order in which they are laid over each other. */
export function settingsOf(options: MachineOptions): readonly Setting[] {
  const short: readonly (readonly [string, string, string | undefined])[] = [
    ["--iommu", "machine.iommu.mode", options.iommu],
    ["--disk", "parameters.disk", options.disk],
    ["--bytes", "parameters.bytes", options.bytes],
  ];
  const given = short.flatMap(([flag, path, value]) =>
    value === undefined ? [] : [{ path, value, flag }],
  );
  return [...(options.set ?? []), ...given];
}

export const wishOf = (options: MachineOptions, seed = options.seed): Wish => ({
  seed,
  settings: settingsOf(options),
  variants: options.variant ?? [],
});

/** A setting as a person would type it. */
export const settingText = ({ path, value }: Setting): string =>
  `${path}=${typeof value === "object" ? JSON.stringify(value) : String(value)}`;

/** A word for a shell. */
export const quoted = (word: string): string =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;

/** Options that choose the same machine again. */
export const repeatOptions = (options: MachineOptions, seed: number): readonly string[] => [
  "--seed",
  String(seed),
  ...settingsOf(options).flatMap((setting) => ["--set", quoted(settingText(setting))]),
];
