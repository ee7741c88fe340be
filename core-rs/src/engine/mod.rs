//! Two threads behind a queue: one owns models, caches and the trainer, the other renders and tokenizes so that text
//! never waits for a gradient step.
mod completions;
mod request;
mod sampler;
mod scheduler;
pub mod slots;

pub use completions::{Completion, Reply};
pub use request::{Arrays, Kind, Request};

use crate::error::Error;
use crate::kernels::Kernels;
use crate::text::Text;
use completions::Completions;
use request::TextJob;
use scheduler::Scheduler;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Why a request has no reply.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Core(#[from] Error),
    #[error("request {0} is outstanding already")]
    DuplicateId(u64),
    #[error("the engine was lost to a panic: {0}")]
    Lost(String),
    #[error("the engine panicked: {0}")]
    Panic(String),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineOptions {
    /// 0 takes every core. The pool belongs to the process: the first engine sets it.
    pub num_threads: usize,
    pub kernels: KernelsName,
    /// Equal prefixes are computed once, while sampling and in gradient steps.
    pub prefix_sharing: bool,
    pub gradient_checkpointing: bool,
    /// Budget of keys and values, of each model.
    pub kv_cache_bytes: usize,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelsName {
    Fused,
    Plain,
}

impl From<KernelsName> for Kernels {
    fn from(name: KernelsName) -> Self {
        match name {
            KernelsName::Fused => Kernels::Fused,
            KernelsName::Plain => Kernels::Plain,
        }
    }
}

pub struct Engine {
    completions: Arc<Completions>,
    work: Sender<Message>,
    text: Sender<Request>,
}

enum Message {
    Submit(Request),
    /// The sequence ends; a sample of it that waits or runs is cancelled.
    Release(u64),
    /// The sample with this request id is cancelled and its sequence ends.
    Cancel(u64),
    Close,
}

/// Texts of the models alive, by name.
type Texts = Arc<Mutex<BTreeMap<String, Arc<Text>>>>;

impl Engine {
    /// Starts the threads; `ring` is called from them when there is something to drain.
    pub fn open(options: EngineOptions, ring: Box<dyn Fn() + Send + Sync>) -> Result<Self, Error> {
        set_threads(options.num_threads)?;
        let completions = Arc::new(Completions::new(ring));
        let texts = Texts::default();
        let (work, jobs) = channel();
        let (text, text_jobs) = channel();
        let scheduler = (completions.clone(), texts.clone());
        spawn("grpo-engine", &completions, move || Scheduler::new(options, jobs, scheduler.0, scheduler.1).run())?;
        let replies = completions.clone();
        spawn("grpo-text", &completions, move || answer_texts(&text_jobs, &texts, &replies))?;
        Ok(Self { completions, work, text })
    }

    pub fn submit(&self, request: Request) -> Result<(), Failure> {
        self.completions.expect(request.id)?;
        // A closed channel means that the thread ended in a panic, which has answered or will answer this request.
        let _ = match request.kind.is_text() {
            true => self.text.send(request).map_err(drop),
            false => self.work.send(Message::Submit(request)).map_err(drop),
        };
        Ok(())
    }

    pub fn release(&self, sequence: u64) {
        let _ = self.work.send(Message::Release(sequence));
    }

    pub fn cancel(&self, id: u64) {
        let _ = self.work.send(Message::Cancel(id));
    }

    /// See `Completions::drain`.
    pub fn drain(&self, take: impl FnMut(&Completion) -> bool) {
        self.completions.drain(take);
    }
}

impl Drop for Engine {
    /// The threads end after the piece of work in hand; nobody waits for them.
    fn drop(&mut self) {
        let _ = self.work.send(Message::Close);
    }
}

fn spawn(name: &str, completions: &Arc<Completions>, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let completions = completions.clone();
    let guarded = move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            completions.lose(&panic_text(&*panic));
        }
    };
    match std::thread::Builder::new().name(name.into()).spawn(guarded) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::BadArgument(format!("cannot start the thread {name}: {error}"))),
    }
}

pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message").to_string()
}

fn set_threads(num_threads: usize) -> Result<(), Error> {
    let built = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build_global();
    let current = rayon::current_num_threads();
    if built.is_err() && num_threads != 0 && num_threads != current {
        return Err(Error::BadArgument(format!(
            "num_threads {num_threads}: this process has its pool of {current} threads already"
        )));
    }
    Ok(())
}

fn answer_texts(jobs: &Receiver<Request>, texts: &Texts, completions: &Completions) {
    for request in jobs {
        let id = request.id;
        let outcome = request.into_text_job().and_then(|job| answer_text(job, texts));
        completions.finish(id, outcome.map_err(Failure::from));
    }
}

fn answer_text(job: TextJob, texts: &Texts) -> Result<Reply, Error> {
    let of = |model: &str| {
        let texts = texts.lock().unwrap_or_else(PoisonError::into_inner);
        texts.get(model).cloned().ok_or_else(|| no_model(model))
    };
    Ok(match job {
        TextJob::Render { model, messages, options } => {
            Reply { text: of(&model)?.render(&messages, &options)?, ..Reply::default() }
        }
        TextJob::Tokenize { model, text } => Reply { tokens: of(&model)?.tokenize(&text)?, ..Reply::default() },
        TextJob::Decode { model, tokens, skip_special } => {
            Reply { text: of(&model)?.decode(&tokens, skip_special)?, ..Reply::default() }
        }
    })
}

fn no_model(name: &str) -> Error {
    Error::BadArgument(format!("no model is named {name}"))
}
