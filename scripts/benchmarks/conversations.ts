/**
 * Conversations of many turns behind one long prompt, all at once. Ours stay alive: a turn adds its user's tokens, and the
 * prompt is computed once. The peer generates each turn from the whole text, as a loop over generate() does.
 *
 * The peer's figure is an estimate, since its 8 turns of 32 would take half an hour: its first and last turn, 8
 * conversations each, times 4, and 8 times their mean. Attention grows faster than the text, so the mean is a little too
 * long, and 8 conversations share the reading of the weights among fewer than 32: both are against the peer, and small
 * beside the prompts, which take most of its time. Its CPU seconds are not told: its wall figure stands in both lines, and
 * is too low where the machine does other work.
 */
import { Rng } from "../../src/base/rng.ts";
import type { Policy, SequenceId } from "../../src/core/policy.ts";
import { type Bench, type Figures, type Part, rate, timed } from "./measure.ts";
import { openPolicy, randomTokens, sampleTurn } from "./model.ts";
import { middle, peerLines } from "./peers.ts";

const [CONVERSATIONS, TURNS] = [32, 8];
/** Tokens. */
const [PROMPT, USER, NEW] = [5500, 40, 60];
const PEER_BATCH = 8;

const WORK = `${CONVERSATIONS} conversations, ${PROMPT} shared + ${TURNS} x (${USER} + ${NEW}) tokens`;
const SAMPLED = CONVERSATIONS * TURNS * NEW;

export const conversations: Part = {
  unit: "tokens",
  peerName: "transformers generate()",
  target: () => ({ bar: 5, goal: 15 }),
  ours,
  peer,
};

async function ours(bench: Bench): Promise<Figures> {
  using policy = await openPolicy(bench);
  const rng = Rng.from(0);
  const prompt = randomTokens(rng, PROMPT);
  const all = () => Promise.all(Array.from({ length: CONVERSATIONS }, (_, i) => converse(policy, prompt, rng.fork(i))));
  return new Map([[WORK, [rate(SAMPLED, await timed(all), bench.threads)]]]);
}

async function converse(policy: Policy, prompt: Uint32Array, rng: Rng): Promise<void> {
  let sequence: SequenceId | null = null;
  for (let turn = 0; turn < TURNS; turn++) {
    const user = randomTokens(rng, USER);
    const tokens = turn === 0 ? Uint32Array.of(...prompt, ...user) : user;
    const request = { sequence, tokens, newTokens: NEW, temperature: 0, seed: 0n };
    ({ sequence } = await sampleTurn(policy, request));
  }
}

async function peer({ model, threads }: Bench): Promise<Figures | null> {
  const turnS = async (turn: number) => {
    const length = PROMPT + USER + turn * (USER + NEW);
    const sizes = ["--batch", PEER_BATCH, "--prompt-len", length, "--new", NEW, "--reps", 1];
    const lines = await peerLines("venv", "bench_generate.py", [model, "--threads", threads, ...sizes]);
    return lines === null ? null : (middle(lines[0]?.total_s) * CONVERSATIONS) / PEER_BATCH;
  };
  const [first, last] = [await turnS(0), await turnS(TURNS - 1)];
  if (first === null || last === null) return null;
  const tokensPerS = SAMPLED / (TURNS * ((first + last) / 2));
  return new Map([[WORK, [{ wall: tokensPerS, cpu: tokensPerS }]]]);
}
