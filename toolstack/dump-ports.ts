/**
 * Section of a dump about event channels: each port that is not free, and what its guest sees of it: a bit each in the
 * shared info page, or an event word of the FIFO array.
 * Behaviour: xen/common/event_channel.c, domain_dump_evtchn_info(), which prints the same for debug key `e`.
 */
import {
  EVTCHN_FIFO_LINKED,
  EVTCHN_FIFO_MASKED,
  EVTCHN_FIFO_PENDING,
} from "../shared/abi/event-channel.ts";
import { SHARED_INFO_EVTCHN_MASK, SHARED_INFO_EVTCHN_PENDING } from "../shared/abi/xen.ts";
import { at } from "../shared/assert.ts";
import { DOM } from "../shared/layout.ts";
import {
  EVTCHN_FIFO_ARRAY_PAGES,
  EVTCHN_FIFO_WORDS_PER_PAGE,
  NOT_PRESENT,
} from "../shared/limits.ts";
import { FrameIndex } from "../shared/units.ts";
import { domainText, domainWord, section } from "./dump-section.ts";
import type { View } from "./view.ts";

/** By number: hypervisor/event-ports.ts has the same order. */
const STATES = ["free", "reserved", "unbound", "interdomain", "pirq", "virq", "ipi"] as const;
const FREE = 0;
const PRIORITY = 0xf;
const SAVED = 1 << 4;

interface PortRow {
  readonly port: number;
  readonly state: string;
  readonly vcpu: number;
  /** Peer of an interdomain port, or who may bind an unbound one. */
  readonly remoteDomain?: number;
  readonly remotePort?: number;
  /** Number of a VIRQ or PIRQ. */
  readonly number?: number;
  readonly pending: boolean;
  readonly masked: boolean;
  /** FIFO ABI only. */
  readonly linked?: boolean;
  readonly priority?: number;
  /** An event waits for the port's page of the array. */
  readonly saved?: boolean;
}

/** Pending and masked, as the guest of the 2-level ABI has them. */
function twoLevel(view: View, domid: number, port: number): Pick<PortRow, "pending" | "masked"> {
  const info = FrameIndex(domainWord(view, domid, DOM.SHARED_INFO));
  const cell = (port >> 5) * 4;
  const isSet = (base: number): boolean =>
    info !== NOT_PRESENT && ((view.memory.peek(info, base + cell) >>> (port & 31)) & 1) === 1;
  return { pending: isSet(SHARED_INFO_EVTCHN_PENDING), masked: isSet(SHARED_INFO_EVTCHN_MASK) };
}

function fifo(view: View, domid: number, port: number, packed: number): Partial<PortRow> {
  const { layout, words, memory } = view;
  const page = Math.floor(port / EVTCHN_FIFO_WORDS_PER_PAGE);
  const pages = domainWord(view, domid, DOM.FIFO) - 1;
  const common = { priority: packed & PRIORITY, saved: (packed & SAVED) !== 0 };
  if (page >= pages) return { ...common, linked: false, pending: false, masked: false };
  const frame = at(words, layout.fifoArray + domid * EVTCHN_FIFO_ARRAY_PAGES + page);
  const word = memory.peek(FrameIndex(frame), (port % EVTCHN_FIFO_WORDS_PER_PAGE) * 4);
  return {
    ...common,
    linked: (word & EVTCHN_FIFO_LINKED) !== 0,
    pending: (word & EVTCHN_FIFO_PENDING) !== 0,
    masked: (word & EVTCHN_FIFO_MASKED) !== 0,
  };
}

function remoteOf(state: string, domain: number, port: number): Partial<PortRow> {
  switch (state) {
    case "interdomain":
      return { remoteDomain: domain, remotePort: port };
    case "unbound":
      return { remoteDomain: domain };
    case "virq":
    case "pirq":
      return { number: port };
    default:
      return {};
  }
}

function portRows(view: View, domid: number): readonly PortRow[] {
  const { layout, words } = view;
  const first = domid * layout.model.limits.ports;
  const isFifo = domainWord(view, domid, DOM.FIFO) !== 0;
  const rows: PortRow[] = [];
  for (let port = 0; port < domainWord(view, domid, DOM.VALID_EVTCHNS); port++) {
    const number = at(words, layout.portState + first + port);
    if (number === FREE) continue;
    const state = STATES[number] ?? `state ${number}`;
    const remote = at(words, layout.portRemoteDomain + first + port);
    rows.push({
      port,
      state,
      vcpu: at(words, layout.portVcpu + first + port),
      ...remoteOf(state, remote, at(words, layout.portRemotePort + first + port)),
      ...twoLevel(view, domid, port),
      ...(isFifo ? fifo(view, domid, port, at(words, layout.portFifo + first + port)) : {}),
    });
  }
  return rows;
}

function peerText({ remoteDomain, remotePort, number }: PortRow): string {
  if (number !== undefined) return `number ${number}`;
  if (remoteDomain === undefined) return "–";
  return remotePort === undefined
    ? `for ${domainText(remoteDomain)}`
    : `${domainText(remoteDomain)} port ${remotePort}`;
}

const bitsText = ({ pending, masked, linked, saved }: PortRow): string =>
  [
    pending ? ["pending"] : [],
    masked ? ["masked"] : [],
    linked === true ? ["linked"] : [],
    saved === true ? ["saved"] : [],
  ]
    .flat()
    .join(" ") || "–";

export const portsSection = section<PortRow>({
  what: "ports",
  title: "event channels",
  columns: [
    { title: "port", align: "right", text: ({ port }) => String(port) },
    { title: "state", text: ({ state }) => state },
    { title: "peer", text: peerText },
    { title: "vCPU", align: "right", text: ({ vcpu }) => String(vcpu) },
    { title: "guest sees", text: bitsText },
    { title: "priority", align: "right", text: ({ priority }) => String(priority ?? "–") },
  ],
  read: portRows,
});
