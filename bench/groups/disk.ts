/**
 * Bytes from a real file into a guest's pages: through the disk, its IOMMU and its interrupt, against the bare copy of
 * a page and against the same file read without a machine.
 */
import { PAGE_SIZE } from "../../shared/limits.ts";
import { bootBare } from "../machine.ts";
import { type Row, rowOf, short } from "../rows.ts";
import { startProbe } from "../workers.ts";
import type { Bench } from "../yardsticks.ts";

const MIB = 1024 ** 2;

const rateOf = (nsPerPage: number): string => short((PAGE_SIZE / MIB / nsPerPage) * 1e9);

export async function diskRows(bench: Bench): Promise<readonly Row[]> {
  const machine = await bootBare("adaptive", bench.path);
  const setup = { machine: machine.shared };
  const plain = await startProbe("file-read", { path: bench.path });
  const disk = await startProbe("disk", setup);
  try {
    const byCopy = await bench.measure(disk, setup, "W");
    const byFile = await bench.measure(disk, setup, plain);
    return [
      rowOf(
        {
          name: "disk to guest page, 1 MiB commands",
          yardstick: "W",
          note: `${rateOf(byCopy.measured.p50)} MiB/s`,
        },
        byCopy,
      ),
      rowOf(
        {
          name: "disk to guest page, against a plain file read",
          yardstick: "read",
          note: `${rateOf(byFile.measured.p50)} MiB/s, the file alone ${rateOf(byFile.yardstick.p50)} MiB/s`,
        },
        byFile,
      ),
    ];
  } finally {
    await disk.close();
    await plain.close();
    await machine.close();
  }
}
