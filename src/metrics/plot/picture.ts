/** The bytes of a picture. PNGs are drawn by resvg (WebAssembly, in the binary) with DejaVu Sans: the same bytes everywhere. */
import { initWasm, Resvg } from "@resvg/resvg-wasm";
import wasmFile from "@resvg/resvg-wasm/index_bg.wasm" with { type: "file" };
import regularFont from "dejavu-fonts-ttf/ttf/DejaVuSans.ttf" with { type: "file" };
import boldFont from "dejavu-fonts-ttf/ttf/DejaVuSans-Bold.ttf" with { type: "file" };
import { UserError } from "../../base/errors.ts";

/** By the file's ending: .svg or .png. */
export async function pictureBytes(file: string, svg: string): Promise<Uint8Array> {
  if (file.endsWith(".svg")) return new TextEncoder().encode(`${svg}\n`);
  if (file.endsWith(".png")) return pngOf(svg);
  throw new UserError(file, "a picture's name ends in .png or .svg");
}

/** Pixels per unit of the SVG. */
const ZOOM = 1.5;

let fonts: Promise<Uint8Array[]> | null = null;

async function pngOf(svg: string): Promise<Uint8Array> {
  fonts ??= loaded();
  const resvg = new Resvg(svg, {
    fitTo: { mode: "zoom", value: ZOOM },
    font: { fontBuffers: await fonts, defaultFontFamily: "DejaVu Sans", loadSystemFonts: false },
  });
  const image = resvg.render();
  const png = image.asPng();
  image.free();
  resvg.free();
  return png;
}

/** Once a process. */
async function loaded(): Promise<Uint8Array[]> {
  await initWasm(await Bun.file(wasmFile).arrayBuffer());
  return Promise.all([regularFont, boldFont].map((path) => Bun.file(path).bytes()));
}
