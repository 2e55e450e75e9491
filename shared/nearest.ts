/**
 * The nearest known name to one that is not known. Used wherever a person typed something wrong.
 * Ours: edit distance with transpositions, in one row of memory more than Wagner and Fischer need.
 */

/** Names farther away than this share of their length are no suggestion. */
const SHARE = 0.5;

/** Insertions, deletions, replacements and swaps of neighbours between two words. */
export function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      let cost = Math.min((last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, (last[j - 1] ?? 0) + same);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        cost = Math.min(cost, (beforeLast[j - 2] ?? 0) + 1);
      }
      row.push(cost);
    }
    beforeLast = last;
    last = row;
  }
  return last[b.length] ?? 0;
}

/** Length of the beginning that two words share. */
function alike(a: string, b: string): number {
  let length = 0;
  while (length < a.length && a[length] === b[length]) length++;
  return length;
}

/** The known name nearest to `name`, or undefined when none resembles it. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const candidate of known) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase());
    const bound = Math.max(1, Math.floor(Math.max(name.length, candidate.length) * SHARE));
    if (distance > bound || distance > bestDistance) continue;
    // Among equals, the one that begins alike: MB is MiB rather than B.
    if (distance < bestDistance || alike(candidate, name) > alike(best ?? "", name)) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** `unknown <what> "<name>"`, with the nearest known name, or with all of them when they are few, else with one. */
export function unknownName(what: string, name: string, known: readonly string[]): string {
  const near = nearest(name, known);
  if (near !== undefined) return `unknown ${what} "${name}"; did you mean "${near}"?`;
  if (known.length === 0) return `unknown ${what} "${name}"; there is none`;
  if (known.length <= 8) return `unknown ${what} "${name}"; known: ${known.join(", ")}`;
  const longer = known.find((candidate) => candidate.includes(name)) ?? known[0];
  return `unknown ${what} "${name}"; there are ${known.length}, such as "${longer}"`;
}
