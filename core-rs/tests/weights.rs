//! Weight operations, adapters, distillation and saved states, on the model that the repository brings.
use grpo_core::kernels::{Kernels, read};
use grpo_core::model::{AdapterSpec, Dtype, Model};
use grpo_core::train::{
    AdamW, Batch, Importance, Loss, Magnitude, Objective, Stored, Term, Trainer, TrainerOptions, WeightOp,
    distributions, top_logprobs,
};
use std::path::{Path, PathBuf};

fn model() -> Model {
    model_with(Kernels::Fused)
}

fn model_with(kernels: Kernels) -> Model {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart-model");
    Model::load(&directory, Dtype::F32, kernels).unwrap_or_else(|e| panic!("{e}"))
}

fn trainer(model: &Model) -> Trainer {
    Trainer::new(model, TrainerOptions { gradient_checkpointing: false, prefix_sharing: true, part_rows: 4 }).unwrap()
}

/// Three sequences of a few tokens; the first two share a prefix.
struct Data {
    tokens: Vec<u32>,
    offsets: Vec<u32>,
    weights: Vec<f32>,
    zeros: Vec<f32>,
}

fn data() -> Data {
    let sequences: [&[u32]; 3] = [&[5, 6, 7, 8, 9, 10, 11], &[5, 6, 7, 12, 13, 14], &[20, 21, 22, 23, 24]];
    let mut data = Data { tokens: vec![], offsets: vec![0], weights: vec![], zeros: vec![] };
    for sequence in sequences {
        data.tokens.extend(sequence);
        data.offsets.push(data.tokens.len() as u32);
        data.weights.extend((0..sequence.len()).map(|i| if i < 2 { 0.0 } else { 0.1 + 0.05 * i as f32 }));
    }
    data.zeros = vec![0.0; data.tokens.len()];
    data
}

impl Data {
    fn batch<'a>(&'a self, stored: Option<Stored<'a>>) -> Batch<'a> {
        Batch {
            tokens_n: &self.tokens,
            offsets: &self.offsets,
            weights_n: &self.weights,
            advantages_n: &self.zeros,
            old_logprobs_n: &self.zeros,
            stored,
        }
    }
}

const NLL: Objective = Objective::Tokens(Loss::Nll { temperature: 1.0 });

fn term(vector: &str, factor: f64) -> Term {
    Term { vector: vector.into(), factor }
}

fn combine(into: &str, terms: Vec<Term>) -> WeightOp {
    WeightOp::Combine { into: into.into(), terms }
}

fn flat(tensors: &[candle_core::Tensor]) -> Vec<f32> {
    tensors.iter().flat_map(|tensor| read(tensor).unwrap().to_vec()).collect()
}

fn weights_of(model: &Model) -> Vec<f32> {
    model.parameters.iter().flat_map(|p| read(&p.weight.tensor).unwrap().to_vec()).collect()
}

/// Value of a vector, through the gradient: the only live one that can be read whole.
fn vector(trainer: &mut Trainer, model: &mut Model, name: &str) -> Vec<f32> {
    trainer.operate(model, &combine("gradient", vec![term(name, 1.0)])).unwrap();
    flat(&trainer.gradients())
}

fn close(got: f64, expected: f64, relative: f64, what: &str) {
    let scale = expected.abs().max(1e-12);
    assert!((got - expected).abs() <= relative * scale, "{what}: {got}, expected {expected} within {relative}");
}

fn all_close(got: &[f32], expected: &[f32], relative: f32, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= relative * largest, "{what}[{i}]: {g}, expected {e}, largest {largest}");
    }
}

/// Moves the weights against the gradient of an NLL, so that a frozen copy from before differs.
fn moved(model: &mut Model, trainer: &mut Trainer, step: f64) {
    trainer.forward_backward(model, None, &data().batch(None), NLL).unwrap();
    trainer.operate(model, &combine("weights", vec![term("weights", 1.0), term("gradient", -step)])).unwrap();
    trainer.operate(model, &combine("gradient", vec![])).unwrap();
}

/// The gradient along itself is the slope of the loss: (loss(θ + h·g) − loss(θ − h·g)) / 2h = g·g.
fn check_slope(model: &mut Model, anchor: Option<&Model>, batch: &Batch, objective: Objective, what: &str) {
    let mut trainer = trainer(model);
    trainer.forward_backward(model, anchor, batch, objective).unwrap();
    let squared = trainer.operate(model, &WeightOp::Dot { a: "gradient".into(), b: "gradient".into() }).unwrap();
    trainer.operate(model, &combine("slope", vec![term("gradient", 1.0)])).unwrap();
    let h = 1e-2 / squared.sqrt();
    let mut loss_at = |factor: f64| {
        trainer.operate(model, &combine("weights", vec![term("weights", 1.0), term("slope", factor)])).unwrap();
        trainer.forward_backward(model, anchor, batch, objective).unwrap().loss
    };
    let (above, below) = (loss_at(h), loss_at(-2.0 * h));
    loss_at(h);
    close((above - below) / (2.0 * h), squared, 2e-2, what);
}

#[test]
fn losses_on_whole_distributions_have_the_slopes_of_their_values() {
    let mut policy = model();
    let before = policy.snapshot().unwrap();
    moved(&mut policy, &mut trainer(&before), 0.0);
    let mut t = trainer(&policy);
    moved(&mut policy, &mut t, 0.5);
    let data = data();
    check_slope(&mut policy, None, &data.batch(None), NLL, "nll");
    check_slope(&mut policy, Some(&before), &data.batch(None), Objective::Distill { temperature: 0.7 }, "distill");
    check_slope(&mut policy, None, &data.batch(None), Objective::OutputNorm, "output norm");
    let (ids, logprobs) = top_logprobs(&before, &data.tokens, &data.offsets, &[], 0.7, 5).unwrap();
    let stored = Stored::new(&ids, &logprobs, data.tokens.len()).unwrap();
    check_slope(&mut policy, None, &data.batch(stored), Objective::DistillStored { temperature: 0.7 }, "stored");
}

#[test]
fn a_stored_distribution_of_the_whole_vocabulary_is_the_anchor() {
    let mut policy = model();
    let before = policy.snapshot().unwrap();
    let mut t = trainer(&policy);
    moved(&mut policy, &mut t, 0.5);
    let data = data();
    let k = before.config.vocab_size;
    let (ids, logprobs) = top_logprobs(&before, &data.tokens, &data.offsets, &[], 1.0, k).unwrap();
    let stored = Stored::new(&ids, &logprobs, data.tokens.len()).unwrap();
    let mut gradients = Vec::new();
    for (batch, objective) in [
        (data.batch(None), Objective::Distill { temperature: 1.0 }),
        (data.batch(stored), Objective::DistillStored { temperature: 1.0 }),
    ] {
        let mut trainer = trainer(&policy);
        let report = trainer.forward_backward(&policy, Some(&before), &batch, objective).unwrap();
        gradients.push((report.loss, flat(&trainer.gradients())));
    }
    assert!(gradients[0].0 > 1e-4, "the policies differ");
    close(gradients[1].0, gradients[0].0, 1e-3, "loss");
    all_close(&gradients[1].1, &gradients[0].1, 1e-3, "gradient");
    let itself = policy.snapshot().unwrap();
    let mut trainer = trainer(&policy);
    let report =
        trainer.forward_backward(&policy, Some(&itself), &data.batch(None), Objective::Distill { temperature: 1.0 });
    assert!(report.unwrap().loss.abs() < 1e-5, "a policy has no distance from itself");
}

#[test]
fn top_logprobs_are_the_largest_and_agree_with_those_of_the_tokens() {
    let policy = model();
    let data = data();
    let k = policy.config.vocab_size;
    let (ids, logprobs) = top_logprobs(&policy, &data.tokens, &data.offsets, &[], 0.7, k).unwrap();
    let own = distributions(&policy, &data.tokens, &data.offsets, 0.7).unwrap();
    for (t, token) in data.tokens.iter().enumerate().filter(|(t, _)| !data.offsets.contains(&(*t as u32))) {
        let row = t * k..(t + 1) * k;
        assert!(logprobs[row.clone()].is_sorted_by(|a, b| a >= b));
        let place = ids[row.clone()].iter().position(|id| id == token).unwrap();
        assert!((logprobs[row.start + place] - own[t].logprob).abs() < 1e-5);
    }
    let (asked, _) = top_logprobs(&policy, &data.tokens, &data.offsets, &data.weights, 0.7, 3).unwrap();
    for (t, weight) in data.weights.iter().enumerate() {
        let expected = if *weight == 0.0 { &[0; 3] } else { &ids[t * k..t * k + 3] };
        assert_eq!(&asked[t * 3..t * 3 + 3], expected);
    }
    assert!(top_logprobs(&policy, &data.tokens, &data.offsets, &[], 0.7, k + 1).is_err());
}

#[test]
fn an_importance_is_the_sum_over_sequences_of_squared_gradients() {
    let policy = model();
    let data = data();
    for (of, size) in [
        (Magnitude::Square, (|g: f32| g * g) as fn(f32) -> f32),
        (Magnitude::Absolute, (|g: f32| g.abs()) as fn(f32) -> f32),
    ] {
        let mut together = trainer(&policy);
        together
            .add_importance(&policy, None, &data.batch(None), NLL, Importance { into: "importance", of, anchor: None })
            .unwrap();
        let mut expected = vec![0f32; policy.parameter_count()];
        for s in 0..data.offsets.len() - 1 {
            let range = data.offsets[s] as usize..data.offsets[s + 1] as usize;
            let one = Data {
                tokens: data.tokens[range.clone()].to_vec(),
                offsets: vec![0, range.len() as u32],
                weights: data.weights[range.clone()].to_vec(),
                zeros: vec![0.0; range.len()],
            };
            let mut alone = trainer(&policy);
            alone.forward_backward(&policy, None, &one.batch(None), NLL).unwrap();
            expected.iter_mut().zip(flat(&alone.gradients())).for_each(|(e, g)| *e += size(g));
        }
        let mut policy = policy.snapshot().unwrap();
        policy.parameters.iter_mut().for_each(|p| p.trained = true);
        all_close(&vector(&mut together, &mut policy, "importance"), &expected, 1e-6, "importance");
    }
}

#[test]
fn arithmetic_on_vectors_is_that_of_their_numbers() {
    let mut policy = model();
    let mut t = trainer(&policy);
    let start = weights_of(&policy);
    t.operate(&mut policy, &combine("start", vec![term("weights", 1.0)])).unwrap();
    let data = data();
    t.forward_backward(&policy, None, &data.batch(None), NLL).unwrap();
    let g = flat(&t.gradients());
    t.operate(&mut policy, &combine("g", vec![term("gradient", 1.0)])).unwrap();
    t.operate(&mut policy, &combine("f", vec![])).unwrap();
    t.operate(&mut policy, &WeightOp::AddProduct { into: "f".into(), a: "g".into(), b: "g".into(), factor: 2.0 })
        .unwrap();
    let f: Vec<f32> = g.iter().map(|g| 2.0 * g * g).collect();
    all_close(&vector(&mut t, &mut policy, "f"), &f, 1e-6, "2·g·g");
    moved(&mut policy, &mut t, 0.01);
    let now = weights_of(&policy);

    t.operate(&mut policy, &combine("gradient", vec![])).unwrap();
    let penalty = WeightOp::AddQuadraticPenalty { importance: "f".into(), anchor: "start".into(), strength: 3.0 };
    let value = t.operate(&mut policy, &penalty).unwrap();
    let pull: Vec<f32> = (0..f.len()).map(|i| 3.0 * f[i] * (now[i] - start[i])).collect();
    let expected: f64 = (0..f.len()).map(|i| 1.5 * f[i] as f64 * ((now[i] - start[i]) as f64).powi(2)).sum();
    close(value, expected, 1e-4, "value of the penalty");
    all_close(&flat(&t.gradients()), &pull, 1e-5, "gradient of the penalty");

    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
    t.operate(&mut policy, &combine("gradient", vec![term("start", 1.0), term("g", -2.0)])).unwrap();
    let before = flat(&t.gradients());
    let along = t.operate(&mut policy, &WeightOp::ProjectGradient { reference: "g".into() }).unwrap();
    close(along, dot(&before, &g), 1e-4, "gradient · reference");
    assert!(along < 0.0, "the case must project");
    let factor = dot(&before, &g) / dot(&g, &g);
    let projected: Vec<f32> = before.iter().zip(&g).map(|(b, g)| (*b as f64 - factor * *g as f64) as f32).collect();
    all_close(&flat(&t.gradients()), &projected, 1e-5, "projected gradient");
    t.operate(&mut policy, &combine("gradient", vec![term("g", 1.0)])).unwrap();
    t.operate(&mut policy, &WeightOp::ProjectGradient { reference: "g".into() }).unwrap();
    assert_eq!(flat(&t.gradients()), g, "a gradient that agrees stays as it is");

    let path =
        WeightOp::AddPathImportance { into: "omega".into(), path: "g".into(), start: "start".into(), damping: 0.1 };
    t.operate(&mut policy, &path).unwrap();
    let omega: Vec<f32> = (0..g.len()).map(|i| g[i].max(0.0) / ((now[i] - start[i]).powi(2) + 0.1)).collect();
    all_close(&vector(&mut t, &mut policy, "omega"), &omega, 1e-5, "path importance");
    assert!(t.operate(&mut policy, &combine("x", vec![term("nobody", 1.0)])).is_err());
}

#[test]
fn consolidated_quadratics_are_their_sum() {
    for kernels in [Kernels::Fused, Kernels::Plain] {
        consolidate_and_sum(model_with(kernels));
    }
}

fn consolidate_and_sum(mut policy: Model) {
    let mut t = trainer(&policy);
    let data = data();
    let mut quadratics = Vec::new();
    let (mut constant, mut constant_at_once) = (0.0, 0.0);
    for round in 0..3 {
        moved(&mut policy, &mut t, 0.3);
        t.drop_vector("f");
        t.add_importance(
            &policy,
            None,
            &data.batch(None),
            NLL,
            Importance { into: "f", of: Magnitude::Square, anchor: None },
        )
        .unwrap();
        let f = vector(&mut t, &mut policy, "f");
        quadratics.push((f, weights_of(&policy)));
        let op = WeightOp::Consolidate { importance: "h".into(), anchor: "m".into(), add: "f".into() };
        let gained = t.operate(&mut policy, &op).unwrap();
        assert_eq!(round == 0, gained == 0.0, "only a second quadratic adds a constant");
        constant += gained;
        let at_once = Importance { into: "h at once", of: Magnitude::Square, anchor: Some("m at once") };
        constant_at_once += t.add_importance(&policy, None, &data.batch(None), NLL, at_once).unwrap();
        for (whole, at_once) in [("h", "h at once"), ("m", "m at once")] {
            let expected = vector(&mut t, &mut policy, whole);
            all_close(&vector(&mut t, &mut policy, at_once), &expected, 1e-5, "without a Fisher of its own");
        }
        close(constant_at_once, constant, 1e-4, "constant");
        t.operate(&mut policy, &combine("gradient", vec![])).unwrap();
    }
    moved(&mut policy, &mut t, 0.2);
    let now = weights_of(&policy);
    let penalty = WeightOp::AddQuadraticPenalty { importance: "h".into(), anchor: "m".into(), strength: 2.0 };
    let value = t.operate(&mut policy, &penalty).unwrap() + constant;
    let sum =
        |i: usize| quadratics.iter().map(|(f, at)| f[i] as f64 * (now[i] as f64 - at[i] as f64).powi(2)).sum::<f64>();
    close(value, (0..now.len()).map(sum).sum(), 1e-3, "value");
    let slope = |i: usize| {
        quadratics.iter().map(|(f, at)| 2.0 * f[i] as f64 * (now[i] as f64 - at[i] as f64)).sum::<f64>() as f32
    };
    all_close(&flat(&t.gradients()), &(0..now.len()).map(slope).collect::<Vec<_>>(), 1e-4, "gradient");
}

#[test]
fn merges_of_a_vector_with_itself_are_the_vector() {
    let mut policy = model();
    let mut t = trainer(&policy);
    t.operate(&mut policy, &combine("v", vec![term("weights", 1.0)])).unwrap();
    let v = vector(&mut t, &mut policy, "v");
    let vectors = || vec!["v".to_string(), "v".to_string()];
    for op in [
        WeightOp::MergeTies { into: "merged".into(), vectors: vectors(), density: 1.0 },
        WeightOp::MergeDare { into: "merged".into(), vectors: vectors(), drop_rate: 0.0, seed: 1 },
        WeightOp::MergeFisher { into: "merged".into(), vectors: vectors(), importances: vectors() },
    ] {
        t.operate(&mut policy, &op).unwrap();
        all_close(&vector(&mut t, &mut policy, "merged"), &v, 1e-6, &format!("{op:?}"));
    }
}

#[test]
fn merges_follow_their_papers() {
    let mut policy = model();
    let mut t = trainer(&policy);
    t.operate(&mut policy, &combine("a", vec![term("weights", 1.0)])).unwrap();
    moved(&mut policy, &mut t, 2.0);
    t.operate(&mut policy, &combine("b", vec![term("weights", -0.5)])).unwrap();
    let (a, b) = (vector(&mut t, &mut policy, "a"), vector(&mut t, &mut policy, "b"));
    let names = || vec!["a".to_string(), "b".to_string()];

    t.operate(&mut policy, &WeightOp::MergeTies { into: "m".into(), vectors: names(), density: 0.3 }).unwrap();
    let trim = |v: &[f32]| {
        let mut sizes: Vec<f32> = v.iter().map(|x| x.abs()).collect();
        sizes.sort_by(f32::total_cmp);
        let threshold = sizes[sizes.len() - (0.3 * sizes.len() as f64).floor() as usize];
        v.iter().map(|x| if x.abs() >= threshold { *x } else { 0.0 }).collect::<Vec<f32>>()
    };
    let (ta, tb) = (trim(&a), trim(&b));
    let ties = |i: usize| {
        let sign = (ta[i] + tb[i]).signum() * if ta[i] + tb[i] == 0.0 { 0.0 } else { 1.0 };
        let agreeing: Vec<f32> = [ta[i], tb[i]].into_iter().filter(|x| x * sign > 0.0).collect();
        agreeing.iter().sum::<f32>() / agreeing.len().max(1) as f32
    };
    all_close(&vector(&mut t, &mut policy, "m"), &(0..a.len()).map(ties).collect::<Vec<_>>(), 1e-6, "TIES");

    let dare = WeightOp::MergeDare { into: "m".into(), vectors: vec!["a".into()], drop_rate: 0.6, seed: 9 };
    t.operate(&mut policy, &dare).unwrap();
    let thinned = vector(&mut t, &mut policy, "m");
    let kept = thinned.iter().zip(&a).filter(|(m, a)| **m != 0.0 && **a != 0.0).count() as f64;
    close(kept / a.iter().filter(|a| **a != 0.0).count() as f64, 0.4, 0.02, "share that DARE keeps");
    for (m, a) in thinned.iter().zip(&a) {
        assert!(*m == 0.0 || (m / a - 2.5).abs() < 1e-4, "{m} is not {a} / 0.4");
    }

    t.operate(&mut policy, &combine("fa", vec![])).unwrap();
    t.operate(&mut policy, &WeightOp::AddProduct { into: "fa".into(), a: "a".into(), b: "a".into(), factor: 1.0 })
        .unwrap();
    t.operate(&mut policy, &combine("fb", vec![])).unwrap();
    let fisher =
        WeightOp::MergeFisher { into: "m".into(), vectors: names(), importances: vec!["fa".into(), "fb".into()] };
    t.operate(&mut policy, &fisher).unwrap();
    let expected: Vec<f32> = (0..a.len()).map(|i| if a[i] != 0.0 { a[i] } else { (a[i] + b[i]) / 2.0 }).collect();
    all_close(&vector(&mut t, &mut policy, "m"), &expected, 1e-6, "Fisher-weighted");
}

fn spec(name: &str, gates: bool) -> AdapterSpec {
    let target_modules = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"].map(str::to_string).to_vec();
    AdapterSpec { name: name.into(), rank: 4, alpha: 8.0, target_modules, gates }
}

fn add_adapter(policy: &mut Model, trainer: &mut Trainer, spec: AdapterSpec, seed: u64) {
    let AdapterSpec { name, rank, alpha, target_modules, gates } = spec;
    trainer.operate(policy, &WeightOp::AddAdapter { name, rank, alpha, target_modules, gates, seed }).unwrap();
}

fn logprobs(model: &Model) -> Vec<f32> {
    let data = data();
    distributions(model, &data.tokens, &data.offsets, 1.0).unwrap().iter().map(|d| d.logprob).collect()
}

fn learn(policy: &mut Model, trainer: &mut Trainer, steps: usize) {
    let options =
        AdamW { learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, max_grad_norm: 1.0 };
    for _ in 0..steps {
        trainer.forward_backward(policy, None, &data().batch(None), NLL).unwrap();
        trainer.optimizer_step(policy, &options).unwrap();
    }
}

#[test]
fn an_adapter_starts_as_nothing_learns_and_leaves_the_base_alone() {
    let mut policy = model();
    let base = policy.snapshot().unwrap();
    let dense = weights_of(&policy);
    let mut t = trainer(&policy);
    add_adapter(&mut policy, &mut t, spec("first", false), 7);
    assert_eq!(logprobs(&policy), logprobs(&base), "B starts at zero");
    learn(&mut policy, &mut t, 3);
    assert_ne!(logprobs(&policy), logprobs(&base));
    assert_eq!(&weights_of(&policy)[..dense.len()], dense, "the dense weights do not move");
    check_slope(&mut policy, None, &data().batch(None), NLL, "adapter");
    let frozen = policy.snapshot().unwrap();
    let merged_logprobs = logprobs(&policy);
    let mut t = trainer(&policy);
    t.operate(&mut policy, &WeightOp::MergeAdapters {}).unwrap();
    all_close(&logprobs(&policy), &merged_logprobs, 1e-5, "merged");
    assert_eq!(logprobs(&frozen), merged_logprobs, "a frozen copy keeps its adapter and its dense weights");
    assert_eq!(weights_of(&base), dense);
}

#[test]
fn gated_columns_leave_earlier_ones_bit_identical() {
    let mut policy = model();
    let mut t = trainer(&policy);
    add_adapter(&mut policy, &mut t, spec("a", true), 1);
    learn(&mut policy, &mut t, 2);
    let first = logprobs(&policy);
    add_adapter(&mut policy, &mut t, spec("b", true), 2);
    assert_ne!(logprobs(&policy), first, "gates start at 0, so the earlier adapter is not heard");
    learn(&mut policy, &mut t, 2);
    check_slope(&mut policy, None, &data().batch(None), NLL, "gates");
    t.operate(&mut policy, &WeightOp::ActivateAdapter { column: "a".into() }).unwrap();
    assert_eq!(logprobs(&policy), first);
}

#[test]
fn the_orthogonal_penalty_has_its_gradient() {
    let mut policy = model();
    let mut t = trainer(&policy);
    add_adapter(&mut policy, &mut t, spec("a", false), 1);
    assert_eq!(t.operate(&mut policy, &WeightOp::AddOrthogonalPenalty { strength: 1.0 }).unwrap(), 0.0);
    add_adapter(&mut policy, &mut t, spec("b", false), 2);
    let here = t.operate(&mut policy, &WeightOp::AddOrthogonalPenalty { strength: 1.0 }).unwrap();
    assert!(here > 0.0);
    let squared = t.operate(&mut policy, &WeightOp::Dot { a: "gradient".into(), b: "gradient".into() }).unwrap();
    let h = 1e-3 / squared.sqrt();
    let step = combine("weights", vec![term("weights", 1.0), term("gradient", h)]);
    t.operate(&mut policy, &step).unwrap();
    let there = t.operate(&mut policy, &WeightOp::AddOrthogonalPenalty { strength: 0.0 }).unwrap();
    close((there - here) / h, squared, 1e-2, "slope");
}

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("grpo-core-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn adapters_are_written_and_read_as_peft_does() {
    let directory = Directory::new("adapter");
    let mut policy = model();
    let mut t = trainer(&policy);
    add_adapter(&mut policy, &mut t, spec("a", false), 1);
    learn(&mut policy, &mut t, 2);
    policy.save_adapter(&directory.0, "base").unwrap();
    let mut read_back = model();
    read_back.load_adapter("again", &directory.0).unwrap();
    assert_eq!(logprobs(&read_back), logprobs(&policy));
    add_adapter(&mut policy, &mut t, spec("b", false), 2);
    learn(&mut policy, &mut t, 2);
    policy.save_adapter(&directory.0, "base").unwrap();
    let mut joined = model();
    joined.load_adapter("joined", &directory.0).unwrap();
    all_close(&logprobs(&joined), &logprobs(&policy), 1e-5, "rank-concatenated");
    assert!(model().load_adapter("none", Path::new("/nowhere")).is_err());
}

#[test]
fn a_saved_state_brings_back_adapters_vectors_moments_and_frozen_models() {
    let directory = Directory::new("state");
    let file = directory.0.join("state.safetensors");
    for adapters in [0, 1, 2] {
        let mut policy = model();
        let mut t = trainer(&policy);
        for i in 0..adapters {
            add_adapter(&mut policy, &mut t, spec(["a", "b"][i], false), i as u64);
            learn(&mut policy, &mut t, 1);
        }
        learn(&mut policy, &mut t, 2);
        t.operate(&mut policy, &combine("start", vec![term("weights", 1.0)])).unwrap();
        let frozen = policy.snapshot().unwrap();
        learn(&mut policy, &mut t, 2);
        t.save_state(&policy, &[("before", &frozen)], &file).unwrap();
        let digest = t.digest(&policy).unwrap();

        let mut again = model();
        let mut other = trainer(&again);
        assert_ne!(other.digest(&again).unwrap(), digest);
        let models = other.load_state(&mut again, &file).unwrap();
        assert_eq!(other.digest(&again).unwrap(), digest, "{adapters} adapters");
        assert_eq!(models.len(), 1);
        assert_eq!(models[0].0, "before");
        assert_eq!(logprobs(&models[0].1), logprobs(&frozen));
        assert_ne!(logprobs(&models[0].1), logprobs(&policy));
        learn(&mut policy, &mut t, 1);
        learn(&mut again, &mut other, 1);
        assert_eq!(logprobs(&again), logprobs(&policy), "the next step is the same");
    }
}

#[test]
fn writing_the_effective_weights_drops_adapters_and_survives_a_saved_state() {
    let directory = Directory::new("effective");
    let file = directory.0.join("state.safetensors");
    let mut policy = model();
    let mut t = trainer(&policy);
    add_adapter(&mut policy, &mut t, spec("a", false), 1);
    t.operate(&mut policy, &combine("theta_0", vec![term("effective", 1.0)])).unwrap();
    learn(&mut policy, &mut t, 3);
    let learned = logprobs(&policy);
    let halfway = combine("effective", vec![term("theta_0", 0.5), term("effective", 0.5)]);
    t.operate(&mut policy, &halfway).unwrap();
    assert!(policy.adapters().is_empty());
    assert_ne!(logprobs(&policy), learned);
    add_adapter(&mut policy, &mut t, spec("b", false), 2);
    let merged = logprobs(&policy);
    t.save_state(&policy, &[], &file).unwrap();
    let mut again = model();
    let mut other = trainer(&again);
    other.load_state(&mut again, &file).unwrap();
    assert_eq!(logprobs(&again), merged);
    // halfway back again, from the deltas: θ₀ + 2·(merged − θ₀) is what was learned
    let back = combine("effective", vec![term("theta_0", -1.0), term("effective", 2.0)]);
    t.operate(&mut policy, &back).unwrap();
    all_close(&logprobs(&policy), &learned, 1e-4, "from the deltas");
}
