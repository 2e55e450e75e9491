// How the tests run: each file in a process of its own, at most two at a time, because tests of the
// threaded machine start several workers each and a laptop has few cores.
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    pool: "forks",
    maxWorkers: 2,
    // Ends what hangs; a busy machine takes its time.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    // Tests import the sources as Node runs them: nothing is rewritten on the way, and calls stay cheap.
    experimental: { viteModuleRunner: false },
  },
});
