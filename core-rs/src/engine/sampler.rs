//! One token from one row of logits. A sampler belongs to one request and sees only its own rows, in order, so what it
//! draws does not depend on what else runs.
use crate::error::{Error, Result};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Deserialize;

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct SamplingOptions {
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: usize,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
}

pub struct Sampler {
    options: SamplingOptions,
    random: ChaCha8Rng,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pick {
    pub token: u32,
    /// Under softmax(logits / temperature) of the whole vocabulary, before any truncation; at temperature 0 of
    /// softmax(logits).
    pub logprob: f32,
}

impl Sampler {
    pub fn new(options: SamplingOptions, seed: u64) -> Result<Self> {
        let SamplingOptions { temperature, top_p, min_p, .. } = options;
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return Err(Error::BadArgument(format!("temperature {temperature} is not a number from 0 up")));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(Error::BadArgument(format!("top_p {top_p} is outside (0, 1]")));
        }
        if !(0.0..=1.0).contains(&min_p) {
            return Err(Error::BadArgument(format!("min_p {min_p} is outside [0, 1]")));
        }
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Ok(Self { options, random: ChaCha8Rng::from_seed(key) })
    }

    /// Draws from a row of logits, which is used as scratch.
    pub fn pick(&mut self, row: &mut [f32]) -> Result<Pick> {
        let temperature = self.options.temperature;
        if temperature > 0.0 {
            row.iter_mut().for_each(|logit| *logit /= temperature);
        }
        let (best, max) = largest(row);
        let mut weights: Vec<f32> = row.iter().map(|logit| (logit - max).exp()).collect();
        // f64 and index order: the sum is the same wherever and whenever it is taken.
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        if !total.is_finite() {
            return Err(Error::NonFinite { op: "sample: logits" });
        }
        let token = if temperature == 0.0 { best } else { self.draw(row, &mut weights, total) };
        let logprob = f64::from(row[token] - max) - total.ln();
        Ok(Pick { token: token as u32, logprob: logprob as f32 })
    }

    /// Truncates in transformers' order (top_k, top_p, min_p), then inverts the cumulative sum in index order.
    fn draw(&mut self, logits: &[f32], weights: &mut [f32], mut total: f64) -> usize {
        let SamplingOptions { top_k, top_p, min_p, .. } = self.options;
        if top_k > 0 && top_k < logits.len() {
            keep_top_k(logits, weights, top_k);
            total = sum(weights);
        }
        if top_p < 1.0 {
            keep_top_p(weights, f64::from(top_p) * total);
            total = sum(weights);
        }
        if min_p > 0.0 {
            // The largest weight is exp(0) = 1.
            weights.iter_mut().filter(|weight| **weight < min_p).for_each(|weight| *weight = 0.0);
            total = sum(weights);
        }
        let target = uniform(&mut self.random) * total;
        let mut below = 0.0;
        let mut last = 0;
        for (token, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            below += f64::from(weight);
            last = token;
            if below > target {
                break;
            }
        }
        last
    }
}

/// Index (the first of equals) and value of the largest logit.
fn largest(row: &[f32]) -> (usize, f32) {
    row.iter().copied().enumerate().fold(
        (0, f32::NEG_INFINITY),
        |best, (token, logit)| {
            if logit > best.1 { (token, logit) } else { best }
        },
    )
}

fn sum(weights: &[f32]) -> f64 {
    weights.iter().copied().map(f64::from).sum()
}

/// [0, 1) with 53 bits.
fn uniform(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Those that equal the k-th largest stay, as in transformers.
fn keep_top_k(logits: &[f32], weights: &mut [f32], k: usize) {
    let mut sorted = logits.to_vec();
    let (_, kth, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    let kth = *kth;
    weights.iter_mut().zip(logits).filter(|(_, logit)| **logit < kth).for_each(|(weight, _)| *weight = 0.0);
}

/// Keeps the heaviest tokens until `mass` is reached, the one that crosses it included; always at least one.
fn keep_top_p(weights: &mut [f32], mass: f64) {
    let mut order: Vec<usize> = (0..weights.len()).filter(|&token| weights[token] > 0.0).collect();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    let mut before = 0.0;
    for (rank, token) in order.into_iter().enumerate() {
        let weight = f64::from(weights[token]);
        if rank > 0 && before >= mass {
            weights[token] = 0.0;
        }
        before += weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: SamplingOptions = SamplingOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
    /// Probabilities 0.4, 0.3, 0.2, 0.1 at temperature 1.
    const PROBABILITIES: [f64; 4] = [0.1, 0.4, 0.2, 0.3];

    fn row() -> Vec<f32> {
        PROBABILITIES.iter().map(|p| (p.ln() + 3.0) as f32).collect()
    }

    fn shares(options: SamplingOptions) -> Vec<f64> {
        const DRAWS: usize = 20_000;
        let mut sampler = Sampler::new(options, 7).unwrap();
        let mut counts = vec![0.0; 4];
        (0..DRAWS).for_each(|_| counts[sampler.pick(&mut row()).unwrap().token as usize] += 1.0 / DRAWS as f64);
        counts
    }

    /// Expected shares follow transformers' warpers; 0.012 is 3.5 standard deviations of 20,000 draws.
    #[test]
    fn draws_follow_the_truncated_distribution() {
        for (options, expected) in [
            (OFF, [0.1, 0.4, 0.2, 0.3]),
            (SamplingOptions { temperature: 0.5, ..OFF }, [1.0 / 30.0, 16.0 / 30.0, 4.0 / 30.0, 9.0 / 30.0]),
            (SamplingOptions { top_k: 2, ..OFF }, [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]),
            (SamplingOptions { top_k: 9, ..OFF }, [0.1, 0.4, 0.2, 0.3]),
            (SamplingOptions { top_p: 0.75, ..OFF }, [0.0, 4.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0]),
            (SamplingOptions { top_p: 0.65, ..OFF }, [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]),
            (SamplingOptions { top_p: 1e-6, ..OFF }, [0.0, 1.0, 0.0, 0.0]),
            (SamplingOptions { min_p: 0.6, ..OFF }, [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]),
            (SamplingOptions { top_k: 3, top_p: 0.5, min_p: 0.1, ..OFF }, [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]),
            (SamplingOptions { temperature: 0.0, ..OFF }, [0.0, 1.0, 0.0, 0.0]),
        ] {
            for (share, expected) in shares(options).iter().zip(expected) {
                assert!((share - expected).abs() < 0.012, "{options:?}: {share} is not {expected}");
            }
        }
    }

    #[test]
    fn logprob_is_of_the_whole_vocabulary() {
        let tempered: f64 = PROBABILITIES.iter().map(|p| p * p).sum();
        for (options, expected) in [
            (SamplingOptions { top_k: 1, ..OFF }, 0.4f64.ln()),
            (SamplingOptions { top_k: 1, temperature: 0.5, ..OFF }, (0.16 / tempered).ln()),
            (SamplingOptions { temperature: 0.0, ..OFF }, 0.4f64.ln()),
        ] {
            let pick = Sampler::new(options, 0).unwrap().pick(&mut row()).unwrap();
            assert!((f64::from(pick.logprob) - expected).abs() < 1e-6, "{options:?}");
        }
    }

    #[test]
    fn equal_seeds_draw_alike_and_others_differ() {
        let draws = |seed| {
            let mut sampler = Sampler::new(OFF, seed).unwrap();
            (0..64).map(|_| sampler.pick(&mut row()).unwrap().token).collect::<Vec<_>>()
        };
        assert_eq!(draws(1 << 40), draws(1 << 40));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn refuses_what_is_not_a_distribution() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut row = vec![0.0, bad];
            let error = Sampler::new(OFF, 0).unwrap().pick(&mut row).unwrap_err();
            assert!(matches!(error, Error::NonFinite { .. }), "{bad}");
        }
        for options in [
            SamplingOptions { temperature: -1.0, ..OFF },
            SamplingOptions { temperature: f32::NAN, ..OFF },
            SamplingOptions { top_p: 0.0, ..OFF },
            SamplingOptions { min_p: 1.5, ..OFF },
        ] {
            assert!(matches!(Sampler::new(options, 0), Err(Error::BadArgument(_))), "{options:?}");
        }
    }
}
