//! What went in and has not come out: outstanding requests, finished ones, and the bell that says there are any.
use super::Failure;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The answer to one request. Which parts are filled depends on its kind.
#[derive(Debug, Default)]
pub struct Reply {
    pub text: String,
    pub tokens: Vec<u32>,
    pub values: Vec<f32>,
}

#[derive(Debug)]
pub struct Completion {
    pub id: u64,
    pub outcome: Result<Reply, Failure>,
}

pub struct Completions {
    state: Mutex<State>,
    /// True: nobody was told since the last drain.
    armed: AtomicBool,
    ring: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    outstanding: BTreeSet<u64>,
    finished: VecDeque<Completion>,
    /// The panic that ended the engine.
    lost: Option<String>,
}

impl Completions {
    pub fn new(ring: Box<dyn Fn() + Send + Sync>) -> Self {
        Self { state: Mutex::default(), armed: AtomicBool::new(true), ring }
    }

    /// Notes a request; refused once the engine is lost.
    pub fn expect(&self, id: u64) -> Result<(), Failure> {
        let mut state = self.lock();
        if let Some(panic) = &state.lost {
            return Err(Failure::Lost(panic.clone()));
        }
        if !state.outstanding.insert(id) {
            return Err(Failure::DuplicateId(id));
        }
        Ok(())
    }

    pub fn finish(&self, id: u64, outcome: Result<Reply, Failure>) {
        let mut state = self.lock();
        if state.outstanding.remove(&id) {
            state.finished.push_back(Completion { id, outcome });
        }
        drop(state);
        self.announce();
    }

    /// Ends every outstanding request; later ones are refused.
    pub fn lose(&self, panic: &str) {
        let mut state = self.lock();
        state.lost = Some(panic.to_string());
        for id in std::mem::take(&mut state.outstanding) {
            state.finished.push_back(Completion { id, outcome: Err(Failure::Panic(panic.to_string())) });
        }
        drop(state);
        self.announce();
    }

    /// Takes finished requests while `take` accepts them; the refused one stays first. Arms the bell before looking, so
    /// that what finishes meanwhile rings again.
    pub fn drain(&self, mut take: impl FnMut(&Completion) -> bool) {
        self.armed.store(true, Ordering::SeqCst);
        let mut state = self.lock();
        while state.finished.front().is_some_and(&mut take) {
            state.finished.pop_front();
        }
    }

    fn announce(&self) {
        if self.armed.swap(false, Ordering::SeqCst) {
            (self.ring)();
        }
    }

    /// A panic elsewhere while the lock was held leaves the state whole: every change above is a single call.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    fn counted() -> (Completions, Arc<AtomicUsize>) {
        let rings = Arc::new(AtomicUsize::new(0));
        let counter = rings.clone();
        let ring = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        (Completions::new(Box::new(ring)), rings)
    }

    fn drained(completions: &Completions) -> Vec<u64> {
        let mut ids = vec![];
        completions.drain(|completion| {
            ids.push(completion.id);
            true
        });
        ids
    }

    #[test]
    fn one_ring_until_somebody_drains() {
        let (completions, rings) = counted();
        for id in 1..=3 {
            completions.expect(id).unwrap();
            completions.finish(id, Ok(Reply::default()));
        }
        assert_eq!(rings.load(Ordering::SeqCst), 1);
        assert_eq!(drained(&completions), [1, 2, 3]);
        completions.finish(9, Ok(Reply::default()));
        assert_eq!(drained(&completions), [0; 0], "nobody expected 9");
        assert!(matches!(completions.expect(4).and_then(|()| completions.expect(4)), Err(Failure::DuplicateId(4))));
    }

    #[test]
    fn what_does_not_fit_stays_first() {
        let (completions, _) = counted();
        for id in 1..=2 {
            completions.expect(id).unwrap();
            completions.finish(id, Ok(Reply::default()));
        }
        completions.drain(|completion| completion.id != 2);
        assert_eq!(drained(&completions), [2]);
    }

    #[test]
    fn a_panic_answers_what_is_outstanding_and_refuses_the_rest() {
        let (completions, rings) = counted();
        completions.expect(1).unwrap();
        completions.lose("index out of bounds");
        let mut answers = vec![];
        completions.drain(|completion| {
            answers.push(completion.outcome.as_ref().unwrap_err().to_string());
            true
        });
        assert_eq!(answers, ["the engine panicked: index out of bounds"]);
        assert_eq!(rings.load(Ordering::SeqCst), 1);
        let refused = completions.expect(2).unwrap_err();
        assert_eq!(refused.to_string(), "the engine was lost to a panic: index out of bounds");
    }
}
