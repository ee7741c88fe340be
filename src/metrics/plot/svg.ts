/** SVG as text. */

export type Attributes = Readonly<Record<string, string | number | undefined>>;

/** Coordinates are rounded to a hundredth: equal data are equal bytes, and files stay small. */
export function element(name: string, attributes: Attributes, ...children: readonly string[]): string {
  const written = Object.entries(attributes)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => ` ${key}="${typeof value === "number" ? round(value) : escaped(value as string)}"`);
  const open = `<${name}${written.join("")}`;
  return children.length === 0 ? `${open}/>` : `${open}>${children.join("")}</${name}>`;
}

export const text = (content: string, attributes: Attributes): string => element("text", attributes, escaped(content));

export const round = (value: number): string => String(Math.round(value * 100) / 100);

const ENTITIES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };

const escaped = (content: string): string => content.replace(/[&<>"]/g, (sign) => ENTITIES[sign] ?? sign);

/** A whole picture on white. Text is DejaVu Sans, which is also what PNGs are drawn with. */
export function picture(
  size: { readonly width: number; readonly height: number },
  ...children: readonly string[]
): string {
  const { width, height } = size;
  return element(
    "svg",
    {
      xmlns: "http://www.w3.org/2000/svg",
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      "font-family": "DejaVu Sans, Verdana, sans-serif",
      "font-size": 12,
      fill: "#222222",
    },
    element("rect", { width, height, fill: "#ffffff" }),
    ...children,
  );
}
