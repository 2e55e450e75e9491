/** One request as the fuzzer makes it: a record, and what its actor stores before it pushes. */

export interface Call {
  readonly op: number;
  readonly args: readonly number[];
  /** Structures and lists, by guest address. */
  readonly memory: readonly { readonly gaddr: number; readonly bytes: Uint8Array }[];
  /** Where a batch leaves its statuses; `known` is false when it has none that are known. */
  readonly statuses?: {
    readonly at: number;
    readonly stride: number;
    readonly count: number;
    readonly known: boolean;
  };
  /** The answer that means "nothing was done" besides negative ones. */
  readonly nothing?: number;
  /** The answer says nothing about what was done: a refusal may leave a documented part behind. */
  readonly partial?: true;
}
