//! Losses of single tokens and their slopes. A batch's loss is Σ weight·ℓ, so the normalisers of grpo, bnpo, dapo and
//! dr_grpo are in the weights, which TypeScript makes.
use crate::kernels::{Distribution, Slope};
use serde::Deserialize;

#[derive(Clone, Copy, Debug)]
pub enum Loss {
    Grpo(Grpo),
    /// ℓ = −log π(token).
    Nll {
        temperature: f32,
    },
}

/// The GRPO family (Shao et al. 2024): ℓ = surrogate(r, A) + kl_coef·KL(π ‖ anchor) − entropy_coef·H, where the ratio r is
/// π_new/π_old of the token or of its sequence.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grpo {
    pub surrogate: Surrogate,
    pub importance_sampling_level: ImportanceSamplingLevel,
    /// The ratio is held at 1 − clip_low and above (`clip` only) and at 1 + clip_high and below; asymmetric: Yu et al. 2025.
    pub clip_low: f32,
    pub clip_high: f32,
    /// Upper bound on the ratio where the advantage is negative (`clip` only): dual clip (Ye et al. 2020), TRL's two-sided
    /// clipping. Above 1 + clip_high.
    pub delta: Option<f32>,
    pub kl_coef: f32,
    pub kl_estimator: KlEstimator,
    /// KL times the ratio: unbiased for samples of the old policy (DeepSeek-V3.2), as TRL does by default.
    pub kl_ratio_correction: bool,
    pub entropy_coef: f32,
    pub temperature: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Surrogate {
    /// −min(r·A, clip(r, 1 − clip_low, 1 + clip_high)·A) (Schulman et al. 2017), r capped at delta where A < 0.
    Clip,
    /// −stop_gradient(min(r, 1 + clip_high))·A·log π (CISPO, MiniMax 2025): no token loses its gradient.
    Cispo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceSamplingLevel {
    /// r = exp(new − old) of the token.
    Token,
    /// r = exp(mean of new − old over the sequence's tokens in the loss) (GSPO, Zheng et al. 2025).
    Sequence,
}

/// Estimators of KL(π ‖ anchor) from a sample (Schulman 2020), d = anchor − new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// −d: unbiased, of either sign.
    K1,
    /// d²/2: biased, its slope on average that of the KL.
    K2,
    /// exp(d) − d − 1: unbiased, never negative.
    K3,
}

impl Loss {
    pub fn temperature(&self) -> f32 {
        match self {
            Loss::Grpo(Grpo { temperature, .. }) | Loss::Nll { temperature } => *temperature,
        }
    }
}

/// One token of the loss.
#[derive(Clone, Copy, Debug)]
pub struct LossToken {
    pub weight: f32,
    pub advantage: f32,
    pub old_logprob: f32,
    /// Under the anchor; None where there is none.
    pub reference_logprob: Option<f32>,
    pub sequence: usize,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct TokenLoss {
    pub value: f32,
    pub kl: f32,
    pub clipped_low: bool,
    pub clipped_high: bool,
    /// The ratio met `delta` where the advantage is negative.
    pub clipped_dual: bool,
    /// |recomputed − recorded| log-probability.
    pub logprob_difference: f32,
    pub slope: Slope,
}

/// Some where the loss of a token depends on other tokens of its sequence: all distributions are needed before any slope.
/// The tokens of a sequence come in their order, those of several mixed in any way.
pub fn sequence_losses(
    loss: &Loss,
    tokens: &[LossToken],
    distributions: impl FnOnce() -> crate::error::Result<Vec<Distribution>>,
) -> crate::error::Result<Option<Vec<TokenLoss>>> {
    match loss {
        Loss::Grpo(grpo) if grpo.importance_sampling_level == ImportanceSamplingLevel::Sequence => {
            Ok(Some(sequence_level(grpo, tokens, &distributions()?)))
        }
        _ => Ok(None),
    }
}

pub fn token_loss(loss: &Loss, token: LossToken, new: Distribution) -> TokenLoss {
    match loss {
        Loss::Grpo(grpo) => {
            let terms = grpo.terms(token, new, new.logprob - token.old_logprob);
            terms.loss(terms.through_ratio)
        }
        Loss::Nll { .. } => TokenLoss {
            value: -token.weight * new.logprob,
            slope: Slope { logprob: -token.weight, entropy: 0.0 },
            ..Default::default()
        },
    }
}

/// ∂log r/∂new is 1/n for each of a sequence's n tokens, so each of them gets the mean of what flows through the ratio.
fn sequence_level(grpo: &Grpo, tokens: &[LossToken], new: &[Distribution]) -> Vec<TokenLoss> {
    let differences = tokens.iter().zip(new).map(|(token, new)| (new.logprob - token.old_logprob) as f64);
    let log_ratios = means_of_sequences(tokens, differences);
    let terms: Vec<Terms> = tokens
        .iter()
        .zip(new)
        .map(|(token, new)| grpo.terms(*token, *new, log_ratios[token.sequence] as f32))
        .collect();
    let flows = means_of_sequences(tokens, terms.iter().map(|terms| terms.through_ratio as f64));
    tokens.iter().zip(&terms).map(|(token, terms)| terms.loss(flows[token.sequence] as f32)).collect()
}

fn means_of_sequences(tokens: &[LossToken], values: impl Iterator<Item = f64>) -> Vec<f64> {
    let sequences = tokens.iter().map(|token| token.sequence + 1).max().unwrap_or(0);
    let (mut sums, mut counts) = (vec![0.0; sequences], vec![0u32; sequences]);
    for (token, value) in tokens.iter().zip(values) {
        sums[token.sequence] += value;
        counts[token.sequence] += 1;
    }
    sums.iter().zip(&counts).map(|(sum, count)| sum / f64::from((*count).max(1))).collect()
}

/// A token's loss with its slope in two parts: at a fixed ratio, and through the logarithm of the ratio.
struct Terms {
    fixed_ratio: TokenLoss,
    through_ratio: f32,
}

impl Terms {
    fn loss(&self, flow: f32) -> TokenLoss {
        let mut loss = self.fixed_ratio;
        loss.slope.logprob += flow;
        loss
    }
}

impl Grpo {
    fn terms(&self, token: LossToken, new: Distribution, log_ratio: f32) -> Terms {
        let ratio = log_ratio.exp();
        let LossToken { weight, advantage, .. } = token;
        let (surrogate, surrogate_slope, surrogate_flow) = match self.surrogate {
            Surrogate::Clip => self.clipped(ratio, advantage),
            Surrogate::Cispo => {
                let importance = ratio.min(1.0 + self.clip_high);
                (-importance * advantage * new.logprob, -importance * advantage, 0.0)
            }
        };
        let (kl, kl_slope, kl_flow) = token.reference_logprob.map_or((0.0, 0.0, 0.0), |reference| {
            let (value, slope) = self.kl_estimator.of(reference - new.logprob);
            if self.kl_ratio_correction { (ratio * value, ratio * slope, ratio * value) } else { (value, slope, 0.0) }
        });
        let fixed_ratio = TokenLoss {
            value: weight * (surrogate + self.kl_coef * kl - self.entropy_coef * new.entropy),
            kl,
            clipped_low: self.surrogate == Surrogate::Clip && ratio < 1.0 - self.clip_low && advantage < 0.0,
            clipped_high: ratio > 1.0 + self.clip_high && advantage > 0.0,
            clipped_dual: self.delta.is_some_and(|delta| ratio > delta) && advantage < 0.0,
            logprob_difference: (new.logprob - token.old_logprob).abs(),
            slope: Slope {
                logprob: weight * (surrogate_slope + self.kl_coef * kl_slope),
                entropy: -weight * self.entropy_coef,
            },
        };
        Terms { fixed_ratio, through_ratio: weight * (surrogate_flow + self.kl_coef * kl_flow) }
    }

    /// The value, its slope at a fixed ratio, and its slope in log r: where the clipped branch is smaller, or the ratio is
    /// beyond delta, nothing flows.
    fn clipped(&self, ratio: f32, advantage: f32) -> (f32, f32, f32) {
        let bounded = self.delta.map_or(ratio, |delta| ratio.min(delta));
        let (plain, clipped) =
            (bounded * advantage, ratio.clamp(1.0 - self.clip_low, 1.0 + self.clip_high) * advantage);
        let flows = plain <= clipped && bounded == ratio;
        (-plain.min(clipped), 0.0, if flows { -plain } else { 0.0 })
    }
}

impl KlEstimator {
    /// The value and its slope in `new`, for d = anchor − new.
    fn of(self, d: f32) -> (f32, f32) {
        match self {
            KlEstimator::K1 => (-d, 1.0),
            KlEstimator::K2 => (d * d / 2.0, -d),
            KlEstimator::K3 => (d.exp() - d - 1.0, 1.0 - d.exp()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const PLAIN: Grpo = Grpo {
        surrogate: Surrogate::Clip,
        importance_sampling_level: ImportanceSamplingLevel::Token,
        clip_low: 0.2,
        clip_high: 0.28,
        delta: None,
        kl_coef: 0.1,
        kl_estimator: KlEstimator::K3,
        kl_ratio_correction: false,
        entropy_coef: 0.01,
        temperature: 1.0,
    };

    fn losses(loss: &Loss, tokens: &[LossToken], new: &[Distribution]) -> Vec<TokenLoss> {
        sequence_losses(loss, tokens, || Ok(new.to_vec()))
            .unwrap()
            .unwrap_or_else(|| tokens.iter().zip(new).map(|(t, d)| token_loss(loss, *t, *d)).collect())
    }

    fn numbers(value: &Value) -> Vec<f32> {
        value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
    }

    /// tests/losses/expected.json: TRL 1.16's own `_compute_loss` on given log-probabilities (expected.py beside it).
    #[test]
    fn values_and_slopes_are_those_of_trl() {
        let expected: Value = serde_json::from_str(include_str!("../../tests/losses/expected.json")).unwrap();
        let rows = |name: &str| -> Vec<Vec<f32>> { expected[name].as_array().unwrap().iter().map(numbers).collect() };
        let (new, old, reference) = (rows("new"), rows("old"), rows("reference"));
        let (advantages, mask, entropy) = (rows("advantages"), rows("mask"), rows("entropy"));
        let cases = expected["cases"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let grpo: Grpo = serde_json::from_value(case["loss"].clone()).unwrap();
            let weights: Vec<Vec<f32>> = case["weights"].as_array().unwrap().iter().map(numbers).collect();
            let mut tokens = Vec::new();
            let mut distributions = Vec::new();
            let mut slopes = Vec::new();
            for s in 0..new.len() {
                let wanted = numbers(&case["slopes"][s]);
                for t in (0..new[s].len()).filter(|t| mask[s][*t] == 1.0) {
                    tokens.push(LossToken {
                        weight: weights[s][t],
                        advantage: advantages[s][t],
                        old_logprob: old[s][t],
                        reference_logprob: (grpo.kl_coef > 0.0).then_some(reference[s][t]),
                        sequence: s,
                    });
                    distributions.push(Distribution { logprob: new[s][t], entropy: entropy[s][t] });
                    slopes.push(wanted[t]);
                }
            }
            let got = losses(&Loss::Grpo(grpo), &tokens, &distributions);
            let close = |got: f32, wanted: f32, what: &str| {
                assert!((got - wanted).abs() < 2e-6, "{}: {what} {got}, expected {wanted}", case["name"]);
            };
            close(got.iter().map(|token| token.value).sum(), case["value"].as_f64().unwrap() as f32, "loss");
            for (token, slope) in got.iter().zip(slopes) {
                close(token.slope.logprob, slope, "slope");
            }
            let share =
                |flag: fn(&TokenLoss) -> bool| got.iter().filter(|token| flag(token)).count() as f32 / got.len() as f32;
            close(share(|token| token.clipped_low), case["clipped_low"].as_f64().unwrap() as f32, "clipped low");
            close(share(|token| token.clipped_high), case["clipped_high"].as_f64().unwrap() as f32, "clipped high");
        }
    }

    #[test]
    fn slopes_are_the_finite_differences_of_the_values() {
        use ImportanceSamplingLevel::{Sequence, Token};
        use KlEstimator::{K1, K2, K3};
        for (surrogate, delta) in [(Surrogate::Clip, None), (Surrogate::Clip, Some(1.5)), (Surrogate::Cispo, None)] {
            for importance_sampling_level in [Token, Sequence] {
                for (kl_estimator, kl_ratio_correction) in
                    [(K1, true), (K2, false), (K2, true), (K3, false), (K3, true)]
                {
                    let grpo = Grpo {
                        surrogate,
                        delta,
                        importance_sampling_level,
                        kl_estimator,
                        kl_ratio_correction,
                        ..PLAIN
                    };
                    check_slopes(&grpo);
                }
            }
        }
    }

    /// Two sequences; shifts keep every ratio, of tokens and of sequences, away from the kinks. CISPO's ratio is held, which
    /// a finite difference of the value cannot see: there the check is that of the value with the ratio taken out.
    fn check_slopes(grpo: &Grpo) {
        for (scale, advantages) in [(1.0, [-1.5, 0.7]), (1.0, [0.9, -0.4]), (-1.0, [-1.5, 0.7]), (0.1, [1.0, -1.0])] {
            let shifts = [0.5f32, 0.9, 0.7, -0.4, -0.6].map(|shift| shift * scale);
            let sequence_of = [0, 0, 0, 1, 1];
            let new: Vec<f32> = shifts.iter().map(|shift| -2.0 + shift).collect();
            let tokens: Vec<LossToken> = (0..5)
                .map(|i| LossToken {
                    weight: 0.2 + 0.05 * i as f32,
                    advantage: advantages[sequence_of[i]] * (1.0 + 0.1 * i as f32),
                    old_logprob: -2.0,
                    reference_logprob: Some(-1.7 - 0.1 * i as f32),
                    sequence: sequence_of[i],
                })
                .collect();
            let all = |new: &[f32]| {
                let new: Vec<Distribution> =
                    new.iter().map(|&logprob| Distribution { logprob, entropy: 1.0 }).collect();
                losses(&Loss::Grpo(*grpo), &tokens, &new)
            };
            let at = |new: &[f32]| all(new).iter().map(|loss| loss.value as f64).sum::<f64>();
            let found = all(&new);
            for i in 0..5 {
                let moved = |by: f32| {
                    let mut new = new.clone();
                    new[i] += by;
                    at(&new)
                };
                let numeric = (moved(4e-3) - moved(-4e-3)) / 8e-3;
                let held =
                    if grpo.surrogate == Surrogate::Cispo { held_ratio_flow(grpo, &tokens, &new, i) } else { 0.0 };
                let slope = found[i].slope.logprob as f64 + held;
                assert!((numeric - slope).abs() < 1e-3, "{grpo:?} scale {scale} token {i}: {slope} is not {numeric}");
            }
        }
    }

    /// What the stop-gradient of CISPO leaves out: ∂(−w·min(r, 1 + ε)·A·new)/∂log r·∂log r/∂new_i.
    fn held_ratio_flow(grpo: &Grpo, tokens: &[LossToken], new: &[f32], i: usize) -> f64 {
        let whole = grpo.importance_sampling_level == ImportanceSamplingLevel::Sequence;
        let mates: Vec<usize> = (0..tokens.len())
            .filter(|j| if whole { tokens[*j].sequence == tokens[i].sequence } else { *j == i })
            .collect();
        let mean = mates.iter().map(|j| (new[*j] - tokens[*j].old_logprob) as f64).sum::<f64>() / mates.len() as f64;
        let ratio = mean.exp();
        if ratio > 1.0 + grpo.clip_high as f64 {
            return 0.0;
        }
        let flow = |j: &usize| -(tokens[*j].weight * tokens[*j].advantage * new[*j]) as f64 * ratio;
        mates.iter().map(flow).sum::<f64>() / mates.len() as f64
    }

    #[test]
    fn mixing_sequences_changes_nothing() {
        let grpo = Loss::Grpo(Grpo { importance_sampling_level: ImportanceSamplingLevel::Sequence, ..PLAIN });
        let token = |i: usize, sequence: usize| LossToken {
            weight: 0.1,
            advantage: 1.0 - 2.0 * sequence as f32,
            old_logprob: -1.0 - 0.1 * i as f32,
            reference_logprob: None,
            sequence,
        };
        let new = |i: usize| Distribution { logprob: -1.1 - 0.07 * i as f32, entropy: 0.5 };
        let apart = losses(&grpo, &[token(0, 0), token(1, 0), token(2, 1), token(3, 1)], &[0, 1, 2, 3].map(new));
        let mixed = losses(&grpo, &[token(2, 1), token(0, 0), token(3, 1), token(1, 0)], &[2, 0, 3, 1].map(new));
        for (a, b) in [(0, 1), (1, 3), (2, 0), (3, 2)] {
            assert_eq!(apart[a].slope.logprob.to_bits(), mixed[b].slope.logprob.to_bits());
            assert_eq!(apart[a].value.to_bits(), mixed[b].value.to_bits());
        }
    }
}
