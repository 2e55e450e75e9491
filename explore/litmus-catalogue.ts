/** All litmus tests, in the order in which they are shown. */
import type { Litmus } from "./litmus.ts";
import { classicTests } from "./litmus-classic.ts";
import { protocolTests } from "./litmus-protocols.ts";

export const litmusTests = (): readonly Litmus[] => [...classicTests(), ...protocolTests()];
