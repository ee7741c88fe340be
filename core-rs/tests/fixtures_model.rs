//! Forward, sampling cache, GRPO gradients and AdamW against PyTorch, transformers and TRL
//! ($GRPO_CL_SHARED/fixtures/core; its README gives the tolerances used here). Models and cases are discovered.
use grpo_core::kernels::Kernels;
use grpo_core::model::{Dtype, Model};
use grpo_core::train::{
    AdamW, Batch, GradientReport, Grpo, ImportanceSamplingLevel, KlEstimator, Loss, PART_ROWS, Surrogate, Trainer,
    TrainerOptions, distributions,
};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::{Path, PathBuf};

const LOGPROB_TOLERANCE: f64 = 1e-4;
const LOSS_TOLERANCE: f64 = 1e-5;
const NORM_TOLERANCE: f64 = 1e-3;
const GRADIENT_TOLERANCE: f64 = 1e-3;

fn fixtures() -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let core = std::env::var_os("GRPO_CL_SHARED").map(PathBuf::from).unwrap_or_else(default).join("fixtures/core");
    if core.is_dir() {
        return Some(core);
    }
    eprintln!("skipped: no fixtures at {}", core.display());
    None
}

/// Runs the check for every model that has expected numbers, with both kinds of kernels.
fn for_each_model(check: impl Fn(&Path, &Path, Kernels)) {
    let Some(core) = fixtures() else { return };
    let mut seen = 0;
    for entry in std::fs::read_dir(core.join("models")).unwrap() {
        let directory = entry.unwrap().path();
        let expected = core.join("expected").join(directory.file_name().unwrap());
        if !expected.is_dir() {
            continue;
        }
        for kernels in [Kernels::Fused, Kernels::Plain] {
            eprintln!("{} {kernels:?}", directory.display());
            check(&directory, &expected, kernels);
        }
        seen += 1;
    }
    assert!(seen > 0, "no model with expected numbers in {}", core.display());
}

fn json(path: PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

struct Arrays(Vec<u8>);

impl Arrays {
    fn open(path: PathBuf) -> Self {
        Self(std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }
    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }
    fn has(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }
    fn shape(&self, name: &str) -> Vec<usize> {
        self.tensors().tensor(name).unwrap().shape().to_vec()
    }
    fn f32(&self, name: &str) -> Vec<f32> {
        self.tensors()
            .tensor(name)
            .unwrap()
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }
    fn i64(&self, name: &str) -> Vec<i64> {
        self.tensors()
            .tensor(name)
            .unwrap()
            .data()
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }
}

fn close(got: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((got - expected).abs() <= tolerance, "{what}: {got}, expected {expected} ± {tolerance}");
}

fn load(directory: &Path, kernels: Kernels) -> Model {
    Model::load(directory, Dtype::F32, kernels).unwrap_or_else(|e| panic!("{e}"))
}

/// Logits after each prefix of `tokens`, one token a step through the sampling cache.
fn step_logits(model: &Model, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut cache = model.new_cache(usize::MAX, true);
    let sequence = cache.open(&tokens[..1]).unwrap();
    let mut all = vec![model.step(&mut cache, 512).unwrap().remove(0).1];
    for token in &tokens[1..] {
        cache.append(sequence, &[*token]).unwrap();
        all.push(model.step(&mut cache, 512).unwrap().remove(0).1);
    }
    all
}

fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
}

#[test]
fn fixtures_logits_and_argmax() {
    for_each_model(|directory, expected, kernels| {
        let model = load(directory, kernels);
        let (forward, logits) =
            (json(expected.join("forward.json")), Arrays::open(expected.join("logits.safetensors")));
        for (i, prompt) in forward["prompts"].as_array().unwrap().iter().enumerate() {
            let rows = step_logits(&model, &ids(&prompt["ids"]));
            let best: Vec<u32> = rows.iter().map(|row| argmax(row)).collect();
            assert_eq!(best, ids(&prompt["argmax"]), "argmax of prompt {i}");
            let last = logits.f32(&format!("p{i}.logits_last"));
            for (got, want) in rows.last().unwrap().iter().zip(&last) {
                close(*got as f64, *want as f64, LOGPROB_TOLERANCE, "last logits");
            }
            let all = format!("p{i}.logits");
            if logits.has(&all) {
                for (got, want) in rows.concat().iter().zip(logits.f32(&all)) {
                    close(*got as f64, want as f64, LOGPROB_TOLERANCE, "logits");
                }
            }
        }
    });
}

#[test]
fn fixtures_greedy_tokens() {
    for_each_model(|directory, expected, kernels| {
        let model = load(directory, kernels);
        let forward = json(expected.join("forward.json"));
        for case in forward["greedy"].as_array().unwrap() {
            let prompt = ids(&forward["prompts"][case["prompt"].as_u64().unwrap() as usize]["ids"]);
            let (wanted, margins) = (ids(&case["new_ids"]), numbers(&case["margins"]));
            let decided = margins.iter().position(|m| *m < 1e-3).unwrap_or(wanted.len());
            let mut cache = model.new_cache(usize::MAX, true);
            let sequence = cache.open(&prompt).unwrap();
            let mut got = Vec::new();
            while got.len() < decided {
                let rows = model.step(&mut cache, 4).unwrap();
                if let Some((_, logits)) = rows.first() {
                    got.push(argmax(logits));
                    cache.append(sequence, &got[got.len() - 1..]).unwrap();
                }
            }
            assert_eq!(got, wanted[..decided], "greedy continuation");
        }
    });
}

#[test]
fn fixtures_logprobs_and_entropies() {
    for_each_model(|directory, expected, kernels| {
        let model = load(directory, kernels);
        let forward = json(expected.join("forward.json"));
        for case in forward["logprobs"].as_array().unwrap() {
            let prompt = ids(&forward["prompts"][case["prompt"].as_u64().unwrap() as usize]["ids"]);
            let tokens = [prompt.clone(), ids(&case["continuation"])].concat();
            let found =
                distributions(&model, &tokens, &[0, tokens.len() as u32], case["temperature"].as_f64().unwrap() as f32)
                    .unwrap();
            for (i, (logprob, entropy)) in
                numbers(&case["logprobs"]).into_iter().zip(numbers(&case["entropy"])).enumerate()
            {
                close(found[prompt.len() + i].logprob as f64, logprob, LOGPROB_TOLERANCE, "log-probability");
                close(found[prompt.len() + i].entropy as f64, entropy, LOGPROB_TOLERANCE, "entropy");
            }
        }
    });
}

/// Half the distance of neighbouring numbers around 1.
fn rounding_unit(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => 2f64.powi(-24),
        Dtype::F16 => 2f64.powi(-11),
        Dtype::Bf16 => 2f64.powi(-8),
    }
}

/// Weights of 16 bits against the f32 numbers: log-probabilities differ by at most 8 rounding units in the mean, gradients by
/// at most 8 of their norm.
#[test]
fn fixtures_on_narrower_types() {
    for_each_model(|directory, expected, kernels| {
        let forward = json(expected.join("forward.json"));
        let batch = RaggedBatch::read(expected);
        let gradient_of = |model: &Model| {
            let mut trainer = Trainer::new(model, OPTIONS[0]).unwrap();
            // a loss without clipping, whose slope has no jumps
            batch.gradient(&mut trainer, model, "bnpo", &Loss::Nll { temperature: 1.0 });
            trainer.gradients().iter().flat_map(flat).collect::<Vec<f32>>()
        };
        let exact = gradient_of(&load(directory, kernels));
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let model = Model::load(directory, dtype, kernels).unwrap();
            let mut differences = Vec::new();
            for case in forward["logprobs"].as_array().unwrap() {
                let prompt = ids(&forward["prompts"][case["prompt"].as_u64().unwrap() as usize]["ids"]);
                let tokens = [prompt.clone(), ids(&case["continuation"])].concat();
                let temperature = case["temperature"].as_f64().unwrap() as f32;
                let found = distributions(&model, &tokens, &[0, tokens.len() as u32], temperature).unwrap();
                let wanted = numbers(&case["logprobs"]);
                differences
                    .extend(wanted.iter().zip(&found[prompt.len()..]).map(|(w, f)| (f.logprob as f64 - w).abs()));
            }
            let mean = differences.iter().sum::<f64>() / differences.len() as f64;
            let apart: Vec<f32> = gradient_of(&model).iter().zip(&exact).map(|(got, want)| got - want).collect();
            let unit = rounding_unit(dtype);
            eprintln!("{dtype:?}: {} and {} rounding units", mean / unit, norm(&apart) / norm(&exact) / unit);
            assert!(mean > 0.0 && mean <= 8.0 * unit, "{dtype:?}: log-probabilities differ by {mean} in the mean");
            close(norm(&apart) / norm(&exact), 0.0, 8.0 * unit, "gradient");
        }
    });
}

/// A fixture batch as ragged sequences, padding taken away.
struct RaggedBatch {
    tokens: Vec<u32>,
    offsets: Vec<u32>,
    /// 1 for completion tokens that are in the loss.
    mask: Vec<f32>,
    advantages: Vec<f32>,
    old: Vec<f32>,
    reference: Vec<f32>,
    sequences: usize,
    /// Of the padded completions.
    width: usize,
    /// Row and column in the padded completions of each loss token.
    places: Vec<(usize, usize)>,
}

impl RaggedBatch {
    fn read(expected: &Path) -> Self {
        let arrays = Arrays::open(expected.join("grpo_batch.safetensors"));
        let (sequences, width) = (arrays.shape("completion_ids")[0], arrays.shape("completion_ids")[1]);
        let prompt_width = arrays.shape("prompt_ids")[1];
        let (prompt, prompt_mask) = (arrays.i64("prompt_ids"), arrays.i64("prompt_mask"));
        let (completion, completion_mask, tool_mask) =
            (arrays.i64("completion_ids"), arrays.i64("completion_mask"), arrays.i64("tool_mask"));
        let (advantages, old, reference) =
            (arrays.f32("advantages"), arrays.f32("old_per_token_logps"), arrays.f32("ref_per_token_logps"));
        let empty = Vec::new;
        let mut batch = Self {
            tokens: vec![],
            offsets: vec![0],
            mask: empty(),
            advantages: empty(),
            old: empty(),
            reference: empty(),
            sequences,
            width,
            places: vec![],
        };
        for s in 0..sequences {
            for i in (0..prompt_width).map(|i| s * prompt_width + i).filter(|i| prompt_mask[*i] == 1) {
                batch.push(prompt[i], 0.0, 0.0, 0.0, 0.0);
            }
            for column in (0..width).filter(|c| completion_mask[s * width + c] == 1) {
                let i = s * width + column;
                batch.push(completion[i], tool_mask[i] as f32, advantages[s], old[i], reference[i]);
                if tool_mask[i] == 1 {
                    batch.places.push((s, column));
                }
            }
            batch.offsets.push(batch.tokens.len() as u32);
        }
        batch
    }

    fn push(&mut self, token: i64, mask: f32, advantage: f32, old: f32, reference: f32) {
        self.tokens.push(token as u32);
        self.mask.push(mask);
        self.advantages.push(advantage);
        self.old.push(old);
        self.reference.push(reference);
    }

    /// The normalisers of TRL's loss types, as weights.
    fn weights(&self, loss_type: &str) -> Vec<f32> {
        let total: f32 = self.mask.iter().sum();
        let mut weights = self.mask.clone();
        for bounds in self.offsets.windows(2) {
            let range = bounds[0] as usize..bounds[1] as usize;
            let own: f32 = self.mask[range.clone()].iter().sum();
            let divisor = match loss_type {
                "grpo" => self.sequences as f32 * own.max(1.0),
                "bnpo" | "dapo" => total,
                "dr_grpo" => (self.sequences * self.width) as f32,
                other => panic!("unknown loss type {other}"),
            };
            weights[range].iter_mut().for_each(|w| *w /= divisor);
        }
        weights
    }

    fn gradient(&self, trainer: &mut Trainer, model: &Model, loss_type: &str, loss: &Loss) -> GradientReport {
        let weights = self.weights(loss_type);
        let batch = Batch {
            tokens_n: &self.tokens,
            offsets: &self.offsets,
            weights_n: &weights,
            advantages_n: &self.advantages,
            old_logprobs_n: &self.old,
            stored: None,
        };
        // the fixture's reference log-probabilities belong to no model that is there
        trainer.forward_backward_against(model, &self.reference, &batch, loss).unwrap()
    }
}

const GRPO: Grpo = Grpo {
    surrogate: Surrogate::Clip,
    importance_sampling_level: ImportanceSamplingLevel::Token,
    clip_low: 0.2,
    clip_high: 0.28,
    delta: None,
    kl_coef: 0.1,
    kl_estimator: KlEstimator::K3,
    kl_ratio_correction: false,
    entropy_coef: 0.0,
    temperature: 1.0,
};

fn grpo_loss(case: &Value) -> Loss {
    let number = |name: &str| case[name].as_f64().unwrap() as f32;
    Loss::Grpo(Grpo {
        clip_low: number("epsilon"),
        clip_high: number("epsilon_high"),
        kl_coef: number("beta"),
        kl_ratio_correction: case["use_bias_correction_kl"].as_bool().unwrap(),
        ..GRPO
    })
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt()
}

fn flat(tensor: &candle_core::Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

const WHOLE: TrainerOptions =
    TrainerOptions { gradient_checkpointing: false, prefix_sharing: true, part_rows: PART_ROWS };
const OPTIONS: [TrainerOptions; 5] = [
    WHOLE,
    TrainerOptions { gradient_checkpointing: true, ..WHOLE },
    TrainerOptions { prefix_sharing: false, ..WHOLE },
    TrainerOptions { part_rows: 8, ..WHOLE },
    TrainerOptions { part_rows: 8, gradient_checkpointing: true, ..WHOLE },
];

#[test]
fn fixtures_grpo_losses_and_gradients() {
    for_each_model(|directory, expected, kernels| {
        let model = load(directory, kernels);
        let (batch, grpo) = (RaggedBatch::read(expected), json(expected.join("grpo.json")));
        let full = Arrays::open(expected.join("grpo_tensors.safetensors"));
        for options in OPTIONS {
            for case in grpo["cases"].as_array().unwrap() {
                let loss_type = case["loss_type"].as_str().unwrap();
                let mut trainer = Trainer::new(&model, options).unwrap();
                let report = batch.gradient(&mut trainer, &model, loss_type, &grpo_loss(case));
                close(report.loss, case["formula_loss"].as_f64().unwrap(), LOSS_TOLERANCE, loss_type);
                let metrics = &case["metrics"];
                close(report.entropy_mean, metrics["entropy"].as_f64().unwrap(), LOGPROB_TOLERANCE, "entropy");
                if let Some(kl) = metrics["kl"].as_f64() {
                    close(
                        report.kl_mean,
                        kl,
                        LOGPROB_TOLERANCE,
                        &format!("kl, ratio correction {}", case["use_bias_correction_kl"]),
                    );
                }
                close(report.clip_low_fraction, metrics["clip_ratio/low_mean"].as_f64().unwrap(), 1e-6, "clip low");
                close(report.clip_high_fraction, metrics["clip_ratio/high_mean"].as_f64().unwrap(), 1e-6, "clip high");
                let is_full_case =
                    case["beta"] == 0.1 && case["epsilon_high"] == 0.28 && case["use_bias_correction_kl"] == false;
                let mut squares = 0.0;
                for (parameter, gradient) in model.parameters.iter().zip(trainer.gradients()) {
                    let gradient = flat(&gradient);
                    let (got, want) = (norm(&gradient), case["grad_norms"][&parameter.name].as_f64().unwrap());
                    close(got, want, NORM_TOLERANCE * want.max(1e-6), &parameter.name);
                    squares += got * got;
                    let name = format!("{loss_type}/{}", parameter.name);
                    if is_full_case && full.has(&name) {
                        let want = full.f32(&name);
                        let largest = want.iter().fold(0f32, |a, b| a.max(b.abs())) as f64;
                        for (got, want) in gradient.iter().zip(&want) {
                            close(*got as f64, *want as f64, GRADIENT_TOLERANCE * largest, &name);
                        }
                    }
                }
                let total = case["grad_norm"].as_f64().unwrap();
                close(squares.sqrt(), total, NORM_TOLERANCE * total, "gradient norm");
            }
        }
    });
}

#[test]
fn fixtures_per_token_logprobs_of_the_batch() {
    for_each_model(|directory, expected, kernels| {
        let model = load(directory, kernels);
        let batch = RaggedBatch::read(expected);
        let full = Arrays::open(expected.join("grpo_tensors.safetensors"));
        let (logprobs, entropy) = (full.f32("per_token_logps"), full.f32("entropy"));
        let found = distributions(&model, &batch.tokens, &batch.offsets, 1.0).unwrap();
        let loss_tokens = found.iter().zip(&batch.mask).filter(|(_, m)| **m == 1.0).map(|(d, _)| d);
        for (distribution, (row, column)) in loss_tokens.zip(&batch.places) {
            close(
                distribution.logprob as f64,
                logprobs[row * batch.width + column] as f64,
                LOGPROB_TOLERANCE,
                "log-probability",
            );
            close(
                distribution.entropy as f64,
                entropy[row * batch.width + column] as f64,
                LOGPROB_TOLERANCE,
                "entropy",
            );
        }
    });
}

#[test]
fn fixtures_adamw_steps() {
    for_each_model(|directory, expected, kernels| {
        let (batch, grpo) = (RaggedBatch::read(expected), json(expected.join("grpo.json")));
        let full = Arrays::open(expected.join("grpo_tensors.safetensors"));
        for config in grpo["adamw"].as_array().unwrap() {
            let mut model = load(directory, kernels);
            let start = model.snapshot().unwrap();
            let mut trainer = Trainer::new(&model, OPTIONS[0]).unwrap();
            let clip = config["max_grad_norm"].as_f64();
            let options = AdamW {
                learning_rate: config["lr"].as_f64().unwrap(),
                beta1: config["betas"][0].as_f64().unwrap(),
                beta2: config["betas"][1].as_f64().unwrap(),
                eps: config["eps"].as_f64().unwrap(),
                weight_decay: config["weight_decay"].as_f64().unwrap(),
                max_grad_norm: clip.unwrap_or(0.0),
            };
            let loss = Loss::Grpo(GRPO);
            for (i, step) in config["steps"].as_array().unwrap().iter().enumerate() {
                let report = batch.gradient(&mut trainer, &model, "dapo", &loss);
                close(report.loss, step["loss_before"].as_f64().unwrap(), 1e-4, "loss before the step");
                let moved = trainer.optimizer_step(&mut model, &options).unwrap();
                let norm_before = step["grad_norm_before_clip"].as_f64().unwrap();
                close(moved.grad_norm, norm_before, NORM_TOLERANCE * norm_before, "gradient norm");
                for (parameter, origin) in model.parameters.iter().zip(&start.parameters) {
                    let (now, then) = (flat(&parameter.weight.tensor), flat(&origin.weight.tensor));
                    let movement: Vec<f32> = now.iter().zip(&then).map(|(a, b)| a - b).collect();
                    let moved = step["delta_norms"][&parameter.name].as_f64().unwrap();
                    let tolerance = if clip.is_some() { 1e-3 } else { 1e-2 } * moved;
                    close(norm(&movement), moved, tolerance, &format!("movement of {}", parameter.name));
                    // as movements: where the gradient is near zero Adam's direction is noise (k biases above all)
                    let want = step["param_norms"][&parameter.name].as_f64().unwrap();
                    close(norm(&now), want, 1e-3 * want, &parameter.name);
                    let name = format!("adamw/{}/step{}/{}", config["name"].as_str().unwrap(), i + 1, parameter.name);
                    if full.has(&name) {
                        // single entries may differ by up to 2 lr where the gradient is near zero
                        for (got, want) in now.iter().zip(full.f32(&name)) {
                            close(*got as f64, want as f64, 2.0 * options.learning_rate, &name);
                        }
                    }
                }
            }
        }
    });
}

/// Sampling and training are one forward pass: the cache, at any chunk size, gives the training pass's bits.
#[test]
fn fixtures_sampled_logprobs_are_the_trained_ones_bit_for_bit() {
    for_each_model(|directory, expected, kernels| {
        if kernels == Kernels::Plain {
            return; // candle's product takes other paths for few rows
        }
        let model = load(directory, kernels);
        let forward = json(expected.join("forward.json"));
        let prompts = forward["prompts"].as_array().unwrap();
        let prompt = prompts.iter().map(|p| ids(&p["ids"])).max_by_key(Vec::len).unwrap();
        let tokens = [prompt, ids(&forward["logprobs"][0]["continuation"])].concat();
        let trained = distributions(&model, &tokens, &[0, tokens.len() as u32], 0.7).unwrap();
        let stepped = step_logits(&model, &tokens);
        for (t, logits) in stepped.iter().enumerate().take(tokens.len() - 1) {
            let inverse = 1.0 / 0.7f32;
            let sampled =
                logits[tokens[t + 1] as usize] * inverse - grpo_core::kernels::simd::log_sum_exp(logits, inverse);
            assert_eq!(sampled.to_bits(), trained[t + 1].logprob.to_bits(), "token {}", t + 1);
        }
        let mut cache = model.new_cache(usize::MAX, true);
        cache.open(&tokens).unwrap();
        let chunked = std::iter::repeat_with(|| model.step(&mut cache, 7).unwrap())
            .find(|rows| !rows.is_empty())
            .unwrap()
            .remove(0)
            .1;
        let same = chunked.iter().zip(stepped.last().unwrap()).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "a chunked prefill differs from single steps");
    });
}

/// Sequences that share prefixes, forked, extended and released at different times, give what each gives alone.
#[test]
fn fixtures_shared_prefixes_change_no_bit() {
    for_each_model(|directory, _, kernels| {
        if kernels == Kernels::Plain {
            return;
        }
        let model = load(directory, kernels);
        let trunk: Vec<u32> = (0..150).map(|i| (i * 37 + 11) % 6000).collect();
        let branches: Vec<Vec<u32>> =
            (0..6).map(|b| [&trunk[..100 + 10 * (b as usize % 3)], &[b * 7 + 1, b * 5 + 2, 3]].concat()).collect();
        let alone: Vec<Vec<f32>> = branches
            .iter()
            .map(|tokens| step_logits(&model, &[tokens.as_slice(), &[42]].concat()).pop().unwrap())
            .collect();
        let mut cache = model.new_cache(usize::MAX, true);
        let mut opened = Vec::new();
        for tokens in &branches {
            opened.push(cache.open(tokens).unwrap());
            if opened.len() == 3 {
                while cache.pending() > 0 {
                    model.step(&mut cache, 64).unwrap();
                }
                cache.release(opened[1]);
                opened[1] = cache.open(&branches[1]).unwrap();
            }
        }
        while cache.pending() > 0 {
            model.step(&mut cache, 40).unwrap();
        }
        for sequence in &opened {
            cache.append(*sequence, &[42]).unwrap();
        }
        let rows = model.step(&mut cache, 512).unwrap();
        assert_eq!(rows.len(), branches.len());
        for (sequence, logits) in rows {
            let branch = opened.iter().position(|s| *s == sequence).unwrap();
            assert!(logits.iter().zip(&alone[branch]).all(|(a, b)| a.to_bits() == b.to_bits()), "branch {branch}");
        }
    });
}

#[test]
fn fixtures_saved_models_load_again_with_the_same_weights() {
    for_each_model(|directory, _, kernels| {
        let model = load(directory, kernels);
        let name = format!("grpo-cl-save-{}-{}", std::process::id(), directory.file_name().unwrap().to_string_lossy());
        let target = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&target).unwrap();
        model.save(&target).unwrap();
        let again = load(&target, kernels);
        assert_eq!(again.config.eos_token_ids, model.config.eos_token_ids);
        for (a, b) in model.parameters.iter().zip(&again.parameters) {
            assert_eq!((&a.name, flat(&a.weight.tensor)), (&b.name, flat(&b.weight.tensor)));
        }
        std::fs::remove_dir_all(&target).unwrap();
    });
}

/// GSPO's slopes in plain f64: the ratio of a sequence is the mean over its tokens in the loss, and so is what flows through it.
fn gspo_slopes(batch: &RaggedBatch, weights: &[f32], advantages: &[f32], new: &[f64], grpo: &Grpo) -> Vec<f32> {
    let mut slopes = vec![0.0; new.len()];
    for (s, ratio) in sequence_ratios(batch, new).into_iter().enumerate() {
        let tokens = loss_tokens(batch, s);
        let (low, high) = (1.0 - grpo.clip_low as f64, 1.0 + grpo.clip_high as f64);
        let flow = mean(&tokens, |t| {
            let advantage = advantages[t] as f64;
            let held = (ratio > high && advantage > 0.0) || (ratio < low && advantage < 0.0);
            if held { 0.0 } else { -(weights[t] as f64) * ratio * advantage }
        });
        for t in tokens {
            let d = batch.reference[t] as f64 - new[t];
            slopes[t] = (flow + weights[t] as f64 * grpo.kl_coef as f64 * (1.0 - d.exp())) as f32;
        }
    }
    slopes
}

fn sequence_ratios(batch: &RaggedBatch, new: &[f64]) -> Vec<f64> {
    (0..batch.sequences).map(|s| mean(&loss_tokens(batch, s), |t| new[t] - batch.old[t] as f64).exp()).collect()
}

fn loss_tokens(batch: &RaggedBatch, sequence: usize) -> Vec<usize> {
    let bounds = batch.offsets[sequence] as usize..batch.offsets[sequence + 1] as usize;
    bounds.filter(|t| batch.mask[*t] == 1.0).collect()
}

fn mean(tokens: &[usize], value: impl Fn(usize) -> f64) -> f64 {
    tokens.iter().map(|t| value(*t)).sum::<f64>() / tokens.len() as f64
}

fn largest_difference(got: &[Vec<f32>], wanted: &[Vec<f32>], what: &str) {
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let largest = wanted.iter().fold(1e-9f32, |a, b| a.max(b.abs()));
        let difference = got.iter().zip(wanted).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
        assert!(difference <= 1e-5 * largest, "{what}: parameter {i} differs by {difference} of {largest}");
    }
}

/// A sequence's loss equals a supervised one whose token weights are its slopes; neither sharing nor order matters.
#[test]
fn fixtures_sequence_level_gradients() {
    for_each_model(|directory, expected, kernels| {
        let model = load(directory, kernels);
        let batch = RaggedBatch::read(expected);
        let weights = batch.weights("grpo");
        // different within a sequence, as turn-level credit has them
        let advantages: Vec<f32> =
            batch.advantages.iter().enumerate().map(|(t, a)| a * (1.0 + 0.2 * (t % 3) as f32)).collect();
        let found = distributions(&model, &batch.tokens, &batch.offsets, 1.0).unwrap();
        let new: Vec<f64> = found.iter().map(|d| d.logprob as f64).collect();
        // between the ratios, so that some are clipped and some are not
        let clip =
            sequence_ratios(&batch, &new).iter().map(|ratio| (ratio - 1.0).abs()).fold(0.2, f64::min) as f32 * 1.5;
        let level = ImportanceSamplingLevel::Sequence;
        let grpo = Grpo { importance_sampling_level: level, clip_low: clip, clip_high: clip, ..GRPO };
        let gradients_of = |options, order: &[usize], loss: &Loss, weights: &[f32]| {
            let pick = |values: &[f32]| in_order(&batch.offsets, order, values);
            let (tokens, offsets) =
                (in_order(&batch.offsets, order, &batch.tokens), offsets_in_order(&batch.offsets, order));
            let (weights_n, advantages_n, old_logprobs_n) = (&pick(weights), &pick(&advantages), &pick(&batch.old));
            let arrays =
                Batch { tokens_n: &tokens, offsets: &offsets, weights_n, advantages_n, old_logprobs_n, stored: None };
            let mut trainer = Trainer::new(&model, options).unwrap();
            let report = trainer.forward_backward_against(&model, &pick(&batch.reference), &arrays, loss).unwrap();
            (report, trainer.gradients().iter().map(flat).collect::<Vec<_>>())
        };
        let forward: Vec<usize> = (0..batch.sequences).collect();
        let backward: Vec<usize> = (0..batch.sequences).rev().collect();
        let supervised: Vec<f32> =
            gspo_slopes(&batch, &weights, &advantages, &new, &grpo).into_iter().map(|slope| -slope).collect();
        let (_, wanted) = gradients_of(OPTIONS[0], &forward, &Loss::Nll { temperature: 1.0 }, &supervised);
        let (first, _) = gradients_of(OPTIONS[0], &forward, &Loss::Grpo(grpo), &weights);
        let clipped = first.clip_low_fraction + first.clip_high_fraction;
        assert!(clipped > 0.0 && clipped < 1.0, "{clipped} of the tokens are clipped: the case shows too little");
        for options in OPTIONS {
            for order in [&forward, &backward] {
                let (report, got) = gradients_of(options, order, &Loss::Grpo(grpo), &weights);
                largest_difference(&got, &wanted, &format!("{options:?} {order:?}"));
                close(report.loss, first.loss, 1e-7, "loss");
            }
        }
    });
}

fn in_order<T: Copy>(offsets: &[u32], order: &[usize], values: &[T]) -> Vec<T> {
    order.iter().flat_map(|s| values[offsets[*s] as usize..offsets[s + 1] as usize].iter().copied()).collect()
}

fn offsets_in_order(offsets: &[u32], order: &[usize]) -> Vec<u32> {
    let lengths = order.iter().map(|s| offsets[s + 1] - offsets[*s]);
    std::iter::once(0)
        .chain(lengths.scan(0, |end, length| {
            *end += length;
            Some(*end)
        }))
        .collect()
}
