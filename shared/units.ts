/**
 * The address spaces, each its own type, and the glossary.
 *
 * | word | means |
 * |---|---|
 * | mfn | machine frame number: a 4 KiB frame of host memory |
 * | gfn | guest frame number: what a domain puts in its own page tables; the P2M turns it into an mfn |
 * | pfn | a domain's own linear numbering; equals the gfn for auto-translated guests |
 * | bfn | bus frame number: what a guest kernel believes a device must use, before the device's offset |
 * | dfn | device frame number: what arrives at the IOMMU or, without one, on the memory bus |
 * | maddr | machine byte address, mfn * 4096 + offset |
 * | frame index | place of a frame in machine memory: Xen's pdx. Never shown to a guest |
 * | grant ref | index in the granter's grant table |
 * | handle | maptrack handle: index in the mapper's maptrack |
 * | port | event channel port, local to one domain |
 *
 * Rules: a constructor is the only way in; arithmetic strips the unit and putting it back is a visible act.
 * Behaviour: xen/include/xen/mm.h, xen/include/xen/mm-frame.h.
 */
declare const unit: unique symbol;
type Unit<Name extends string> = number & { readonly [unit]: Name };

/** Machine frame number: index of a 4 KiB frame of host memory. No translated domain ever holds one. */
export type Mfn = Unit<"mfn">;
export const Mfn = (n: number): Mfn => n as Mfn;

/** Guest frame number, at most 36 bits. The P2M turns it into an Mfn. */
export type Gfn = Unit<"gfn">;
export const Gfn = (n: number): Gfn => n as Gfn;

/** A guest kernel's own frame number; equals the Gfn in every auto-translated guest. */
export type Pfn = Unit<"pfn">;
export const Pfn = (n: number): Pfn => n as Pfn;

/** Bus frame number: what a guest kernel believes a device must use, before the bus offset. */
export type Bfn = Unit<"bfn">;
export const Bfn = (n: number): Bfn => n as Bfn;

/** Device frame number: what a device issues, after the bus has undone its offset. */
export type Dfn = Unit<"dfn">;
export const Dfn = (n: number): Dfn => n as Dfn;

/** Machine byte address. */
export type Maddr = Unit<"maddr">;
export const Maddr = (n: number): Maddr => n as Maddr;

/** Guest physical byte address (ARM: IPA). */
export type Gaddr = Unit<"gaddr">;
export const Gaddr = (n: number): Gaddr => n as Gaddr;

/** Address a driver programs into a device, in bytes, bus offset included (Linux: dma_addr_t). */
export type DmaAddress = Unit<"dma">;
export const DmaAddress = (n: number): DmaAddress => n as DmaAddress;

/** Place of a frame in machine memory (Xen: pdx). Known to the hardware and the hypervisor only. */
export type FrameIndex = Unit<"index">;
export const FrameIndex = (n: number): FrameIndex => n as FrameIndex;

/** Domain id. Below DOMID_FIRST_RESERVED it is also the row of the domain table. */
export type DomId = Unit<"domid">;
export const DomId = (n: number): DomId => n as DomId;

/** Index in the granter's grant table. */
export type GrantRef = Unit<"ref">;
export const GrantRef = (n: number): GrantRef => n as GrantRef;

/** Index in the mapper's maptrack. */
export type MaptrackHandle = Unit<"handle">;
export const MaptrackHandle = (n: number): MaptrackHandle => n as MaptrackHandle;

/** Event channel port, local to one domain; 0 is never valid. */
export type EvtchnPort = Unit<"port">;
export const EvtchnPort = (n: number): EvtchnPort => n as EvtchnPort;

/** A place at the hypervisor's table: a vCPU, a device or the toolstack's control. */
export type SlotId = Unit<"slot">;
export const SlotId = (n: number): SlotId => n as SlotId;

/** The guest frame that holds a guest physical address. */
export const gfnOf = (gaddr: Gaddr): Gfn => Gfn(Math.floor(gaddr / 4096));
