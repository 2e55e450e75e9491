// Recordings of a real Xen, replayed. The recordings themselves are not part of the project: when the folder that
// holds them stands beside it, every supported step of these families must agree.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { conform } from "../toolstack/conform.ts";
import { parseRecordings, type RecordingFile } from "../toolstack/conform-format.ts";

const fixture = new URL("./fixtures/map-one-page.json", import.meta.url);
const RECORDINGS = new URL("../../shared/conformance/", import.meta.url);

const read = (url: URL): RecordingFile =>
  parseRecordings(url.pathname.split("/").at(-1) ?? "", readFileSync(url, "utf8"));

describe("a replayed recording", () => {
  it("reports the one expectation that is wrong on purpose, and only that", () => {
    const { families, disagreements } = conform([read(fixture)], { env: "arm" });
    expect(disagreements).toEqual(
      ["arm-domu", "arm-dom0=B"].map((env) => ({
        family: "hand-made",
        env,
        scenario: "map_one_page",
        step: 4,
        what: "read",
        expected: { got: 1 },
        got: { got: 305419896 },
      })),
    );
    expect(families.map(({ env, agree, disagree }) => [env, agree, disagree])).toEqual([
      ["arm-domu", 10, 1],
      ["arm-dom0=B", 10, 1],
    ]);
  });

  it("counts the first step that is not built and all after it as unsupported", () => {
    const { families, missing } = conform([read(fixture)], { env: "arm-domu" });
    expect(families.map(({ steps, unsupported }) => [steps, unsupported])).toEqual([[13, 2]]);
    expect(missing).toEqual([{ what: "smoke_signal", recordings: 1 }]);
  });

  it("supports no step of an environment that has no machine here", () => {
    const { families } = conform([read(fixture)], { env: "vax" });
    expect(families).toMatchObject([{ env: "vax", steps: 13, agree: 0, unsupported: 13 }]);
  });

  it("is refused in one line when the file is no recording", () => {
    expect(() => parseRecordings("x.json", "{")).toThrow("x.json: not a JSON file");
    expect(() => parseRecordings("x.json", '{"format":"other"}')).toThrow(/^x\.json: format: /);
  });
});

describe.skipIf(!existsSync(RECORDINGS))("recordings beside the project", () => {
  const names = existsSync(RECORDINGS)
    ? readdirSync(RECORDINGS).filter((name) => name.endsWith(".json"))
    : [];
  // Every environment whose name begins so: arm64 guests of both set-ups, both kinds of guests on x86.
  const cells = names.flatMap((name) =>
    ["arm", "pv"]
      .filter((env) => env === "arm" || !name.startsWith("arm-"))
      .map((env) => [name, env]),
  );

  it.each(cells)("%s agrees in every step in the environments %s", (name, env) => {
    const { families, disagreements, missing } = conform([read(new URL(name, RECORDINGS))], {
      env,
    });
    expect(disagreements).toEqual([]);
    expect(missing).toEqual([]);
    expect(families.map(({ steps, agree }) => steps - agree)).toEqual(families.map(() => 0));
    expect(families.length).toBeGreaterThan(0);
  });
});
