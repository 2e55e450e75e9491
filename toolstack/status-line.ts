/**
 * One status line on stderr: rewritten in place on a terminal, at most ten times a second; a plain line every
 * five seconds elsewhere. Rule: whoever prints to stderr meanwhile goes through `print`.
 * Ours.
 */
const TERMINAL_EVERY_MS = 100;
const PLAIN_EVERY_MS = 5000;
const CLEAR_LINE = "\r\u001b[2K";

export interface StatusLine {
  /** Shows a text when it is time for one. */
  update(text: string): void;
  /** Prints a whole line above the status line. */
  print(line: string): void;
  /** Removes the status line. */
  end(): void;
}

/** `shown` false: nothing is shown, but `print` still prints. */
export function openStatusLine(stream: NodeJS.WriteStream, shown: boolean): StatusLine {
  const isTerminal = stream.isTTY === true;
  const every = isTerminal ? TERMINAL_EVERY_MS : PLAIN_EVERY_MS;
  let last = isTerminal ? Number.NEGATIVE_INFINITY : performance.now();
  let visible = false;
  const clear = (): void => {
    if (visible) stream.write(CLEAR_LINE);
    visible = false;
  };
  return {
    update: (text) => {
      const now = performance.now();
      if (!shown || now - last < every) return;
      last = now;
      if (!isTerminal) {
        stream.write(`${text}\n`);
        return;
      }
      stream.write(CLEAR_LINE + text.slice(0, Math.max(20, (stream.columns ?? 80) - 1)));
      visible = true;
    },
    print: (line) => {
      clear();
      stream.write(`${line}\n`);
    },
    end: clear,
  };
}
