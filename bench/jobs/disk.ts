/**
 * The disk from its owner's side: a raw program writes a full scatter list into the register page, rings the doorbell
 * and waits for the interrupt. And the same file read without a machine.
 */
import { openSync, readSync } from "node:fs";
import { CLIENT_PROBES_EVERY, policyOf } from "../../platform/worker-common.ts";
import {
  DISK_BYTES,
  DISK_CAPACITY,
  DISK_COMMAND,
  DISK_COMMAND_READ,
  DISK_DONE,
  DISK_DOORBELL,
  DISK_FILE_OFFSET,
  DISK_ID,
  DISK_MAGIC,
  DISK_SEGMENT_ADDRESS,
  DISK_SEGMENT_LENGTH,
  DISK_SEGMENT_LIST,
  DISK_SEGMENT_SIZE,
  DISK_SEGMENTS,
  DISK_STATUS,
  DISK_STATUS_OK,
  DISK_TRANSFER_MAX,
} from "../../shared/abi/disk.ts";
import { assert, item } from "../../shared/assert.ts";
import { LINE, lineOf } from "../../shared/layout.ts";
import { DISK_SEGMENTS_MAX, PAGE_SIZE } from "../../shared/limits.ts";
import { exchange, load } from "../../shared/mem.ts";
import { ACCESS_READ, ACCESS_WRITE } from "../../shared/mmu.ts";
import { MAPPER } from "../machine.ts";
import { openPage, type RawGuest } from "../raw-guest.ts";
import { guestOn } from "../threaded-guest.ts";
import type { Job, Setup } from "../worker-api.ts";

/** First page of the buffer in the owner's RAM. */
const FIRST_PAGE = 16;
/** Bytes of the file that are read in turn. */
const SPAN_BYTES = 16 * DISK_TRANSFER_MAX;

function readRegister(guest: RawGuest, page: number, register: number): number {
  openPage(guest, page, ACCESS_READ);
  const value = guest.mmu.load(register);
  guest.mmu.close();
  return value;
}

/** The scatter list never changes: every command goes to the same pages. */
function writeSegments(guest: RawGuest, page: number): void {
  const { mmu, ram } = guest;
  openPage(guest, page, ACCESS_WRITE);
  for (let i = 0; i < DISK_SEGMENTS_MAX; i++) {
    const segment = DISK_SEGMENT_LIST + i * DISK_SEGMENT_SIZE;
    mmu.store(segment + DISK_SEGMENT_ADDRESS, ((ram + FIRST_PAGE + i) * PAGE_SIZE) | 0);
    mmu.store(segment + DISK_SEGMENT_ADDRESS + 4, 0);
    mmu.store(segment + DISK_SEGMENT_LENGTH, PAGE_SIZE);
  }
  mmu.store(DISK_SEGMENTS, DISK_SEGMENTS_MAX);
  mmu.store(DISK_COMMAND, DISK_COMMAND_READ);
  mmu.store(DISK_FILE_OFFSET + 4, 0);
  mmu.close();
}

/** One operation is one page; a turn is a full command. */
export function transfers(setup: Setup): Job {
  const { guest, board, machine } = guestOn(setup, MAPPER);
  const { words, layout } = board;
  const { mmu } = guest;
  const page = item(layout.model.devices, 0).registers / PAGE_SIZE;
  assert(readRegister(guest, page, DISK_ID) === DISK_MAGIC, "the disk is there");
  const span = Math.min(SPAN_BYTES, readRegister(guest, page, DISK_CAPACITY));
  writeSegments(guest, page);
  const line = lineOf(layout, guest.slot);
  const policy = policyOf(machine.waiting, CLIENT_PROBES_EVERY);
  let number = readRegister(guest, page, DISK_DONE);
  let offset = 0;
  const command = (): void => {
    number = (number + 1) | 0;
    let seen = load(words, line + LINE.EVENT);
    openPage(guest, page, ACCESS_WRITE);
    mmu.store(DISK_FILE_OFFSET, offset);
    mmu.store(DISK_DOORBELL, number);
    mmu.close();
    while (exchange(words, line + LINE.INTERRUPTS, 0) === 0) {
      policy.until(words, line + LINE.EVENT, seen);
      seen = load(words, line + LINE.EVENT);
    }
    if (readRegister(guest, page, DISK_DONE) !== number) throw new Error("a command is not done");
    offset = offset + 2 * DISK_TRANSFER_MAX > span ? 0 : offset + DISK_TRANSFER_MAX;
  };
  return {
    per: DISK_SEGMENTS_MAX,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) command();
    },
    end: () => {
      const status = readRegister(guest, page, DISK_STATUS);
      const bytes = readRegister(guest, page, DISK_BYTES);
      if (status !== DISK_STATUS_OK || bytes !== DISK_TRANSFER_MAX) {
        throw new Error(`the disk answered status ${status} after ${bytes} bytes`);
      }
    },
  };
}

/** The same reads into private memory. */
export function fileReads(setup: Setup): Job {
  assert(setup.path !== undefined, "the job has a file");
  const file = openSync(setup.path, "r");
  const into = new Uint8Array(DISK_TRANSFER_MAX);
  let offset = 0;
  let short = 0;
  return {
    per: DISK_SEGMENTS_MAX,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) {
        if (readSync(file, into, 0, into.length, offset) !== into.length) short++;
        offset = (offset + DISK_TRANSFER_MAX) % SPAN_BYTES;
      }
    },
    end: () => assert(short === 0, "the file is long enough"),
  };
}
