/** The picture of a run, beside its numbers. */
import { replaceFile } from "../base/atomic.ts";
import { learningCurvesSvg } from "../metrics/plot/learning-curves.ts";
import { pictureBytes } from "../metrics/plot/picture.ts";
import type { Run } from "./run.ts";

export const CURVES = ["learning_curves.svg", "learning_curves.png"] as const;

/** From the rows so far. */
export async function writeLearningCurves({ config, directory, method, metrics }: Run): Promise<void> {
  const svg = learningCurvesSvg({ path: directory.path, config, method: method.name, rows: metrics.rows });
  for (const name of CURVES) replaceFile(directory.file(name), await pictureBytes(name, svg));
}
