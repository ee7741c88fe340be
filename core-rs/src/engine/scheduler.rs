//! Continuous batching: samples join and leave at every step. What changes weights waits for the running samples of its
//! model, and what came later waits behind it; a gradient only reads weights, so samples go on between its parts.
use super::completions::{Completions, Reply};
use super::request::{Arrays, GrammarUse, Job, POLICY, SampleJob};
use super::sampler::{Pick, Sampler};
use super::slots::Slots;
use super::{EngineOptions, Failure, Message, Texts, no_model};
use crate::error::{Error, Result};
use crate::model::{Cache, Dtype, Model, SequenceId};
use crate::text::Text;
use crate::text::calls::{CallConstraint, Mask};
use crate::train::{self, AdamW, Importance, Objective, PART_ROWS, Trainer, TrainerOptions, WeightOp};
use rayon::prelude::*;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Pending tokens fed at one step: long prompts are cut so that running samples go on meanwhile.
const STEP_TOKENS_MAX: usize = 512;

pub struct Scheduler {
    options: EngineOptions,
    inbox: Receiver<Message>,
    completions: Arc<Completions>,
    texts: Texts,
    models: BTreeMap<String, Loaded>,
    /// Made at the first gradient, so that evaluation does not pay for master weights and moments.
    trainer: Option<Trainer>,
    sequences: Slots<Sequence>,
    /// In order of arrival.
    waiting: VecDeque<(u64, Job)>,
    running: Vec<Sample>,
    /// A gradient is being made: of the jobs that wait only samples may start.
    in_gradient: bool,
    closed: bool,
    timings: Timings,
}

/// Time spent since somebody last asked.
#[derive(Default)]
struct Timings {
    prefill: Duration,
    decode: Duration,
    forward: Duration,
    backward: Duration,
    optimizer: Duration,
    save: Duration,
}

impl Timings {
    /// Milliseconds by phase, as `Policy.timings` in src/core/policy.ts.
    fn told(&self) -> Json {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        json!({
            "prefill": ms(self.prefill), "decode": ms(self.decode), "forward": ms(self.forward),
            "backward": ms(self.backward), "optimizer": ms(self.optimizer), "save": ms(self.save),
        })
    }
}

struct Loaded {
    /// Shared with a gradient in the making, and with nothing else.
    model: Arc<Model>,
    cache: Cache,
}

struct Sequence {
    model: String,
    in_cache: Option<SequenceId>,
    /// Tokens of the sequence that the cache has not been given: the last sampled one waits for the next turn.
    unfed: Vec<u32>,
    length: usize,
}

/// A request that is being sampled.
struct Sample {
    id: u64,
    sequence: u64,
    in_cache: SequenceId,
    job: Box<SampleJob>,
    /// Tokens that fit into the context beside those there at the start.
    room: usize,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    limit: Option<Limit>,
}

/// What a grammar does to a sample.
struct Limit {
    constraint: CallConstraint,
    /// Of the next token; None: not computed yet.
    mask: Option<Result<Option<Mask>>>,
    /// Of each sampled token: the probability that was not allowed.
    masked_mass: Vec<f32>,
}

#[derive(Clone, Copy)]
enum Stop {
    Token,
    MaxNewTokens,
    ContextWindow,
}

impl Stop {
    /// As `SampleStop` in src/core/policy.ts.
    fn name(self) -> &'static str {
        match self {
            Stop::Token => "stop_token",
            Stop::MaxNewTokens => "max_new_tokens",
            Stop::ContextWindow => "context_window_exceeded",
        }
    }
}

impl Scheduler {
    pub fn new(options: EngineOptions, inbox: Receiver<Message>, completions: Arc<Completions>, texts: Texts) -> Self {
        Self {
            options,
            inbox,
            completions,
            texts,
            models: BTreeMap::new(),
            trainer: None,
            sequences: Slots::new(),
            waiting: VecDeque::new(),
            running: vec![],
            in_gradient: false,
            closed: false,
            timings: Timings::default(),
        }
    }

    pub fn run(mut self) {
        while !self.closed {
            if self.running.is_empty() && self.waiting.is_empty() {
                match self.inbox.recv() {
                    Ok(message) => self.receive(message),
                    Err(_) => return,
                }
            }
            self.receive_all();
            self.start_waiting();
            self.step();
        }
    }

    fn receive_all(&mut self) {
        while let Ok(message) = self.inbox.try_recv() {
            self.receive(message);
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Submit(request) => match (request.id, request.into_job()) {
                (id, Ok(job)) => self.waiting.push_back((id, job)),
                (id, Err(error)) => self.finish(id, Err(error)),
            },
            Message::Release(sequence) => self.end_sequence(sequence),
            Message::Cancel(id) => self.cancel(id),
            Message::Close => self.closed = true,
        }
    }

    /// Between the parts of a gradient: whatever can be sampled now. Samples go first, since conversations wait for their
    /// users and environments in between, and the gradient waits for nobody.
    fn sample_meanwhile(&mut self) {
        loop {
            self.receive_all();
            self.start_waiting();
            if self.running.is_empty() || self.closed {
                return;
            }
            self.step();
        }
    }

    /// Starts whatever may start now. A job that may not holds back later ones that touch its models.
    fn start_waiting(&mut self) {
        let mut held_back: Vec<String> = vec![];
        let mut index = 0;
        while let Some((_, job)) = self.waiting.get(index) {
            let models = job.models();
            if models.iter().any(|model| held_back.iter().any(|held| held == model)) || !self.may_start(job) {
                held_back.extend(models.into_iter().map(str::to_string));
                index += 1;
            } else if let Some((id, job)) = self.waiting.remove(index) {
                self.start(id, job);
                (index, held_back) = (0, vec![]); // a gradient may have started others
            }
        }
    }

    /// With nothing running everything may start, so no order of requests locks up.
    fn may_start(&self, job: &Job) -> bool {
        match job {
            Job::Sample(job) => self.running.is_empty() || self.has_room(&job.model),
            _ if self.in_gradient => false,
            _ => job.waits_for().is_none_or(|model| self.running.iter().all(|sample| sample.job.model != model)),
        }
    }

    fn has_room(&self, model: &str) -> bool {
        self.models.get(model).is_none_or(|loaded| loaded.cache.bytes() < self.options.kv_cache_bytes)
    }

    fn start(&mut self, id: u64, job: Job) {
        match job {
            Job::Sample(job) => {
                if let Err(error) = self.admit(id, job) {
                    self.finish(id, Err(error));
                }
            }
            job => {
                let outcome = self.perform(job);
                self.finish(id, outcome);
            }
        }
    }

    fn finish(&self, id: u64, outcome: Result<Reply>) {
        self.completions.finish(id, outcome.map_err(Failure::from));
    }

    // Sampling.

    fn admit(&mut self, id: u64, job: Box<SampleJob>) -> Result<()> {
        find(&self.models, &job.model)?.model.config.check_tokens(&job.tokens)?;
        match job.sequence {
            Some(handle) => self.sample_sequence(id, handle, job),
            None => {
                let handle = open_sequence(&mut self.sequences, &job)?;
                self.sample_sequence(id, handle, job).inspect_err(|_| self.forget(handle))
            }
        }
    }

    fn sample_sequence(&mut self, id: u64, handle: u64, job: Box<SampleJob>) -> Result<()> {
        if self.running.iter().any(|sample| sample.sequence == handle) {
            return Err(Error::BadArgument("sample: the sequence is being sampled already".into()));
        }
        let limit = self.limit_of(&job)?;
        let Loaded { model, cache } = self.models.get_mut(&job.model).ok_or_else(|| no_model(&job.model))?;
        let sequence = self.sequences.get_mut(handle).filter(|sequence| sequence.model == job.model);
        let sequence = sequence.ok_or(Error::BadHandle { what: "sequence", id: handle })?;
        sequence.unfed.extend(&job.tokens);
        sequence.length += job.tokens.len();
        let room = job.context_tokens_max.min(model.config.context_tokens_max).saturating_sub(sequence.length);
        if room == 0 || job.max_new_tokens == 0 {
            let stop = if room == 0 { Stop::ContextWindow } else { Stop::MaxNewTokens };
            self.finish(id, Ok(sampled(handle, stop, vec![], vec![])));
            return Ok(());
        }
        let in_cache = feed(cache, sequence)?;
        let (tokens, logprobs) = (vec![], vec![]);
        self.running.push(Sample { id, sequence: handle, in_cache, job, room, tokens, logprobs, limit });
        Ok(())
    }

    fn limit_of(&self, job: &SampleJob) -> Result<Option<Limit>> {
        let Some(GrammarUse { spec, in_reasoning }) = &job.grammar else { return Ok(None) };
        let vocab_size = find(&self.models, &job.model)?.model.config.vocab_size;
        let grammar = self.text(&job.model)?.call_grammar(spec, vocab_size)?;
        let constraint = CallConstraint::new(grammar, *in_reasoning);
        Ok(Some(Limit { constraint, mask: None, masked_mass: vec![] }))
    }

    /// One step of every model that has running samples.
    fn step(&mut self) {
        let names: Vec<String> = self.models.keys().cloned().collect();
        for name in names {
            if self.running.iter().any(|sample| sample.job.model == name)
                && let Err(error) = self.step_model(&name)
            {
                self.fail_samples(&name, &error);
            }
        }
    }

    fn step_model(&mut self, name: &str) -> Result<()> {
        let began = Instant::now();
        let Loaded { model, cache } = self.models.get_mut(name).ok_or_else(|| no_model(name))?;
        let rows_now = cache.pending().min(STEP_TOKENS_MAX);
        let decoded = self.running.iter().filter(|s| s.job.model == name && !s.tokens.is_empty()).count().min(rows_now);
        let samples = self.running.iter_mut().filter(|sample| sample.job.model == name);
        let mut limited: Vec<_> = samples.filter(|sample| sample.lacks_mask()).collect();
        let stepped = match limited.is_empty() {
            true => model.step(cache, STEP_TOKENS_MAX),
            // what may come next depends on what was sampled, not on the logits: found out beside the forward pass
            false => rayon::in_place_scope(|scope| {
                limited.iter_mut().for_each(|sample| scope.spawn(|_| sample.find_mask()));
                model.step(cache, STEP_TOKENS_MAX)
            }),
        };
        let mut rows: HashMap<SequenceId, Vec<f32>> = stepped?.into_iter().collect();
        let samples = self.running.iter_mut().filter(|sample| sample.job.model == name);
        let mut due: Vec<_> = samples.filter_map(|s| rows.remove(&s.in_cache).map(|row| (s, row))).collect();
        let advanced: Vec<(u64, Result<Option<Stop>>)> =
            due.par_iter_mut().map(|(sample, row)| (sample.id, sample.advance(row))).collect();
        // a step computes prompts and sampled tokens together: its time is shared out by rows
        let (took, share) = (began.elapsed(), decoded as f64 / rows_now.max(1) as f64);
        self.timings.decode += took.mul_f64(share);
        self.timings.prefill += took.mul_f64(1.0 - share);
        for (id, outcome) in advanced {
            match outcome {
                Ok(None) => self.go_on(id),
                Ok(Some(stop)) => self.finish_sample(id, stop),
                Err(error) => self.fail_sample(id, error),
            }
        }
        Ok(())
    }

    /// Feeds the token just sampled.
    fn go_on(&mut self, id: u64) {
        let Some(sample) = self.running.iter().find(|sample| sample.id == id) else { return };
        let Some(loaded) = self.models.get_mut(&sample.job.model) else { return };
        let last = &sample.tokens[sample.tokens.len() - 1..];
        if let Err(error) = loaded.cache.append(sample.in_cache, last) {
            self.fail_sample(id, error);
        }
    }

    fn finish_sample(&mut self, id: u64, stop: Stop) {
        let Some(sample) = self.take_running(id) else { return };
        if let Some(sequence) = self.sequences.get_mut(sample.sequence) {
            sequence.length += sample.tokens.len();
            sequence.unfed.extend(sample.tokens.last());
        }
        let mut values = sample.logprobs;
        values.extend(sample.limit.into_iter().flat_map(|limit| limit.masked_mass));
        self.finish(id, Ok(sampled(sample.sequence, stop, sample.tokens, values)));
    }

    fn take_running(&mut self, id: u64) -> Option<Sample> {
        let index = self.running.iter().position(|sample| sample.id == id)?;
        Some(self.running.remove(index))
    }

    /// The sequence goes with the sample: nobody can say how far it got.
    fn fail_sample(&mut self, id: u64, error: Error) {
        let Some(sample) = self.take_running(id) else { return };
        self.forget(sample.sequence);
        self.finish(id, Err(error));
    }

    /// A failed step leaves no sample of the model whole. The error is told to each.
    fn fail_samples(&mut self, model: &str, error: &Error) {
        let ids: Vec<u64> =
            self.running.iter().filter(|sample| sample.job.model == model).map(|sample| sample.id).collect();
        for id in ids {
            self.fail_sample(id, repeated(error));
        }
    }

    /// The sequence ends with its sample, whether that waits or runs.
    fn cancel(&mut self, id: u64) {
        let is_it = |(waiting, job): &(u64, Job)| *waiting == id && matches!(job, Job::Sample(_));
        let waiting = self.waiting.iter().position(is_it).and_then(|index| self.waiting.remove(index));
        if let Some((_, Job::Sample(job))) = waiting {
            job.sequence.into_iter().for_each(|handle| self.forget(handle));
            self.finish(id, Err(Error::Cancelled));
        }
        self.fail_sample(id, Error::Cancelled);
    }

    fn end_sequence(&mut self, handle: u64) {
        let of_waiting = |(id, job): &(u64, Job)| match job {
            Job::Sample(job) if job.sequence == Some(handle) => Some(*id),
            _ => None,
        };
        let mut ids: Vec<u64> = self.waiting.iter().filter_map(of_waiting).collect();
        ids.extend(self.running.iter().filter(|sample| sample.sequence == handle).map(|sample| sample.id));
        ids.into_iter().for_each(|id| self.cancel(id));
        self.forget(handle);
    }

    fn forget(&mut self, handle: u64) {
        let Some(sequence) = self.sequences.remove(handle) else { return };
        if let (Some(in_cache), Some(loaded)) = (sequence.in_cache, self.models.get_mut(&sequence.model)) {
            loaded.cache.release(in_cache);
        }
    }

    // Everything else.

    fn perform(&mut self, job: Job) -> Result<Reply> {
        match job {
            Job::LoadModel { name, directory, dtype } => self.load(name, &directory, dtype),
            Job::ForwardBackward { arrays, objective, anchor } => {
                self.forward_backward(&arrays, objective, anchor.as_deref())
            }
            Job::AddImportance { arrays, objective, anchor, into, of, joined_to } => {
                let importance = Importance { into: &into, of, anchor: joined_to.as_deref() };
                self.add_importance(&arrays, objective, anchor.as_deref(), importance)
            }
            Job::OptimizerStep(options) => self.optimizer_step(&options),
            Job::Logprobs { model, arrays, temperature } => self.logprobs(&model, &arrays, temperature),
            Job::TopLogprobs { model, arrays, temperature, k } => self.top_logprobs(&model, &arrays, temperature, k),
            Job::WeightOp(op) => self.weight_op(op),
            Job::Digest => self.digest(),
            Job::Timings => Ok(told(std::mem::take(&mut self.timings).told())),
            Job::Save { directory, adapter_of } => {
                self.saving(|scheduler| scheduler.save(&directory, adapter_of.as_deref()))
            }
            Job::SaveState { file, models } => self.saving(|scheduler| scheduler.save_state(&file, &models)),
            Job::LoadState { file } => self.load_state(&file),
            Job::Sample(_) => Err(Error::BadArgument("a sample is admitted, not performed".into())),
        }
    }

    fn load(&mut self, name: String, directory: &Path, dtype: Dtype) -> Result<Reply> {
        let text = Arc::new(Text::load(directory)?);
        let model = Model::load(directory, dtype, self.options.kernels.into())?;
        let info = model_info(&model, &text);
        if name == POLICY {
            self.trainer = None;
        }
        self.put(name, model, text);
        Ok(told(info))
    }

    fn put(&mut self, name: String, model: Model, text: Arc<Text>) {
        let cache = model.new_cache(self.options.kv_cache_bytes, self.options.prefix_sharing);
        self.make_stale(&name);
        self.lock_texts().insert(name.clone(), text);
        self.models.insert(name, Loaded { model: Arc::new(model), cache });
    }

    fn forward_backward(&mut self, arrays: &Arrays, objective: Objective, anchor: Option<&str>) -> Result<Reply> {
        let policy = find(&self.models, POLICY)?.model.clone();
        let anchor = anchor.map(|name| find(&self.models, name)).transpose()?.map(|loaded| loaded.model.clone());
        let mut trainer = match self.trainer.take() {
            Some(trainer) => trainer,
            None => Trainer::new(&policy, trainer_options(&self.options))?,
        };
        self.in_gradient = true;
        let report = arrays.batch().and_then(|batch| {
            let mut meanwhile = || self.sample_meanwhile();
            trainer.forward_backward_with(&policy, anchor.as_deref(), &batch, objective, &mut meanwhile)
        });
        self.in_gradient = false;
        self.trainer = Some(trainer);
        let report = report?;
        self.timings.forward += report.forward;
        self.timings.backward += report.backward;
        Ok(told(json!({
            "loss": report.loss,
            "loss_tokens": report.loss_tokens,
            "kl_mean": report.kl_mean,
            "entropy_mean": report.entropy_mean,
            "clip_low_fraction": report.clip_low_fraction,
            "clip_high_fraction": report.clip_high_fraction,
            "dual_clip_fraction": report.dual_clip_fraction,
            "logprob_diff_max": report.logprob_diff_max,
            "computed_tokens": report.computed_tokens,
        })))
    }

    fn add_importance(
        &mut self,
        arrays: &Arrays,
        objective: Objective,
        anchor: Option<&str>,
        importance: Importance,
    ) -> Result<Reply> {
        let policy = &find(&self.models, POLICY)?.model;
        let anchor = anchor.map(|name| find(&self.models, name)).transpose()?.map(|loaded| &*loaded.model);
        let trainer = trainer_of(&mut self.trainer, policy, &self.options)?;
        let value = trainer.add_importance(policy, anchor, &arrays.batch()?, objective, importance)?;
        Ok(told(json!({ "value": value })))
    }

    fn optimizer_step(&mut self, options: &AdamW) -> Result<Reply> {
        let no_gradient = || Error::BadArgument("optimizer_step: no gradient was accumulated".into());
        let trainer = self.trainer.as_mut().ok_or_else(no_gradient)?;
        let policy = policy_of(&mut self.models)?;
        let began = Instant::now();
        let report = trainer.optimizer_step(policy, options)?;
        self.timings.optimizer += began.elapsed();
        self.make_stale(POLICY);
        Ok(told(json!({ "grad_norm": report.grad_norm, "skipped": report.skipped })))
    }

    fn logprobs(&self, name: &str, arrays: &Arrays, temperature: f32) -> Result<Reply> {
        let model = &find(&self.models, name)?.model;
        let found = train::distributions(model, &arrays.tokens_n, &arrays.offsets, temperature)?;
        if name != POLICY {
            model.forget_packed(); // an anchor's are not needed until the next step
        }
        Ok(Reply { values: found.iter().map(|distribution| distribution.logprob).collect(), ..Reply::default() })
    }

    fn top_logprobs(&self, model: &str, arrays: &Arrays, temperature: f32, k: usize) -> Result<Reply> {
        let model = &find(&self.models, model)?.model;
        let (tokens, values) =
            train::top_logprobs(model, &arrays.tokens_n, &arrays.offsets, &arrays.weights_n, temperature, k)?;
        Ok(Reply { tokens, values, ..Reply::default() })
    }

    fn weight_op(&mut self, op: WeightOp) -> Result<Reply> {
        let value = match op {
            WeightOp::Snapshot { name } | WeightOp::Drop { name } if name == POLICY => {
                return Err(Error::BadArgument("weight_op: the name policy is the policy's".into()));
            }
            WeightOp::Snapshot { name } => {
                let snapshot = find(&self.models, POLICY)?.model.snapshot()?;
                let text = self.text(POLICY)?;
                self.put(name, snapshot, text);
                0.0
            }
            WeightOp::Drop { name } => {
                self.drop_named(&name)?;
                0.0
            }
            op => {
                let policy = policy_of(&mut self.models)?;
                let value = trainer_of(&mut self.trainer, policy, &self.options)?.operate(policy, &op)?;
                if op.moves_weights() {
                    self.make_stale(POLICY);
                }
                value
            }
        };
        Ok(told(json!({ "value": value })))
    }

    /// A frozen model, or a vector.
    fn drop_named(&mut self, name: &str) -> Result<()> {
        if self.models.contains_key(name) {
            self.make_stale(name);
            self.lock_texts().remove(name);
            self.models.remove(name);
            return Ok(());
        }
        match self.trainer.as_mut().is_some_and(|trainer| trainer.drop_vector(name)) {
            true => Ok(()),
            false => Err(Error::BadArgument(format!("neither a model nor a vector is named {name}"))),
        }
    }

    fn digest(&mut self) -> Result<Reply> {
        let policy = &find(&self.models, POLICY)?.model;
        let text = trainer_of(&mut self.trainer, policy, &self.options)?.digest(policy)?;
        Ok(Reply { text, ..Reply::default() })
    }

    fn saving(&mut self, work: impl FnOnce(&mut Self) -> Result<Reply>) -> Result<Reply> {
        let began = Instant::now();
        let outcome = work(self);
        self.timings.save += began.elapsed();
        outcome
    }

    fn save(&self, directory: &Path, adapter_of: Option<&str>) -> Result<Reply> {
        let policy = &find(&self.models, POLICY)?.model;
        if adapter_of.is_some() && policy.column().is_none() {
            return Ok(Reply::default());
        }
        make_directory(directory)?;
        match adapter_of {
            Some(base) => policy.save_adapter(directory, base)?,
            None => policy.save(directory)?,
        }
        self.text(POLICY)?.save(directory)?;
        Ok(Reply::default())
    }

    fn save_state(&mut self, file: &Path, models: &[String]) -> Result<Reply> {
        let policy = &find(&self.models, POLICY)?.model;
        let models = models
            .iter()
            .map(|name| Ok((name.as_str(), &*find(&self.models, name)?.model)))
            .collect::<Result<Vec<_>>>()?;
        file.parent().map_or(Ok(()), make_directory)?;
        trainer_of(&mut self.trainer, policy, &self.options)?.save_state(policy, &models, file)?;
        Ok(Reply::default())
    }

    fn load_state(&mut self, file: &Path) -> Result<Reply> {
        let policy = policy_of(&mut self.models)?;
        let models = trainer_of(&mut self.trainer, policy, &self.options)?.load_state(policy, file)?;
        self.make_stale(POLICY);
        let text = self.text(POLICY)?;
        for (name, model) in models {
            self.put(name, model, text.clone());
        }
        Ok(Reply::default())
    }

    /// Keys and values of the old weights are worth nothing.
    fn make_stale(&mut self, model: &str) {
        self.sequences.retain(|sequence| sequence.model != model);
        if let Some(loaded) = self.models.get_mut(model) {
            loaded.cache.clear();
        }
    }

    fn text(&self, name: &str) -> Result<Arc<Text>> {
        self.lock_texts().get(name).cloned().ok_or_else(|| no_model(name))
    }

    fn lock_texts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Text>>> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sample {
    /// Is there work that can be done beside the forward pass?
    fn lacks_mask(&self) -> bool {
        self.limit.as_ref().is_some_and(|limit| limit.mask.is_none() && limit.constraint.in_call())
    }

    fn find_mask(&mut self) {
        if let Some(limit) = &mut self.limit {
            limit.mask = Some(limit.constraint.mask(&self.job.stop_token_ids));
        }
    }

    /// Takes one token from its row of logits and says whether it was the last.
    fn advance(&mut self, row: &[f32]) -> Result<Option<Stop>> {
        let pick = match &mut self.limit {
            None => self.job.sampler.pick(row, None)?,
            Some(limit) => limit.pick(&mut self.job.sampler, row, &self.job.stop_token_ids)?,
        };
        self.tokens.push(pick.token);
        self.logprobs.push(pick.logprob);
        Ok(if self.job.stop_token_ids.contains(&pick.token) {
            Some(Stop::Token)
        } else if self.tokens.len() >= self.job.max_new_tokens {
            Some(Stop::MaxNewTokens)
        } else if self.tokens.len() >= self.room {
            Some(Stop::ContextWindow)
        } else {
            None
        })
    }
}

impl Limit {
    fn pick(&mut self, sampler: &mut Sampler, row: &[f32], stop_token_ids: &[u32]) -> Result<Pick> {
        let mask = self.mask.take().unwrap_or_else(|| self.constraint.mask(stop_token_ids))?;
        let pick = sampler.pick(row, mask.as_ref())?;
        self.masked_mass.push(pick.masked_mass);
        if !stop_token_ids.contains(&pick.token) {
            self.constraint.consume(pick.token)?;
        }
        Ok(pick)
    }
}

fn find<'a>(models: &'a BTreeMap<String, Loaded>, name: &str) -> Result<&'a Loaded> {
    models.get(name).ok_or_else(|| no_model(name))
}

/// To change its weights: no gradient is in the making.
fn policy_of(models: &mut BTreeMap<String, Loaded>) -> Result<&mut Model> {
    let loaded = models.get_mut(POLICY).ok_or_else(|| no_model(POLICY))?;
    Ok(Arc::get_mut(&mut loaded.model).expect("only a gradient shares a model, and nothing else starts during one"))
}

/// The trainer, made now if there was none.
fn trainer_of<'a>(slot: &'a mut Option<Trainer>, policy: &Model, options: &EngineOptions) -> Result<&'a mut Trainer> {
    match slot {
        Some(trainer) => Ok(trainer),
        None => Ok(slot.insert(Trainer::new(policy, trainer_options(options))?)),
    }
}

fn trainer_options(options: &EngineOptions) -> TrainerOptions {
    let EngineOptions { gradient_checkpointing, prefix_sharing, .. } = *options;
    TrainerOptions { gradient_checkpointing, prefix_sharing, part_rows: PART_ROWS }
}

fn make_directory(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|error| Error::File { path: path.to_path_buf(), problem: error.to_string() })
}

fn open_sequence(sequences: &mut Slots<Sequence>, job: &SampleJob) -> Result<u64> {
    if job.tokens.is_empty() {
        return Err(Error::BadArgument("sample: a new sequence needs at least one token".into()));
    }
    let sequence = Sequence { model: job.model.clone(), in_cache: None, unfed: vec![], length: 0 };
    sequences.insert(sequence).ok_or_else(|| Error::BadArgument("sample: too many live sequences".into()))
}

/// Gives the cache what it has not seen of the sequence.
fn feed(cache: &mut Cache, sequence: &mut Sequence) -> Result<SequenceId> {
    let in_cache = match sequence.in_cache {
        Some(in_cache) => {
            cache.append(in_cache, &sequence.unfed)?;
            in_cache
        }
        None => cache.open(&sequence.unfed)?,
    };
    sequence.in_cache = Some(in_cache);
    sequence.unfed.clear();
    Ok(in_cache)
}

/// Values: a log-probability for each token, then, where a grammar limits the sample, the probability it forbade.
fn sampled(sequence: u64, stop: Stop, tokens: Vec<u32>, values: Vec<f32>) -> Reply {
    Reply { text: json!({ "sequence": sequence, "stop": stop.name() }).to_string(), tokens, values }
}

fn told(json: Json) -> Reply {
    Reply { text: json.to_string(), ..Reply::default() }
}

/// As `ModelInfo` in src/core/policy.ts.
fn model_info(model: &Model, text: &Text) -> Json {
    json!({
        "architecture": model.config.architecture,
        "parameters": model.parameter_count(),
        "vocab_size": model.config.vocab_size,
        "context_tokens_max": model.config.context_tokens_max,
        "eos_token_ids": model.config.eos_token_ids,
        "has_chat_template": text.has_chat_template(),
        "dtype": model.dtype.name(),
        "device": "cpu",
    })
}

/// An error cannot be cloned (candle's); kinds that callers branch on stay what they are.
fn repeated(error: &Error) -> Error {
    match error {
        Error::NonFinite { op } => Error::NonFinite { op },
        other => Error::BadArgument(other.to_string()),
    }
}
