/** What a replay file says of the sources that it was recorded with. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Build } from "../explore/replay-file.ts";

/** Folders whose sources decide how a run goes. */
const FOLDERS = ["shared", "hypervisor", "domains", "devices", "explore"];

export function buildOf(mutants: readonly string[]): Build {
  return { source: sourceHash(), node: process.version, mutants };
}

function sourceHash(): string {
  const hash = createHash("sha256");
  for (const folder of FOLDERS) {
    const path = fileURLToPath(new URL(`../${folder}/`, import.meta.url));
    const files = readdirSync(path, { recursive: true }).map(String);
    for (const file of files.filter((name) => /\.[jt]s$/.test(name)).toSorted()) {
      hash.update(`${folder}/${file}\0`).update(readFileSync(path + file));
    }
  }
  return hash.digest("hex").slice(0, 16);
}
