//! Models of bfloat16 and float16 weights, on the model that the repository brings.
use candle_core::{DType, Tensor};
use grpo_core::kernels::Kernels;
use grpo_core::kernels::simd::{Isa, isa};
use grpo_core::model::AdapterSpec;
use grpo_core::model::{Dtype, Model};
use grpo_core::train::{AdamW, Batch, Loss, PART_ROWS, Trainer, TrainerOptions, WeightOp, distributions};
use std::path::Path;

const TYPES: [(Dtype, DType); 2] = [(Dtype::Bf16, DType::BF16), (Dtype::F16, DType::F16)];

fn load(dtype: Dtype, kernels: Kernels) -> Model {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart-model");
    Model::load(&directory, dtype, kernels).unwrap_or_else(|e| panic!("{e}"))
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

const TOKENS: [u32; 12] = [5, 6, 7, 8, 9, 10, 11, 20, 21, 22, 23, 24];

/// Log-probabilities of TOKENS as a sequence among `others`, each fed token by token through the sampling cache.
fn sampled(model: &Model, others: usize) -> Vec<f32> {
    let mut cache = model.new_cache(usize::MAX, true);
    let start = |i: usize| [if i == 0 { TOKENS[0] } else { 30 + i as u32 }];
    let sequences: Vec<_> = (0..=others).map(|i| cache.open(&start(i)).unwrap()).collect();
    let mut logprobs = vec![0.0];
    for token in &TOKENS[1..] {
        let rows = model.step(&mut cache, 512).unwrap();
        let (_, logits) = rows.iter().find(|(sequence, _)| *sequence == sequences[0]).unwrap();
        logprobs.push(logits[*token as usize] - grpo_core::kernels::simd::log_sum_exp(logits, 1.0));
        sequences.iter().for_each(|sequence| cache.append(*sequence, &[*token]).unwrap());
    }
    logprobs
}

fn trained(model: &Model) -> Vec<f32> {
    let found = distributions(model, &TOKENS, &[0, TOKENS.len() as u32], 1.0).unwrap();
    found.iter().map(|d| d.logprob).collect()
}

#[test]
fn what_is_sampled_is_what_is_trained_bit_for_bit_whatever_is_beside_it() {
    for (dtype, _) in TYPES {
        let model = load(dtype, Kernels::Fused);
        let expected = trained(&model);
        for others in [0, 31] {
            assert_eq!(sampled(&model, others), expected, "{dtype:?} beside {others} others");
        }
    }
}

#[test]
fn matrices_take_two_bytes_an_element_and_only_they_are_rounded_to_fit() {
    for (dtype, kept) in TYPES {
        let (model, exact) = (load(dtype, Kernels::Fused), load(Dtype::F32, Kernels::Fused));
        for (parameter, exact) in model.parameters.iter().zip(&exact.parameters) {
            let tensor = &parameter.weight.tensor;
            assert_eq!(tensor.dtype(), if tensor.rank() > 1 { kept } else { DType::F32 }, "{}", parameter.name);
            assert_eq!(values(tensor), values(&exact.weight.tensor.to_dtype(kept).unwrap()), "{}", parameter.name);
        }
    }
}

fn norm(values: &[f32]) -> f32 {
    values.iter().map(|v| v * v).sum::<f32>().sqrt()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    norm(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f32>>())
}

const OPTIONS: TrainerOptions =
    TrainerOptions { gradient_checkpointing: false, prefix_sharing: true, part_rows: PART_ROWS };

fn gradient_of(model: &Model, trainer: &mut Trainer) -> Vec<f32> {
    let (ones, zeros) = ([1.0; TOKENS.len()], [0.0; TOKENS.len()]);
    let batch = Batch {
        tokens_n: &TOKENS,
        offsets: &[0, TOKENS.len() as u32],
        weights_n: &ones,
        advantages_n: &zeros,
        old_logprobs_n: &zeros,
        stored: None,
    };
    trainer.forward_backward(model, None, &batch, &Loss::Nll { temperature: 1.0 }).unwrap();
    trainer.gradients().iter().flat_map(values).collect()
}

/// bf16 dot products round the activations, too, as PyTorch does: to 2⁻⁹ of themselves. Otherwise 16-bit weights meet f32.
#[test]
fn fused_and_plain_kernels_agree() {
    for (dtype, _) in TYPES {
        let rounds = dtype == Dtype::Bf16 && isa() == Isa::Avx512Bf16;
        let (of_logprob, of_gradient) = if rounds { (1.0 / 256.0, 1.0 / 128.0) } else { (1e-5, 1e-4) };
        let models = [Kernels::Fused, Kernels::Plain].map(|kernels| load(dtype, kernels));
        let logprobs = models.each_ref().map(trained);
        let gradients = models.each_ref().map(|m| gradient_of(m, &mut Trainer::new(m, OPTIONS).unwrap()));
        for (what, [fused, plain], most) in [("logprobs", logprobs, of_logprob), ("gradient", gradients, of_gradient)] {
            let relative = distance(&fused, &plain) / norm(&plain);
            eprintln!("{dtype:?} {what}: {relative}");
            assert!(relative <= most, "{dtype:?} {what}: {relative} apart, at most {most}");
        }
    }
}

const ADAMW: AdamW =
    AdamW { learning_rate: 1e-6, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, max_grad_norm: 1.0 };

fn all_values(model: &Model) -> Vec<f32> {
    model.parameters.iter().flat_map(|p| values(&p.weight.tensor)).collect()
}

#[test]
fn small_steps_add_up_in_the_masters_and_survive_a_saved_state() {
    for (dtype, _) in TYPES {
        let mut model = load(dtype, Kernels::Fused);
        let before = all_values(&model);
        let frozen = model.snapshot().unwrap();
        let mut trainer = Trainer::new(&model, OPTIONS).unwrap();
        for _ in 0..3 {
            gradient_of(&model, &mut trainer);
            trainer.optimizer_step(&mut model, &ADAMW).unwrap();
        }
        assert_eq!(all_values(&frozen), before);
        assert_ne!(all_values(&model), before, "some weight lay near enough to a border");

        let file = std::env::temp_dir().join(format!("grpo-cl-half-{}-{dtype:?}", std::process::id()));
        trainer.save_state(&model, &[("base", &frozen)], &file).unwrap();
        let mut again = load(dtype, Kernels::Fused);
        let mut resumed = Trainer::new(&again, OPTIONS).unwrap();
        let models = resumed.load_state(&mut again, &file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(all_values(&again), all_values(&model));
        assert_eq!(all_values(&models[0].1), before);
        assert_eq!(models[0].1.parameters[0].weight.tensor.dtype(), frozen.parameters[0].weight.tensor.dtype());
        assert_eq!(resumed.digest(&again).unwrap(), trainer.digest(&model).unwrap());
    }
}

#[test]
fn an_adapter_of_nothing_merges_to_the_same_weights() {
    for (dtype, kept) in TYPES {
        let mut model = load(dtype, Kernels::Fused);
        let before = all_values(&model);
        let spec = AdapterSpec {
            name: "a".into(),
            rank: 2,
            alpha: 4.0,
            target_modules: vec!["q_proj".into(), "down_proj".into()],
            gates: false,
        };
        model.add_adapter(spec, 1).unwrap();
        let mut trainer = Trainer::new(&model, OPTIONS).unwrap();
        gradient_of(&model, &mut trainer);
        trainer.operate(&mut model, &WeightOp::MergeAdapters {}).unwrap();
        assert_eq!(all_values(&model), before);
        assert!(model.parameters.iter().all(|p| p.weight.tensor.rank() == 1 || p.weight.tensor.dtype() == kept));
    }
}
