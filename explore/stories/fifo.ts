/**
 * Stories of the FIFO event ABI: A has a control block and one page of event words. B's port 1 and A's port 1 are connected by the
 * set-up, and A's is masked. Ours; the shapes are those of stress spec 11.3.
 */
import {
  bindInterdomain,
  eventChannelOp,
  freshArguments,
  portOp,
  setU64,
} from "../../domains/hypercalls.ts";
import { andWord, loadWord, storeWord } from "../../domains/memory.ts";
import {
  EVTCHN_FIFO_MASKED,
  EVTCHN_FIFO_PENDING,
  EVTCHNOP_expand_array,
  EVTCHNOP_init_control,
  EVTCHNOP_send,
  EVTCHNOP_unmask,
  EXPAND_ARRAY_GFN,
  EXPAND_ARRAY_SIZE,
  INIT_CONTROL_GFN,
  INIT_CONTROL_SIZE,
} from "../../shared/abi/event-channel.ts";
import { VCPU_INFO_UPCALL_PENDING } from "../../shared/abi/xen.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import type { Program } from "../../shared/trap.ts";
import { eventWord, type Guest, openSharedInfo, sleepOn } from "../raw-guest.ts";
import type { Story } from "../story.ts";
import { offer } from "./events.ts";
import { A, B, INFO_GFN, RAM, smallModel } from "./machines.ts";

const PORT = 1;
/** A's event word of the port, and the flag that says that there is something to look for. */
const WORD = (RAM + 2) * PAGE_SIZE + 4 * PORT;
const UPCALL = INFO_GFN * PAGE_SIZE + VCPU_INFO_UPCALL_PENDING;

function* enterFifo({ caller }: Guest): Program {
  setU64(freshArguments(caller, INIT_CONTROL_SIZE), INIT_CONTROL_GFN, RAM + 1);
  yield* eventChannelOp(caller, EVTCHNOP_init_control, INIT_CONTROL_SIZE);
  setU64(freshArguments(caller, EXPAND_ARRAY_SIZE), EXPAND_ARRAY_GFN, RAM + 2);
  yield* eventChannelOp(caller, EVTCHNOP_expand_array, EXPAND_ARRAY_SIZE);
}

/** Sleeps until an upcall has come and the port's event with it. */
function* waitForEvent(guest: Guest): Program {
  for (;;) {
    const seen = eventWord(guest);
    const upcall = yield* loadWord(guest.cpu, UPCALL);
    if ((upcall & 0xff) !== 0) {
      yield* andWord(guest.cpu, UPCALL, ~0xff);
      const word = yield* andWord(guest.cpu, WORD, ~EVTCHN_FIFO_PENDING);
      if ((word & EVTCHN_FIFO_PENDING) !== 0) return;
    }
    yield* sleepOn(seen);
  }
}

/** M74: an event that came while its port was masked is linked by the unmask. */
export const fifoUnmaskStory: Story = {
  name: "fifo-unmask",
  about: "B sends while A unmasks its port in the FIFO ABI and goes to sleep",
  model: () => smallModel(),
  setUp: [
    offer,
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* openSharedInfo(guest);
        yield* enterFifo(guest);
        yield* storeWord(guest.cpu, WORD, EVTCHN_FIFO_MASKED);
        yield* bindInterdomain(guest.caller, B, PORT);
        // Binding has made it pending.
        yield* storeWord(guest.cpu, WORD, EVTCHN_FIFO_MASKED);
      },
    },
  ],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* portOp(guest.caller, EVTCHNOP_unmask, PORT);
        yield* waitForEvent(guest);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        yield* portOp(guest.caller, EVTCHNOP_send, PORT);
      },
    },
  ],
};
