/**
 * A file that a long piece of work goes on from. Rules: it belongs to one seed and one state of the sources; it is written beside itself
 * first, so that an interruption leaves the old one or the new one. Ours.
 */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { SetupError } from "./exit-codes.ts";

/** What every such file says of itself. */
interface Standing {
  readonly schema: string;
  readonly seed: number;
  /** Hash of the sources: the work does not go on over others. */
  readonly source: string;
}

/**
 * The state of a file, or `fresh` when there is no file: then it is written at once, so that whoever cannot is told before the work.
 * Another seed or other sources are a SetupError, as is another kind of file.
 */
export function loadState<State extends Standing>(path: string, what: string, fresh: State): State {
  if (!existsSync(path)) {
    saveState(path, fresh);
    return fresh;
  }
  let state: Partial<State> | null;
  try {
    state = JSON.parse(readFileSync(path, "utf8"));
  } catch {
    throw new SetupError(`${path}: is no ${what}`);
  }
  if (state?.schema !== fresh.schema) throw new SetupError(`${path}: is no ${what}`);
  if (state.seed !== fresh.seed) {
    throw new SetupError(`${path}: was begun with seed ${state.seed}`);
  }
  if (state.source !== fresh.source) {
    throw new SetupError(
      `${path}: was begun with sources ${state.source}, these are ${fresh.source}`,
    );
  }
  const whole = Object.entries(fresh).every(
    ([key, value]) => typeof Reflect.get(state, key) === typeof value,
  );
  if (!whole) throw new SetupError(`${path}: is no ${what} any more: it lacks some of its fields`);
  return state as State;
}

/** A file that cannot be written is a SetupError. */
export function saveState(path: string, state: Standing): void {
  try {
    writeFileSync(`${path}.new`, `${JSON.stringify(state)}\n`);
    renameSync(`${path}.new`, path);
  } catch (error) {
    throw new SetupError(`${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
}
