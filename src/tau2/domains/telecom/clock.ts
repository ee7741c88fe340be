/** The carrier's clock stands still: it is always 25 February 2025. */
export const TODAY = "2025-02-25";
export const LAST_MONTH = { start: "2025-01-01", end: "2025-01-31", due: "2025-01-15" };
export const THIS_MONTH = { end: "2025-02-28" };
export const NEXT_MONTH = { start: "2025-03-01", end: "2025-03-31", due: "2025-03-15" };
