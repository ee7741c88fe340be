/** `grpo-cl doctor`: is this machine ready? One line a question; a problem comes with its remedy. */
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { availableParallelism, homedir, totalmem } from "node:os";
import { dirname, join } from "node:path";
import { defineCommand } from "citty";
import { ABI_VERSION } from "../core/abi.ts";
import { openEngine } from "../core/engine.ts";
import type { Policy } from "../core/policy.ts";
import { resolveModelDirectory } from "../run/model-directory.ts";
import { parseOwnFlags } from "./arguments.ts";
import { checkTau2Data, DATA_ARGS } from "./data.ts";
import type { Host } from "./host.ts";
import { HOW_TO_GET_TAU2 } from "./tau2-files.ts";

export interface Finding {
  readonly what: string;
  /** `note`: works, but there is something to know. */
  readonly state: "ok" | "note" | "problem";
  /** What was found; for a problem, with its remedy. */
  readonly detail: string;
}

export const doctorCommand = (host: Host) =>
  defineCommand({
    meta: { name: "doctor", description: "Check that this machine can train: processor, core library, caches, data." },
    args: DATA_ARGS,
    run: async ({ rawArgs }) => {
      const { tau2_data_dir, json } = parseOwnFlags(rawArgs, DATA_ARGS);
      const dataDirectory = typeof tau2_data_dir === "string" ? tau2_data_dir : (host.env.TAU2_DATA_DIR ?? null);
      const findings = [
        machine(),
        processor(),
        ...(await core(host)),
        ...directories(host.env),
        await data(dataDirectory),
      ];
      host.print(json === true ? `${JSON.stringify(findings)}\n` : findings.map(line).join(""));
      if (findings.some(({ state }) => state === "problem")) host.fail(1);
    },
  });

const line = ({ what, state, detail }: Finding) => `${state.padEnd(8)} ${what.padEnd(16)} ${detail}\n`;

const GIB = 2 ** 30;

function machine(): Finding {
  const detail = `${process.platform} ${process.arch}, ${availableParallelism()} cores, ${(totalmem() / GIB).toFixed(1)} GiB memory`;
  const supported = process.platform === "linux" && process.arch === "x64";
  return supported
    ? { what: "machine", state: "ok", detail }
    : { what: "machine", state: "problem", detail: `${detail}; this release runs on Linux x86-64` };
}

function processor(): Finding {
  const cpuinfo = existsSync("/proc/cpuinfo") ? readFileSync("/proc/cpuinfo", "utf8") : "";
  const flags = (/^flags\s*:\s*(.*)$/m.exec(cpuinfo)?.[1] ?? "").split(" ");
  const found = ["avx2", "fma", "avx512f"].filter((flag) => flags.includes(flag));
  if (found.includes("avx2") && found.includes("fma"))
    return { what: "processor", state: "ok", detail: found.join(", ") };
  return {
    what: "processor",
    state: "note",
    detail: `no AVX2 and FMA (found: ${found.join(", ") || "none"}): works, but slowly`,
  };
}

/** Opens the library with the built-in model and compares what it samples with what it recomputes. */
async function core({ assets, env }: Host): Promise<Finding[]> {
  const library: Finding = {
    what: "core library",
    state: "ok",
    detail: `${assets.coreLibrary ?? "built from this clone"}, ABI version ${ABI_VERSION}`,
  };
  try {
    const directory = await resolveModelDirectory("builtin:quickstart", { revision: "main", env });
    using policy = await openEngine({
      library: assets.coreLibrary,
      model_directory: directory,
      dtype: "float32",
      num_threads: 0,
      kernels: "fused",
      prefix_sharing: true,
      gradient_checkpointing: false,
    });
    return [library, await selfTest(policy)];
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return [
      {
        what: "core library",
        state: "problem",
        detail: `${reason} (scripts/build makes it)`,
      },
    ];
  }
}

/** The tolerance of the project's promise that sampling and training share one forward pass. */
const LOGPROB_TOLERANCE = 1e-4;

async function selfTest(policy: Policy): Promise<Finding> {
  const prompt = await policy.tokenize("policy", "Hello");
  const sampled = await policy.sample({
    model: "policy",
    sequence: null,
    tokens: prompt,
    seed: 0n,
    temperature: 1,
    top_p: 1,
    top_k: 0,
    min_p: 0,
    max_new_tokens: 16,
    stop_token_ids: [],
    context_tokens_max: policy.info.context_tokens_max,
  });
  const tokens_N = Uint32Array.from([...prompt, ...sampled.tokens]);
  const recomputed = await policy.logprobs(
    "policy",
    { tokens_N, offsets: Uint32Array.of(0, tokens_N.length) },
    { temperature: 1 },
  );
  const differences = sampled.logprobs.map((logprob, i) =>
    Math.abs(logprob - (recomputed[prompt.length + i] ?? Number.NaN)),
  );
  const worst = Math.max(...differences);
  const detail = `sampled and recomputed log-probabilities differ by ${worst.toExponential(1)} at most (${sampled.tokens.length} tokens)`;
  return worst <= LOGPROB_TOLERANCE
    ? { what: "self-test", state: "ok", detail }
    : { what: "self-test", state: "problem", detail: `${detail}; please report it with the line "processor"` };
}

function directories(env: Host["env"]): Finding[] {
  const home = env.HOME ?? homedir();
  const cache = join(env.XDG_CACHE_HOME || join(home, ".cache"), "grpo-cl");
  const hub = env.HF_HUB_CACHE ?? join(env.HF_HOME ?? join(home, ".cache/huggingface"), "hub");
  return [
    writable("cache", cache, "set XDG_CACHE_HOME to a directory that is"),
    writable("model cache", hub, "set HF_HOME to a directory that is"),
    writable("here (runs/)", process.cwd(), "pass --log_dir with a directory that is"),
  ];
}

function writable(what: string, directory: string, remedy: string): Finding {
  try {
    accessSync(nearestExisting(directory), constants.W_OK);
    return { what, state: "ok", detail: directory };
  } catch {
    return { what, state: "problem", detail: `${directory} is not writable; ${remedy}` };
  }
}

const nearestExisting = (directory: string): string =>
  existsSync(directory) ? directory : nearestExisting(dirname(directory));

async function data(directory: string | null): Promise<Finding> {
  const what = "tau2 data";
  if (directory === null) {
    return {
      what,
      state: "note",
      detail: `not given; the built-in domains need none. For airline: ${HOW_TO_GET_TAU2}`,
    };
  }
  const bad = (await checkTau2Data(directory)).filter(({ state }) => state !== "ok");
  if (bad.length === 0) return { what, state: "ok", detail: directory };
  return {
    what,
    state: "problem",
    detail: `${bad.length} files are missing or differ in ${directory}; see grpo-cl data check`,
  };
}
