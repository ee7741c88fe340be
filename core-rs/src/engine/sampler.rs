//! One token from one row of logits. A sampler belongs to one request and sees only its own rows, in order, so what it
//! draws does not depend on what else runs.
use crate::error::{Error, Result};
use crate::kernels::simd;
use crate::text::calls::Mask;
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
    /// softmax(logits). The same formula and bits as in training (`kernels::simd::log_sum_exp`).
    pub logprob: f32,
    /// Probability, under the same distribution, of the tokens that the mask forbade.
    pub masked_mass: f32,
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

    /// Draws from a row of logits. A token that the mask forbids is drawn again among those that it allows: what comes out
    /// has the distribution π(token) / π(allowed), and where nothing is forbidden, nothing differs from a draw without mask.
    pub fn pick(&mut self, logits: &[f32], mask: Option<&Mask>) -> Result<Pick> {
        let greedy = self.options.temperature == 0.0;
        let inverse_temperature = if greedy { 1.0 } else { 1.0 / self.options.temperature };
        let log_sum_exp = simd::log_sum_exp(logits, inverse_temperature);
        if !log_sum_exp.is_finite() {
            return Err(Error::NonFinite { op: "sample: logits" });
        }
        let mut token = self.choose(logits, inverse_temperature);
        if let Some(mask) = mask.filter(|mask| !mask.allows(token as u32)) {
            let allowed = mask.applied(logits);
            if simd::max(&allowed) == f32::NEG_INFINITY {
                return Err(Error::BadArgument("sample: the grammar allows no token".into()));
            }
            token = self.choose(&allowed, inverse_temperature);
        }
        let logprob = logits[token] * inverse_temperature - log_sum_exp;
        let masked_mass = mask.map_or(0.0, |mask| mask.forbidden_mass(logits, inverse_temperature, log_sum_exp));
        Ok(Pick { token: token as u32, logprob, masked_mass })
    }

    fn choose(&mut self, logits: &[f32], inverse_temperature: f32) -> usize {
        if self.options.temperature == 0.0 { largest(logits) } else { self.draw(logits, inverse_temperature) }
    }

    /// Truncates in transformers' order (top_k, top_p, min_p), then inverts the cumulative sum in index order.
    fn draw(&mut self, logits: &[f32], inverse_temperature: f32) -> usize {
        let SamplingOptions { top_k, top_p, min_p, .. } = self.options;
        let mut weights = logits.to_vec();
        simd::exp_shifted(&mut weights, inverse_temperature, simd::max(logits) * inverse_temperature);
        if top_k > 0 && top_k < logits.len() {
            keep_top_k(logits, &mut weights, top_k);
        }
        if top_p < 1.0 {
            let mass = f64::from(top_p) * block_sums(&weights).iter().sum::<f64>();
            keep_top_p(&mut weights, mass);
        }
        if min_p > 0.0 {
            // The largest weight is exp(0) = 1.
            weights.iter_mut().filter(|weight| **weight < min_p).for_each(|weight| *weight = 0.0);
        }
        inverted(&weights, uniform(&mut self.random))
    }
}

/// The first of the largest.
fn largest(logits: &[f32]) -> usize {
    let max = simd::max(logits);
    logits.iter().position(|&logit| logit == max).unwrap_or(0)
}

/// The index at which the cumulative sum of the weights passes `share` of their total.
fn inverted(weights: &[f32], share: f64) -> usize {
    let sums = block_sums(weights);
    let mut rest = share * sums.iter().sum::<f64>();
    let mut block = 0;
    while block + 1 < sums.len() && rest >= sums[block] {
        rest -= sums[block];
        block += 1;
    }
    let first = block * BLOCK;
    let mut last = None;
    for (i, &weight) in weights[first..].iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        last = Some(first + i);
        rest -= f64::from(weight);
        if rest < 0.0 {
            break;
        }
    }
    // Rounding may run past the end: then it is the last one with a weight.
    last.or_else(|| weights.iter().rposition(|weight| *weight > 0.0)).unwrap_or(0)
}

/// Tokens whose weights are added before their sum joins the total.
const BLOCK: usize = 1024;

/// Sums of blocks in f64, four chains of each in a fixed order: the same bits whatever the processor.
fn block_sums(weights: &[f32]) -> Vec<f64> {
    let sum = |block: &[f32]| {
        let mut chains = [0f64; 4];
        block.iter().enumerate().for_each(|(i, &weight)| chains[i % 4] += f64::from(weight));
        (chains[0] + chains[1]) + (chains[2] + chains[3])
    };
    weights.chunks(BLOCK).map(sum).collect()
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
        (0..DRAWS).for_each(|_| counts[sampler.pick(&row(), None).unwrap().token as usize] += 1.0 / DRAWS as f64);
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
            let pick = Sampler::new(options, 0).unwrap().pick(&row(), None).unwrap();
            assert!((f64::from(pick.logprob) - expected).abs() < 1e-6, "{options:?}");
        }
    }

    /// π(token) / π(allowed), whichever form the mask has; the recorded log-probability stays π's.
    #[test]
    fn a_mask_renormalises_and_says_what_it_took() {
        const DRAWS: usize = 20_000;
        for mask in [Mask::Except(vec![1, 9]), Mask::Only(vec![0b1101])] {
            let mut sampler = Sampler::new(OFF, 7).unwrap();
            let mut counts = [0.0; 4];
            for _ in 0..DRAWS {
                let pick = sampler.pick(&row(), Some(&mask)).unwrap();
                let expected = PROBABILITIES[pick.token as usize].ln();
                assert!((f64::from(pick.logprob) - expected).abs() < 1e-6);
                assert!((pick.masked_mass - 0.4).abs() < 1e-6, "{}", pick.masked_mass);
                counts[pick.token as usize] += 1.0 / DRAWS as f64;
            }
            for (share, expected) in counts.into_iter().zip([1.0 / 6.0, 0.0, 2.0 / 6.0, 3.0 / 6.0]) {
                assert!((share - expected).abs() < 0.012, "{share} is not {expected}");
            }
            let greedy =
                Sampler::new(SamplingOptions { temperature: 0.0, ..OFF }, 0).unwrap().pick(&row(), Some(&mask));
            assert_eq!(greedy.unwrap().token, 3);
        }
    }

    #[test]
    fn a_mask_that_forbids_nothing_changes_nothing() {
        let draws = |mask: Option<&Mask>| {
            let mut sampler = Sampler::new(OFF, 5).unwrap();
            (0..64).map(|_| sampler.pick(&row(), mask).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draws(Some(&Mask::Only(vec![u32::MAX]))), draws(None));
        assert_eq!(draws(Some(&Mask::Except(vec![]))), draws(None));
    }

    #[test]
    fn allowed_tokens_may_be_ever_so_unlikely() {
        let row = [0.0, 300.0, -300.0, -301.0];
        let mask = Mask::Only(vec![0b1100]);
        for temperature in [0.0, 0.7, 1.0] {
            let mut sampler = Sampler::new(SamplingOptions { temperature, top_k: 1, ..OFF }, 1).unwrap();
            let pick = sampler.pick(&row, Some(&mask)).unwrap();
            assert_eq!((pick.token, pick.masked_mass), (2, 1.0), "{temperature}");
        }
        let none = Sampler::new(OFF, 1).unwrap().pick(&row, Some(&Mask::Only(vec![0])));
        assert!(matches!(none, Err(Error::BadArgument(_))));
    }

    #[test]
    fn the_cumulative_sum_is_inverted_across_blocks() {
        let mut weights = vec![0f32; 3 * BLOCK + 5];
        (weights[7], weights[BLOCK + 1], weights[3 * BLOCK]) = (1.0, 2.0, 1.0);
        for (share, expected) in
            [(0.0, 7), (0.2499, 7), (0.25, BLOCK + 1), (0.7499, BLOCK + 1), (0.75, 3 * BLOCK), (1.0, 3 * BLOCK)]
        {
            assert_eq!(inverted(&weights, share), expected, "{share}");
        }
        assert_eq!(inverted(&weights[..3 * BLOCK], 1.0), BLOCK + 1);
    }

    #[test]
    fn equal_seeds_draw_alike_and_others_differ() {
        let draws = |seed| {
            let mut sampler = Sampler::new(OFF, seed).unwrap();
            (0..64).map(|_| sampler.pick(&row(), None).unwrap().token).collect::<Vec<_>>()
        };
        assert_eq!(draws(1 << 40), draws(1 << 40));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn refuses_what_is_not_a_distribution() {
        for bad in [f32::NAN, f32::INFINITY] {
            let row = [0.0, bad];
            let error = Sampler::new(OFF, 0).unwrap().pick(&row, None).unwrap_err();
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
