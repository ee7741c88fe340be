/** Byte-pair encoding from counts of words, to the end: every word that occurs twice becomes one token. */

/** A pre-tokenised piece in byte-level letters, and how often it occurs. */
export type WordCounts = ReadonlyMap<string, number>;
export type Merge = readonly [string, string];

/** Merges in order of learning: the most frequent pair first, ties by code point, so the result depends on counts alone. */
export function learnMerges(words: WordCounts): Merge[] {
  const pieces = [...words].map(([word, count]) => ({ symbols: [...word], count }));
  const merges: Merge[] = [];
  for (;;) {
    const pair = mostFrequentPair(pieces);
    if (pair === null) return merges;
    merges.push(pair);
    for (const piece of pieces) piece.symbols = merged(piece.symbols, pair);
  }
}

interface Piece {
  symbols: string[];
  readonly count: number;
}

const SEPARATOR = "\u0000";

function mostFrequentPair(pieces: readonly Piece[]): Merge | null {
  const counts = new Map<string, number>();
  for (const { symbols, count } of pieces) {
    for (let i = 0; i + 1 < symbols.length; i++) {
      const pair = `${symbols[i]}${SEPARATOR}${symbols[i + 1]}`;
      counts.set(pair, (counts.get(pair) ?? 0) + count);
    }
  }
  let best: string | null = null;
  for (const [pair, count] of counts) {
    const most = best === null ? 1 : (counts.get(best) as number);
    if (count > most || (count === most && best !== null && pair < best)) best = pair;
  }
  return best === null ? null : (best.split(SEPARATOR) as unknown as Merge);
}

function merged(symbols: readonly string[], [left, right]: Merge): string[] {
  const joined: string[] = [];
  for (let i = 0; i < symbols.length; i++) {
    const together = symbols[i] === left && symbols[i + 1] === right;
    joined.push(together ? left + right : (symbols[i] as string));
    if (together) i++;
  }
  return joined;
}

/** GPT-2's letters for the 256 bytes: printable ones stand for themselves, the others follow from U+0100 on. */
export const BYTE_LETTERS: readonly string[] = byteLetters();

function byteLetters(): string[] {
  const printable = (byte: number) => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++));
}

export const toByteLetters = (text: string): string =>
  [...new TextEncoder().encode(text)].map((byte) => BYTE_LETTERS[byte]).join("");
