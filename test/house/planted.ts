// One breach of every rule, planted in memory, beside what the rule must let through. `finds` lists
// `path:line` of each finding; a case with an empty list shows where a rule ends.

export interface Planted {
  readonly rule: string;
  readonly story: string;
  readonly files: Readonly<Record<string, string>>;
  readonly finds: readonly string[];
}

const lines = (count: number, line: string): string => `${line}\n`.repeat(count);
// Put together here, so that this file does not break the rules whose breaches it plants.
const slash = "/";
const docs = "docs";

const GRAPH: readonly Planted[] = [
  {
    rule: "floors",
    story: "the hypervisor takes a type from a guest",
    files: {
      "hypervisor/a.ts":
        'import { x } from "../shared/x.ts";\nimport type { T } from "../domains/t.ts";',
    },
    finds: ["hypervisor/a.ts:2"],
  },
  {
    rule: "floors",
    story: "a type written in place counts as an import",
    files: { "devices/a.ts": 'export type T = import("../hypervisor/t.ts").T;' },
    finds: ["devices/a.ts:1"],
  },
  {
    rule: "floors",
    story: "the core takes a package, Node, the root and the platform",
    files: {
      "shared/a.ts":
        'import "zod";\nimport "node:fs";\nimport "../package.json";\nimport "#platform";',
      "platform/node.ts": "export const node = 1;",
    },
    finds: ["shared/a.ts:1", "shared/a.ts:2", "shared/a.ts:3", "shared/a.ts:4"],
  },
  {
    rule: "floors",
    story: "the platform names a file of the hypervisor by URL",
    files: { "platform/node.ts": 'new URL("../hypervisor/main.ts", import.meta.url);' },
    finds: ["platform/node.ts:1"],
  },
  {
    rule: "floors",
    story: "a browser's platform file uses Node",
    files: {
      "platform/web-disk.ts": 'import "node:fs";',
      "platform/node-disk.ts": 'import "node:fs";',
    },
    finds: ["platform/web-disk.ts:1"],
  },
  {
    rule: "floors",
    story: "a folder without a floor",
    files: { "misc/a.ts": "export const a = 1;" },
    finds: ["misc/a.ts:1"],
  },
  {
    rule: "floors",
    story: "each floor may use what lies below it",
    files: {
      "explore/a.ts":
        'import "../hypervisor/a.ts";\nimport "pure-rand/generator/xoroshiro128plus";',
      "scenarios/a.ts": 'import "../domains/drivers/a.ts";',
      "toolstack/a.ts":
        'import "#platform";\nimport "../package.json";\nimport "node:fs";\nimport "zod";',
      "cli/main.ts": 'import "../toolstack/a.ts";\nimport "commander";',
      "test/a.test.ts": 'import "../cli/main.ts";\nimport "vitest";',
    },
    finds: [],
  },
  {
    rule: "cycles",
    story: "two files need each other, one of them only for a type",
    files: {
      "shared/a.ts": 'import { b } from "./b.ts";',
      "shared/b.ts": '\nimport type { A } from "./a.ts";',
    },
    finds: ["shared/b.ts:2"],
  },
  {
    rule: "cycles",
    story: "two ways down to one file are no cycle, nor is a worker that is named by URL",
    files: {
      "platform/node.ts":
        'import "./c.ts";\nimport "./d.ts";\nnew URL("./a-worker.ts", import.meta.url);',
      "platform/a-worker.ts": 'import "./node.ts";',
      "platform/c.ts": 'import "./d.ts";',
      "platform/d.ts": "export const d = 1;",
    },
    finds: [],
  },
  {
    rule: "deadFiles",
    story: "two files that know only each other",
    files: {
      "shared/a.ts": 'import "./b.ts";',
      "shared/b.ts": 'import "./a.ts";',
      "cli/main.ts": 'import "../toolstack/boot.ts";',
      "toolstack/boot.ts": 'new URL("../domains/main.ts", import.meta.url);\nimport "#platform";',
      "domains/main.ts": "export const main = 1;",
      "platform/node.ts": "export const node = 1;",
      "platform/domain-worker.ts": "export const worker = 1;",
      "scenarios/a.ts": "export const story = 1;",
    },
    finds: ["shared/a.ts:1", "shared/b.ts:1"],
  },
  {
    rule: "barrels",
    story: "files that pass on what others export",
    files: {
      "shared/all.ts": 'export { a } from "./a.ts";\nexport { b } from "./b.ts";',
      "shared/more.ts": 'import { a } from "./a.ts";\nexport { a };',
      "shared/star.ts": 'export const c = 1;\nexport * from "./a.ts";',
      "shared/index.ts": "export const a = 1;",
      "shared/own.ts": "const a = 1;\nexport { a };",
    },
    finds: ["shared/all.ts:1", "shared/index.ts:1", "shared/more.ts:1", "shared/star.ts:2"],
  },
];

const FORM: readonly Planted[] = [
  {
    rule: "fileNames",
    story: "names in other spellings",
    files: {
      "shared/grantTable.ts": "",
      "shared/grant_table.ts": "",
      "Shared/x.ts": "",
      "shared/grant-table-2.ts": "",
      "test/shared/grant-table.test.ts": "",
      "vitest.config.ts": "",
    },
    finds: ["Shared/x.ts:1", "shared/grantTable.ts:1", "shared/grant_table.ts:1"],
  },
  {
    rule: "bannedWords",
    story: "words that say nothing, in a file name and in a declaration",
    files: {
      "shared/page-helpers.ts": "",
      "shared/a.ts":
        "const a = 1;\nclass GrantManager {}\nfunction pageHelper() {}\ninterface FrameServices {}",
      "shared/b.ts": "export const serviced = 1;\nexport const Serviceable = 1;",
    },
    finds: ["shared/page-helpers.ts:1", "shared/a.ts:2", "shared/a.ts:3", "shared/a.ts:4"],
  },
  {
    rule: "mfnInDomains",
    story: "a translated guest speaks of machine frames",
    files: {
      "domains/a.ts":
        "// An Mfn in a comment is a story.\nexport const frame = Mfn(1);\nexport const pfnToMfn = 1;",
      "domains/p2m-pv.ts": "export const frame = Mfn(1);",
      "hypervisor/a.ts": "export const frame = Mfn(1);",
    },
    finds: ["domains/a.ts:2", "domains/a.ts:3"],
  },
  {
    rule: "fileLengths",
    story: "401 lines",
    files: { "shared/a.ts": lines(401, "// x"), "shared/b.ts": lines(400, "// x") },
    finds: ["shared/a.ts:401"],
  },
  {
    rule: "functionLengths",
    story: "61 lines in a function, whose text holds braces that count for nothing",
    files: {
      "shared/a.ts": `// x\nfunction f() {\n${lines(59, "g(`}`, '}', /[}]/);")}}\n`,
      "shared/b.ts": `function f() {\n${lines(58, 'g("{");')}}\n`,
      "shared/c.ts": `const o = { *m() {\n${lines(60, "yield 1;")}} };\n`,
      "test/a.test.ts": `describe.each([1])("x", () => {\n${lines(70, "it('y', () => {});")}});\n`,
    },
    finds: ["shared/a.ts:2", "shared/c.ts:1"],
  },
  {
    rule: "typeEscapes",
    story: "any, a silenced compiler and an asserted value",
    files: {
      "toolstack/a.ts": "export const a = b as any;\n// @ts-ignore\nf(c!);",
      "shared/a.ts": "export const a = b!;\nclass C {\n  x!: number;\n}",
      "domains/a.ts": "// @ts-expect-error\nf(1);",
      "test/a.test.ts": "// @ts-expect-error An Mfn is not a Gfn.\nf(1);",
    },
    finds: [
      "toolstack/a.ts:1",
      "toolstack/a.ts:2",
      "shared/a.ts:1",
      "shared/a.ts:3",
      "domains/a.ts:1",
    ],
  },
  {
    rule: "defaultExports",
    story: "an export without a name",
    files: {
      "shared/a.ts": "const a = 1;\nexport default a;",
      "shared/b.ts": "const b = 1;\nexport { b as default };",
      "scenarios/a.ts": "export default { name: 1 };",
      "vitest.config.ts": "export default {};",
    },
    finds: ["shared/a.ts:2", "shared/b.ts:2"],
  },
];

const MACHINE: readonly Planted[] = [
  {
    rule: "bannedGlobals",
    story: "clocks, chance and the outside world in the core",
    files: {
      "hypervisor/a.ts":
        "Date.now();\nMath.random();\nconst f = setTimeout;\nlet p: Promise<void>;\nconsole.log(1);",
      "explore/a.ts":
        "const process = fork(1);\nrun(process);\nx.crypto = { Date: 1, performance() {} };",
      "shared/a.ts": "BigInt(1);\nnew BigUint64Array(1);\nMath.max(1, 2);",
      "toolstack/a.ts": "Date.now();",
    },
    finds: [
      "hypervisor/a.ts:1",
      "hypervisor/a.ts:2",
      "hypervisor/a.ts:3",
      "hypervisor/a.ts:4",
      "hypervisor/a.ts:5",
      "shared/a.ts:1",
      "shared/a.ts:2",
    ],
  },
  {
    rule: "bigIntegers",
    story: "a big literal and its type",
    files: { "shared/a.ts": "const a = 1n;\nlet b: bigint;", "cli/a.ts": "const a = 1n;" },
    finds: ["shared/a.ts:1", "shared/a.ts:2"],
  },
  {
    rule: "asynchrony",
    story: "functions that somebody else's queue resumes",
    files: {
      "scenarios/a.ts": "async function f() {\n  await g();\n  for await (const x of y) {}\n}",
      "domains/a.ts":
        'const m = import("./b.ts");\nconst o = { async m() {} };\nfunction* g() { yield 1; }',
      "platform/a.ts": "export async function f() {}",
    },
    finds: [
      "scenarios/a.ts:1",
      "scenarios/a.ts:2",
      "scenarios/a.ts:3",
      "domains/a.ts:1",
      "domains/a.ts:2",
    ],
  },
  {
    rule: "sharedMemory",
    story: "shared words touched outside the two modules that own them",
    files: {
      "hypervisor/a.ts":
        "Atomics.load(words, 0);\nnew Uint32Array(control.buffer);\nnew Int32Array(b, 4, 1);",
      "domains/a.ts":
        "new DataView(bytes);\nnew SharedArrayBuffer(8);\nnew Uint8Array(4096);\nnew Uint8Array([1]);",
      "toolstack/a.ts": "Atomics.store(words, 0, 1);\nnew Uint8Array(buffer, 0, 8);",
      "shared/mem.ts": "Atomics.load(words, 0);\nnew Uint32Array(buffer, 0, 1);",
      "shared/layout.ts": "new Uint32Array(buffer, 0, 1);\nAtomics.load(words, 0);",
      "platform/a.ts": "Atomics.pause();",
      "explore/a.ts":
        "const own = new Uint8Array(64);\nnew DataView(own.buffer);\nnew DataView(its.buffer);",
      "devices/a.ts":
        "class C {\n  own = new Uint8Array(8);\n  wide = new Uint32Array(this.own.buffer);\n}",
    },
    finds: [
      "hypervisor/a.ts:1",
      "hypervisor/a.ts:2",
      "hypervisor/a.ts:3",
      "domains/a.ts:1",
      "domains/a.ts:2",
      "toolstack/a.ts:1",
      "shared/layout.ts:2",
      "explore/a.ts:3",
    ],
  },
  {
    rule: "moduleState",
    story: "variables and containers at module level",
    files: {
      "shared/a.ts":
        "let a = 1;\nexport var b = 2;\nconst c = new Map();\nconst d = [1];\nconst e = new Uint32Array(4);",
      "domains/a.ts":
        "const a = new Kernel();\nclass C {\n  static count = 0;\n}\nconst b: number[] = [];",
      "explore/a.ts": [
        "const a: ReadonlyMap<string, number> = new Map([]);",
        "const b = [1, 2] as const;",
        "const c: readonly number[] = [1];",
        "const d = { x: 1 };",
        "const e = new Uint8Array([1, 2]);",
        "function f() { let g = 1; const h = []; h.push(g); g++; }",
        "declare const unit: unique symbol;",
        "const ZEROES = new Uint8Array(4096);",
        "class C { static readonly max = 1; }",
      ].join("\n"),
      "toolstack/a.ts": "let a = 1;",
    },
    finds: [
      "shared/a.ts:1",
      "shared/a.ts:2",
      "shared/a.ts:3",
      "shared/a.ts:4",
      "shared/a.ts:5",
      "domains/a.ts:1",
      "domains/a.ts:3",
      "domains/a.ts:5",
    ],
  },
  {
    rule: "moduleState",
    story: "a write that reaches through a name of the module",
    files: {
      "hypervisor/a.ts": [
        'import { xen } from "./xen.ts";',
        "const last = { step: 0 };",
        "function f() { last.step++; }",
        "function g(last) { last.step = 1; }",
        "function h() { xen.domains[0] = 1; }",
        "function i() { const { xen } = j(); xen.domains = 1; }",
        "const seen = create();",
        "const k = () => seen.add(1);",
      ].join("\n"),
    },
    finds: ["hypervisor/a.ts:3", "hypervisor/a.ts:5", "hypervisor/a.ts:8"],
  },
];

const TEXT: readonly Planted[] = [
  {
    rule: "machinePaths",
    story: "where somebody's checkout lies and where their packages come from",
    files: {
      "README.md": `see\n\`${slash}home/me/gfn2mfn\`\nhttps://example.org/home/me\nthe registry of ports`,
      "package-lock.json": `{\n"resolved": "https://registry${"."}example.org/zod.tgz"\n}`,
      "shared/a.ts": `// C:${"\\"}Users\\me\n// ~/work/x`,
    },
    finds: ["README.md:2", "package-lock.json:2", "shared/a.ts:1"],
  },
  {
    rule: "documents",
    story: "pointers that lead nowhere",
    files: {
      [`${docs}/FIDELITY.md`]:
        "# Fidelity\n## One hypervisor lane\n| what | why |\n| FIFO events | later |\n",
      "shared/a.ts": [
        `// ${docs}/FIDELITY.md`,
        `// ${docs}/LOST.md`,
        `// ${docs}/FIDELITY.md#one-hypervisor-lane`,
        `// ${docs}/FIDELITY.md#fifo-events`,
        `// ${docs}/FIDELITY.md#no-such-row`,
      ].join("\n"),
    },
    finds: ["shared/a.ts:2", "shared/a.ts:5"],
  },
];

export const PLANTED: readonly Planted[] = [...GRAPH, ...FORM, ...MACHINE, ...TEXT];
