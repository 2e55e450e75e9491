/**
 * Recordings of runs, `*.g2m.jsonl` or `*.g2m.jsonl.gz`: what it takes to have the same run again, and what happened.
 *
 *   line 1     header: versions, scenario with its hash and resolved machine, seed, overrides, engine
 *   then       [step, domain, type, integers …] in global order
 *   explored   `choice` each step: who moved (-1: the hypervisor); replaying the first n gives the state after step n
 *              `mark` now and then, and `end`: the hash of the run so far, by which a replay is checked
 *   threads    no schedule; `state` at the end: the hypervisor's words and pages, as it has left them
 *
 * Rules: the header is in the file before the first step, so that a crash keeps its seed; a file that is cut off can be
 * read up to there; a reader refuses another version, and another scenario than the one that was recorded. A packed
 * file is a row of gzip members, each whole in itself. Domain -1: none, or a device's owner is unknown.
 * Ours (ecosystem.md 7).
 */
import { createHash } from "node:crypto";
import { closeSync, existsSync, openSync, readFileSync, writeSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { constants, gunzipSync, gzipSync } from "node:zlib";
import type { MachineModel } from "../shared/machine.ts";
import { canonicalJson } from "../shared/model-hash.ts";
import type { Values } from "../shared/scenario.ts";
import type { Setting } from "../shared/settings.ts";
import { SetupError } from "./exit-codes.ts";
import type { Prepared } from "./prepare.ts";

const FORMAT = "gfn2mfn/recording";
const VERSION = 1;
/** Text that is kept back before it is written. */
const CHUNK_CHARS = 1 << 16;

export type RecordedEngine = "threads" | "explore";

export interface RecordingHeader {
  readonly format: typeof FORMAT;
  readonly version: number;
  readonly package: string;
  readonly scenario: {
    /** Name or path, as the person gave it. */
    readonly id: string;
    readonly hash: string;
    /** Plain data of a YAML scenario. */
    readonly composition?: unknown;
    readonly model: MachineModel;
    readonly facts: Values;
  };
  readonly variant: string;
  readonly settings: readonly Setting[];
  readonly parameters: Values;
  readonly seed: number;
  readonly engine: RecordedEngine;
}

/** One line: step, domain, type, arguments. */
export type RecordedEvent = readonly [number, number, string, ...(string | number)[]];

export const CHOICE = "choice";
export const MARK = "mark";
export const END = "end";
export const STATE = "state";

export interface Recorder {
  event(...event: RecordedEvent): void;
  /** Writes what is left; nothing may follow. */
  close(): void;
}

/** Whether a person's word names a recording. */
export const isRecordingName = (name: string): boolean => /\.jsonl(\.gz)?$/.test(name);

/** The scenario as it was recorded: its machine, its facts and the text of its module. */
export function scenarioHash(prepared: Prepared): string {
  const { loaded, resolved, choice } = prepared;
  const hash = createHash("sha256");
  hash.update(readFileSync(fileURLToPath(loaded.module)));
  const { model, facts } = resolved;
  const { composition } = loaded;
  // The disk's path may be another on another machine; nothing of the schedule depends on it.
  const { disk: _path, ...parameters } = choice.parameters;
  hash.update(canonicalJson({ model, facts, parameters, composition }));
  return hash.digest("hex").slice(0, 16);
}

/** Creates `file` with the header of a run in it. A file that cannot be written is a SetupError. */
export function openRecording(file: string, prepared: Prepared, engine: RecordedEngine): Recorder {
  const handle = opened(file);
  const isPacked = file.endsWith(".gz");
  let text = `${JSON.stringify(headerOf(prepared, engine))}\n`;
  const flush = (): void => {
    if (text === "") return;
    writeSync(handle, isPacked ? gzipSync(text) : Buffer.from(text));
    text = "";
  };
  flush();
  return {
    event: (...event) => {
      text += `${JSON.stringify(event)}\n`;
      if (text.length >= CHUNK_CHARS) flush();
    },
    close: () => {
      flush();
      closeSync(handle);
    },
  };
}

function opened(file: string): number {
  try {
    return openSync(file, "w");
  } catch (error) {
    throw new SetupError(`${file}: cannot be written (${(error as NodeJS.ErrnoException).code})`);
  }
}

function headerOf(prepared: Prepared, engine: RecordedEngine): RecordingHeader {
  const { loaded, resolved, choice } = prepared;
  const composition = loaded.composition === undefined ? {} : { composition: loaded.composition };
  const { model, facts } = resolved;
  const hash = scenarioHash(prepared);
  const { variant, settings, parameters, seed } = choice;
  return {
    format: FORMAT,
    version: VERSION,
    package: packageVersion(),
    scenario: { id: loaded.id, hash, ...composition, model, facts },
    variant,
    settings,
    parameters,
    seed,
    engine,
  };
}

function packageVersion(): string {
  const text = readFileSync(new URL("../package.json", import.meta.url), "utf8");
  const { version }: { version?: string } = JSON.parse(text);
  return version ?? "";
}

export interface Recording {
  readonly file: string;
  readonly header: RecordingHeader;
  /** Every event, in order; nothing is read that nobody asks for. */
  events(): Generator<RecordedEvent, void, void>;
}

/** Reads a recording. Whatever is wrong with it is a SetupError of one sentence. */
export function readRecording(file: string): Recording {
  const lines = textOf(file).split("\n");
  const header = checkedHeader(file, lines[0] ?? "");
  return { file, header, events: () => eventsOf(file, lines) };
}

function textOf(file: string): string {
  if (!existsSync(file)) throw new SetupError(`${file}: no such file`);
  const bytes = readBytes(file);
  if (!file.endsWith(".gz")) return bytes.toString("utf8");
  try {
    // What a crash has cut off is missing at the end.
    return gunzipSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH }).toString("utf8");
  } catch {
    throw new SetupError(`${file}: cannot be unpacked`);
  }
}

function readBytes(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new SetupError(`${file}: cannot be read (${(error as NodeJS.ErrnoException).code})`);
  }
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

function checkedHeader(file: string, line: string): RecordingHeader {
  const header = parsed(line) as Partial<RecordingHeader> | undefined;
  if (typeof header !== "object" || header?.format !== FORMAT) {
    throw new SetupError(`${file}: is no recording of a run`);
  }
  if (header.version !== VERSION) {
    const known = `this gfn2mfn reads version ${VERSION}`;
    throw new SetupError(`${file}: is a recording of version ${header.version}; ${known}`);
  }
  const { scenario, variant, settings, seed, engine } = header;
  const isWhole =
    typeof scenario?.id === "string" &&
    typeof scenario.hash === "string" &&
    typeof variant === "string" &&
    Array.isArray(settings) &&
    typeof seed === "number" &&
    (engine === "threads" || engine === "explore");
  if (!isWhole) throw new SetupError(`${file}:1: the header is incomplete`);
  return header as RecordingHeader;
}

function* eventsOf(file: string, lines: readonly string[]): Generator<RecordedEvent, void, void> {
  for (let i = 1; i < lines.length; i++) {
    const line = lines[i] ?? "";
    const event = parsed(line);
    if (isEvent(event)) {
      yield event;
      continue;
    }
    // The last line may have been cut off; whatever follows a newline is whole.
    if (i === lines.length - 1) return;
    throw new SetupError(`${file}:${i + 1}: is not an event`);
  }
}

function isEvent(value: unknown): value is RecordedEvent {
  return (
    Array.isArray(value) &&
    value.length >= 3 &&
    Number.isInteger(value[0]) &&
    Number.isInteger(value[1]) &&
    typeof value[2] === "string"
  );
}
