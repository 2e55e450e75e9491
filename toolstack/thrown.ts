/**
 * Errors that cross between threads as plain data: a class does not, and the command line tells by the class
 * whose fault it was.
 * Ours.
 */
import { EmulatorBug } from "../shared/assert.ts";
import { ScenarioError } from "../shared/scenario.ts";
import { LoadError, SetupError, UsageError } from "./exit-codes.ts";

/** An error that ends the whole command, as data: a class does not cross between threads. */
export interface Thrown {
  readonly name: string;
  readonly message: string;
  readonly stack: string;
  /** Field of a ScenarioError. */
  readonly path?: string;
}

/** The error as plain data. */
export function thrownOf(error: unknown): Thrown {
  if (!(error instanceof Error)) return { name: "Error", message: String(error), stack: "" };
  const { message, stack = "" } = error;
  if (error instanceof ScenarioError) {
    return { name: "ScenarioError", message: error.reason, stack, path: error.path };
  }
  // A class of ours may leave its name to Error, so the class itself is asked.
  const name = CLASSES.find(([, type]) => error instanceof type)?.[0] ?? error.name;
  return { name, message, stack };
}

/** Classes by which the command line tells whose fault it was; a derived class stands before its base. */
const CLASSES = [
  ["LoadError", LoadError],
  ["SetupError", SetupError],
  ["UsageError", UsageError],
  ["EmulatorBug", EmulatorBug],
] as const;

/** The error again, of the class it had. */
export function errorOf({ name, message, stack, path }: Thrown): Error {
  if (name === "ScenarioError") return new ScenarioError(path ?? "", message);
  const type = CLASSES.find(([known]) => known === name)?.[1] ?? Error;
  const error = new type(message);
  // Where it happened is a line of the thread, not of this file.
  if (stack !== "") error.stack = stack;
  return error;
}
