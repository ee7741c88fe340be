/** Numbers and tables for people. */

/** Columns as wide as their widest cell, two spaces apart. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const columns = Math.max(0, ...rows.map((row) => row.length));
  const widths = Array.from({ length: columns }, (_, c) => Math.max(...rows.map((row) => (row[c] ?? "").length)));
  return rows.map((row) => `  ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  ")}`.trimEnd());
}

export const fixed = (value: number | null): string => (value === null ? "n/a" : value.toFixed(4));

export const signed = (value: number | null): string =>
  value === null ? "n/a" : `${value < 0 ? "" : "+"}${value.toFixed(4)}`;

/** `[0.91, 0.98]` */
export const interval = ({ low, high }: { readonly low: number; readonly high: number }): string =>
  `[${low.toFixed(2)}, ${high.toFixed(2)}]`;
