/**
 * How much of the machine a training step uses: its arithmetic (formula below) a second, of the steps that part `train`
 * times, over that of torch.mm, f32, 2048 x 2048 x 2048, on as many threads in the same run. Nothing is shared: the
 * sequences are random.
 *
 * Forward, of S sequences of T tokens: 2·P·S·T for the products with weights (P: the layers' projections and the head; the
 * embedding is read, not multiplied), and layers·S·4·Q·T(T+1)/2 for scores and weighted values, Q query heads·head_dim, of
 * the pairs that a causal mask leaves. Backward: twice that. What is computed again, norms and AdamW are not counted.
 */
import { existsSync } from "node:fs";
import type { ModelShape } from "../../src/run/memory-plan.ts";
import type { Bench, Figure, Figures, Part } from "./measure.ts";
import { shapeAt } from "./model.ts";
import { jsonLines, outputOf, PYTHON } from "./peers.ts";
import { batchesOf, TOKENS, ours as tokens, workOf } from "./train.ts";

export const flops: Part = {
  unit: "GFLOP",
  peerName: "torch.mm",
  target: () => ({ bar: 0.5, goal: 0.7 }),
  ours,
  peer,
};

async function ours(bench: Bench): Promise<Figures> {
  const gflop = gflopOfToken(shapeAt(bench.model));
  const scaled = ({ wall, cpu }: Figure) => ({ wall: wall * gflop, cpu: cpu * gflop });
  return new Map([...(await tokens(bench))].map(([work, figures]) => [work, figures.map(scaled)] as const));
}

/** Of a training step, by token. */
function gflopOfToken({ layers, hidden, inner, heads, kv_heads, head_dim, vocabulary }: ModelShape): number {
  const query = heads * head_dim;
  const layer = hidden * (2 * query + 2 * kv_heads * head_dim + 3 * inner);
  const products = 2 * (layers * layer + vocabulary * hidden);
  const attention = (layers * 4 * query * (TOKENS + 1)) / 2;
  return (3 * (products + attention)) / 1e9;
}

const MATMUL = `
import json, sys, time, torch
threads, size, reps = int(sys.argv[1]), 2048, 10
torch.set_num_threads(threads)
a, b = torch.randn(size, size), torch.randn(size, size)
torch.mm(a, b)
for _ in range(reps):
    wall, cpu = time.perf_counter(), time.process_time()
    torch.mm(a, b)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"wall": 2 * size ** 3 / wall / 1e9, "cpu": 2 * size ** 3 / cpu * threads / 1e9}))
`;

/** The same for every work of ours. */
async function peer({ model, threads }: Bench): Promise<Figures | null> {
  if (!existsSync(PYTHON)) return null;
  const lines = jsonLines(await outputOf([PYTHON, "-c", MATMUL, String(threads)]));
  const figures = lines.map(({ wall, cpu }) => ({ wall: Number(wall), cpu: Number(cpu) }));
  return new Map(batchesOf(model).map((sequences) => [workOf(sequences), figures] as const));
}
