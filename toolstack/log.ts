/**
 * The structured log: one pino instance on the main thread, loaded only when somebody asks for a log.
 * Rules: workers never log, they post records; it goes to stderr or to the file named; off by default.
 * Ours.
 */
import type { Logger } from "pino";
import { unknownName } from "../shared/nearest.ts";
import { SetupError, UsageError } from "./exit-codes.ts";

export const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "fatal"] as const;

export interface LogOptions {
  readonly level?: string;
  readonly file?: string;
}

/** The log a run writes to; undefined when neither a level nor a file was asked for. */
export async function openLog(options: LogOptions): Promise<Logger | undefined> {
  const { level, file } = options;
  if (level === undefined && file === undefined) return undefined;
  if (level !== undefined && !LOG_LEVELS.some((known) => known === level)) {
    throw new UsageError(`--log-level: ${unknownName("level", level, LOG_LEVELS)}`);
  }
  const { pino } = await import("pino");
  const destination = destinationOf(pino.destination, file);
  return pino({ level: level ?? "info", base: null }, destination);
}

type Destination = typeof import("pino").pino.destination;

function destinationOf(
  destination: Destination,
  file: string | undefined,
): ReturnType<Destination> {
  if (file === undefined) return destination({ dest: 2, sync: true });
  try {
    return destination({ dest: file, sync: true, append: true });
  } catch (error) {
    throw new SetupError(`--log-file: cannot write ${file}: ${String((error as Error).message)}`);
  }
}
