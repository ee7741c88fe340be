/** tokenizer.json, tokenizer_config.json and the chat template of the quickstart model, in Hugging Face's formats. */
import { BYTE_LETTERS, learnMerges, toByteLetters } from "./bpe.ts";

/**
 * Two digits are one token: ids such as #4217 are then the same two tokens in speech and in JSON, and copying one is plain
 * induction. Words take their space along; runs of punctuation stay together.
 */
const PIECES = "[0-9]{2}| ?[A-Za-z]+|[^A-Za-z0-9]+|[0-9]";

const SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] as const;
/** Kept when special tokens are skipped, as Qwen does: the parser needs them. */
const CALL_TOKENS = ["<tool_call>", "</tool_call>"] as const;

export const END_OF_TEXT = "<|endoftext|>";
export const END_OF_TURN = "<|im_end|>";

/** ChatML. Tools are listed by name alone: policy and tools stay below 100 tokens, the calls themselves show the arguments. */
export const CHAT_TEMPLATE = [
  "{%- for message in messages -%}",
  "{{- '<|im_start|>' + message.role + '\\n' -}}",
  "{%- if message.content -%}{{- message.content -}}{%- endif -%}",
  "{%- if message.role == 'system' and tools -%}",
  "{{- '\\nTools:' -}}{%- for tool in tools -%}{{- ' ' + tool.function.name -}}{%- endfor -%}",
  "{%- endif -%}",
  "{%- if message.tool_calls -%}",
  "{%- for call in message.tool_calls -%}",
  '{{- \'<tool_call>\\n{"name": "\' + call.function.name + \'", "arguments": \' -}}',
  "{{- call.function.arguments | tojson -}}{{- '}\\n</tool_call>' -}}",
  "{%- endfor -%}",
  "{%- endif -%}",
  "{{- '<|im_end|>\\n' -}}",
  "{%- endfor -%}",
  "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}",
].join("");

export interface Tokenizer {
  readonly json: object;
  readonly vocab_size: number;
  /** Ids of the added tokens. */
  readonly ids: Readonly<Record<string, number>>;
}

/** Learns the vocabulary from `texts` (without special tokens). */
export function trainTokenizer(texts: Iterable<string>): Tokenizer {
  const merges = learnMerges(countPieces(texts));
  const symbols = [...BYTE_LETTERS, ...merges.map(([left, right]) => left + right)];
  const vocab = Object.fromEntries(symbols.map((symbol, id) => [symbol, id]));
  const first = Object.keys(vocab).length;
  const added = [...SPECIAL_TOKENS, ...CALL_TOKENS].map((content, i) => addedToken(content, first + i));
  const ids = Object.fromEntries(added.map(({ content, id }) => [content, id]));
  return { json: tokenizerJson(vocab, merges, added), vocab_size: first + added.length, ids };
}

function countPieces(texts: Iterable<string>): Map<string, number> {
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const [piece] of text.matchAll(new RegExp(PIECES, "g"))) {
      const word = toByteLetters(piece);
      counts.set(word, (counts.get(word) ?? 0) + 1);
    }
  }
  return counts;
}

function addedToken(content: string, id: number) {
  const special = (SPECIAL_TOKENS as readonly string[]).includes(content);
  return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special };
}

const BYTE_LEVEL = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false };

function tokenizerJson(
  vocab: Readonly<Record<string, number>>,
  merges: readonly (readonly [string, string])[],
  added_tokens: readonly object[],
): object {
  const split = { type: "Split", pattern: { Regex: PIECES }, behavior: "Isolated", invert: false };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens,
    normalizer: null,
    pre_tokenizer: { type: "Sequence", pretokenizers: [split, BYTE_LEVEL] },
    post_processor: null,
    decoder: BYTE_LEVEL,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges,
    },
  };
}

export const tokenizerConfig = (context_tokens: number): object => ({
  tokenizer_class: "PreTrainedTokenizerFast",
  model_max_length: context_tokens,
  eos_token: END_OF_TURN,
  pad_token: END_OF_TEXT,
  additional_special_tokens: ["<|im_start|>", END_OF_TURN],
  clean_up_tokenization_spaces: false,
  chat_template: CHAT_TEMPLATE,
});
