/** Rows of the catalogue that need what this machine does not have; docs/FIDELITY.md lists them too. */
import type { OutOfReach } from "./mutant.ts";

const LANES = "needs two lanes of the hypervisor inside one handler at once; there is one lane";

export const OUT_OF_REACH_ROWS: readonly OutOfReach[] = [
  { id: "M05", name: "maptrack-steal-race", why: LANES },
  { id: "M08", name: "ref-put-before-unpin", why: LANES },
  { id: "M17", name: "copy-error-lock-order", why: "there are no locks" },
  { id: "M32", name: "type-change-aba", why: LANES },
  { id: "M33", name: "tag-freed-before-slot", why: LANES },
  { id: "M41", name: "valid-before-bucket", why: LANES },
  { id: "M43", name: "send-after-unlock", why: LANES },
  { id: "M44", name: "control-before-heads", why: LANES },
];
