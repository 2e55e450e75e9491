/** A structure in private memory: its bytes, to be copied to and from a guest's, and a view of its fields. Ours. */

export interface Structure {
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

/** `size` zeroed bytes. */
export function structure(size: number): Structure {
  const bytes = new Uint8Array(size);
  return { bytes, view: new DataView(bytes.buffer) };
}
