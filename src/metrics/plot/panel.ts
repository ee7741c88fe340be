/** One panel of a picture: a titled frame with axes, into which curves are drawn in data coordinates. */
import { type Attributes, element, round, text } from "./svg.ts";

/** The first are Okabe & Ito's (2008), told apart by people with any colour vision. */
const COLOURS = [
  ...["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#6B6B6B"],
  ...["#8C510A", "#1B7837", "#C51B7D", "#2C3E8F", "#B8860B", "#01665E", "#B2182B", "#000000"],
];

export const colour = (index: number): string => COLOURS[index % COLOURS.length] as string;

export interface Box {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

export type Range = readonly [from: number, to: number];

export interface Point {
  readonly x: number;
  readonly y: number;
}

export interface BandPoint {
  readonly x: number;
  readonly low: number;
  readonly high: number;
}

export interface LegendEntry {
  readonly label: string;
  readonly colour: string;
  readonly dashed?: boolean;
  /** A hollow dot instead of a line. */
  readonly dot?: boolean;
}

export interface PanelOptions {
  readonly title: string;
  /** Of the whole panel, labels included. */
  readonly box: Box;
  readonly x: Range;
  readonly y: Range;
  readonly xLabel: string;
  readonly yLabel: string;
  /** Absent: round numbers. */
  readonly xTicks?: readonly number[];
  /** Beside the title where it fits, else in rows below it. */
  readonly legend?: readonly LegendEntry[];
}

const MARGIN = { left: 62, right: 16, top: 34, bottom: 46 };
const GRID = "#E4E4E4";
const AXIS = "#888888";
/** Of text that explains. */
export const SOFT = "#555555";

export class Panel {
  readonly inner: Box;
  readonly #options: PanelOptions;
  readonly #drawn: string[] = [];
  readonly #over: string[] = [];

  constructor(options: PanelOptions) {
    this.#options = options;
    const { x, y, width, height } = options.box;
    const legend = legendPlan(options, width - MARGIN.left - MARGIN.right);
    const top = MARGIN.top + (legend.beside ? 0 : legend.rows.length * LEGEND_ROW);
    this.inner = {
      x: x + MARGIN.left,
      y: y + top,
      width: width - MARGIN.left - MARGIN.right,
      height: height - top - MARGIN.bottom,
    };
    this.#drawLegend(legend);
  }

  px(x: number): number {
    const [from, to] = this.#options.x;
    return this.inner.x + ((x - from) / (to - from)) * this.inner.width;
  }

  py(y: number): number {
    const [from, to] = this.#options.y;
    return this.inner.y + this.inner.height - ((y - from) / (to - from)) * this.inner.height;
  }

  line(points: readonly Point[], attributes: Attributes): this {
    const path = points.map(({ x, y }, i) => `${i === 0 ? "M" : "L"}${round(this.px(x))} ${round(this.py(y))}`);
    if (points.length > 0)
      this.#drawn.push(
        element("path", {
          d: path.join(""),
          fill: "none",
          "stroke-width": 2,
          "stroke-linejoin": "round",
          ...attributes,
        }),
      );
    return this;
  }

  dots(points: readonly Point[], attributes: Attributes): this {
    for (const { x, y } of points)
      this.#drawn.push(element("circle", { cx: this.px(x), cy: this.py(y), r: 3, ...attributes }));
    return this;
  }

  /** An interval or a spread around a curve. */
  band(points: readonly BandPoint[], fill: string): this {
    if (points.length === 0) return this;
    const there = points.map(({ x, high }) => `${round(this.px(x))} ${round(this.py(high))}`);
    const back = points.toReversed().map(({ x, low }) => `${round(this.px(x))} ${round(this.py(low))}`);
    this.#drawn.push(element("path", { d: `M${[...there, ...back].join("L")}Z`, fill, "fill-opacity": 0.15 }));
    return this;
  }

  /** A border between two parts of the x axis, named at its right as far as the name fits before `until`. */
  border(x: number, label: string, until: number): this {
    const { y, height } = this.inner;
    const at = this.px(x);
    this.#drawn.unshift(
      element("path", { d: `M${round(at)} ${round(y)}v${round(height)}`, stroke: AXIS, "stroke-dasharray": "3 3" }),
    );
    const shown = fitting(label, this.px(until) - at - 8, LETTER);
    this.#over.push(text(shown, { x: at + 4, y: y + 12, "font-size": 11, fill: SOFT }));
    return this;
  }

  rule(y: number, attributes: Attributes): this {
    const { x, width } = this.inner;
    this.#drawn.unshift(element("path", { d: `M${round(x)} ${round(this.py(y))}h${round(width)}`, ...attributes }));
    return this;
  }

  #drawLegend({ beside, rows }: LegendPlan): void {
    const { x, y, width } = this.inner;
    for (const [r, row] of rows.entries()) {
      let at = beside ? x + width - widthOf(row) + ENTRY_GAP : x;
      for (const entry of row) {
        this.#over.push(legendEntry(entry, at, y - 17 - (rows.length - 1 - r) * LEGEND_ROW));
        at += entryWidth(entry);
      }
    }
  }

  /** A name on the x axis. */
  below(x: number, content: string): this {
    const y = this.inner.y + this.inner.height + 18;
    this.#over.push(text(content, { x: this.px(x), y, "text-anchor": "middle", "font-size": 11 }));
    return this;
  }

  note(content: string): this {
    const { x, y, width, height } = this.inner;
    this.#over.push(text(content, { x: x + width / 2, y: y + height / 2, "text-anchor": "middle", fill: SOFT }));
    return this;
  }

  svg(): string {
    const { x, y, width, height } = this.inner;
    return element(
      "g",
      {},
      title(this.#options),
      ...this.#axes(),
      ...this.#drawn,
      element("path", { d: `M${round(x)} ${round(y)}v${round(height)}h${round(width)}`, fill: "none", stroke: AXIS }),
      ...this.#over,
    );
  }

  #axes(): string[] {
    const { x, y, width, height } = this.inner;
    const { xLabel, yLabel, x: xRange, y: yRange, xTicks = ticks(xRange, 9) } = this.#options;
    const rows = ticks(yRange, 7).flatMap((tick) => [
      element("path", { d: `M${round(x)} ${round(this.py(tick))}h${round(width)}`, stroke: GRID }),
      text(tickText(tick), { x: x - 8, y: this.py(tick) + 4, "text-anchor": "end", "font-size": 11, fill: SOFT }),
    ]);
    const columns = xTicks.flatMap((tick) => [
      element("path", { d: `M${round(this.px(tick))} ${round(y + height)}v4`, stroke: AXIS }),
      text(tickText(tick), {
        x: this.px(tick),
        y: y + height + 17,
        "text-anchor": "middle",
        "font-size": 11,
        fill: SOFT,
      }),
    ]);
    const middle = y + height / 2;
    return [
      ...rows,
      ...columns,
      text(xLabel, { x: x + width / 2, y: y + height + 36, "text-anchor": "middle" }),
      text(yLabel, {
        x: x - 46,
        y: middle,
        "text-anchor": "middle",
        transform: `rotate(-90 ${round(x - 46)} ${round(middle)})`,
      }),
    ];
  }
}

export const title = ({ title: content, box }: { readonly title: string; readonly box: Box }): string =>
  text(content, { x: box.x + MARGIN.left, y: box.y + 22, "font-size": 14, "font-weight": "bold" });

/** Bold, 14 px. */
const TITLE_LETTER = 9.5;
const LEGEND_ROW = 17;
const ENTRY_GAP = 18;
const SWATCH = 22;

/** Of DejaVu Sans at 11 px, about. */
const LETTER = 6.6;

const entryWidth = ({ label }: LegendEntry): number => SWATCH + 6 + label.length * LETTER + ENTRY_GAP;

/** Cut with an ellipsis where it is wider than `width`. */
export function fitting(label: string, width: number, letter: number): string {
  const letters = Math.floor(width / letter);
  return label.length <= letters ? label : letters < 2 ? "" : `${label.slice(0, letters - 1)}…`;
}

interface LegendPlan {
  readonly beside: boolean;
  readonly rows: readonly (readonly LegendEntry[])[];
}

function legendPlan({ title: content, legend = [] }: PanelOptions, width: number): LegendPlan {
  const beside = widthOf(legend) + content.length * TITLE_LETTER < width;
  return { beside, rows: beside ? [legend] : legendRows(legend, width) };
}

const widthOf = (entries: readonly LegendEntry[]): number => entries.reduce((sum, entry) => sum + entryWidth(entry), 0);

function legendRows(entries: readonly LegendEntry[], width: number): LegendEntry[][] {
  const rows: LegendEntry[][] = [[]];
  let used = 0;
  for (const entry of entries) {
    if (used > 0 && used + entryWidth(entry) > width) {
      rows.push([]);
      used = 0;
    }
    rows.at(-1)?.push(entry);
    used += entryWidth(entry);
  }
  return rows;
}

function legendEntry({ label, colour: stroke, dashed, dot }: LegendEntry, x: number, y: number): string {
  const line = { d: `M${round(x)} ${round(y)}h${SWATCH}`, stroke, "stroke-width": 2.5 };
  const mark = dot
    ? element("circle", { cx: x + SWATCH / 2, cy: y, r: 3, fill: "#ffffff", stroke, "stroke-width": 1.5 })
    : element("path", { ...line, "stroke-dasharray": dashed ? "2 4" : undefined });
  return mark + text(label, { x: x + SWATCH + 6, y: y + 4, "font-size": 11 });
}

/** Round numbers within the range: the finest step of 1, 2 or 5 times a power of ten that gives no more than wanted. */
export function ticks([from, to]: Range, most: number): number[] {
  const power = 10 ** Math.floor(Math.log10((to - from) / most));
  const steps = [1, 2, 5, 10, 20].map((factor) => factor * power);
  const within = steps.map((step) => multiples(step, [from, to]));
  return within.find((those) => those.length <= most) ?? [];
}

function multiples(step: number, [from, to]: Range): number[] {
  const first = Math.ceil(from / step - 1e-9);
  const count = Math.floor(to / step + 1e-9) - first + 1;
  return Array.from({ length: Math.max(0, count) }, (_, i) => (first + i) * step);
}

const tickText = (value: number): string =>
  Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3)
    ? value.toExponential(0)
    : String(Number(value.toPrecision(6)));

/** From the least to the greatest, with some air; never empty. */
export function rangeOf(values: readonly number[], air = 0.08): Range {
  const finite = values.filter(Number.isFinite);
  if (finite.length === 0) return [0, 1];
  const [low, high] = [Math.min(...finite), Math.max(...finite)];
  const room = high > low ? (high - low) * air : Math.max(Math.abs(high) * air, 0.05);
  return [low - room, high + room];
}
