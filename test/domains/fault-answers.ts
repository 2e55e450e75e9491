/** What the rounds of fault-enumeration.ts answer, on either engine: one line a round. */

/** Points of map and unmap, for two grants. */
export const mapFaults = (kind: string): readonly string[] => [
  `hypercall: ${kind}, map -12 [1,1], unmap 0, free 0`,
  `kmalloc: ${kind}, map 0 [-1,0], unmap 0, free 0`,
  `kmalloc: ${kind}, map 0 [0,-1], unmap 0, free 0`,
  `hypercall: ${kind}, map 0 [0,0], unmap -12, free 0`,
];

export const fine = (kind: string): string => `nothing: ${kind}, map 0 [0,0], unmap 0, free 0`;

const ram32: readonly string[] = [
  "pages: alloc -12",
  "hypercall: alloc -14",
  "kmalloc: alloc -12",
  "kmalloc: alloc -12",
  ...mapFaults("RAM"),
  "hypercall: RAM, map 0 [0,0], unmap 0, free -14",
  fine("RAM"),
];

/** Populating is one allocation a page; whichever fails, the free says so. */
const populate: readonly string[] = [
  "hypervisor: RAM, map 0 [0,0], unmap 0, free -14",
  "hypervisor: RAM, map 0 [0,0], unmap 0, free -14",
  fine("RAM"),
];

/** A 32-bit kernel that is built without unpopulated pages. */
export const RAM_ANSWERS: readonly string[] = [...ram32, ...populate, ...ram32, ...populate];

/** The default kernel: what fails while a section is added is hidden by the fallback. */
export const POOL_ANSWERS: readonly string[] = [
  ...["kmalloc", "kmalloc", "kmalloc", "kmalloc"].map(
    (site) => `${site}: RAM, map 0 [0,0], unmap 0, free 0`,
  ),
  // The section is there now, and the first point after it is the map.
  ...mapFaults("unpopulated").slice(0, 1),
  fine("unpopulated"),
  fine("unpopulated"),
  ...mapFaults("unpopulated"),
  fine("unpopulated"),
  fine("unpopulated"),
];
