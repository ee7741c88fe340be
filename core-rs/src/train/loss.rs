//! Losses of single tokens and their slopes. A batch's loss is Σ weight·ℓ, so the normalisers of grpo, bnpo, dapo and
//! dr_grpo are in the weights, which TypeScript makes.
use crate::kernels::{Distribution, Slope};

#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// ℓ = −min(r·A, clip(r, 1 − clip_low, 1 + clip_high)·A) + kl_coef·k3 − entropy_coef·H with r = exp(new − old) (Shao et
    /// al. 2024; asymmetric clip: Yu et al. 2025). `kl_ratio_correction` multiplies k3 by r, as TRL does by default.
    Grpo { clip_low: f32, clip_high: f32, kl_coef: f32, kl_ratio_correction: bool, entropy_coef: f32, temperature: f32 },
    /// ℓ = −log π(token).
    Nll { temperature: f32 },
}

impl Loss {
    pub fn temperature(&self) -> f32 {
        match self {
            Loss::Grpo { temperature, .. } | Loss::Nll { temperature } => *temperature,
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
}

#[derive(Clone, Copy, Debug, Default)]
pub struct TokenLoss {
    pub value: f32,
    pub kl: f32,
    pub clipped_low: bool,
    pub clipped_high: bool,
    /// |recomputed − recorded| log-probability.
    pub logprob_difference: f32,
    pub slope: Slope,
}

pub fn token_loss(loss: &Loss, token: LossToken, new: Distribution) -> TokenLoss {
    let Loss::Grpo { clip_low, clip_high, kl_coef, kl_ratio_correction, entropy_coef, .. } = *loss else {
        return TokenLoss {
            value: -token.weight * new.logprob,
            slope: Slope { logprob: -token.weight, entropy: 0.0 },
            ..Default::default()
        };
    };
    let ratio = (new.logprob - token.old_logprob).exp();
    let (plain, clipped) = (ratio * token.advantage, ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * token.advantage);
    // where the clipped branch is smaller the ratio is outside its bounds and nothing flows
    let surrogate_slope = if plain <= clipped { -plain } else { 0.0 };
    let (kl, kl_slope) =
        token.reference_logprob.map_or((0.0, 0.0), |reference| k3(reference - new.logprob, ratio, kl_ratio_correction));
    TokenLoss {
        value: token.weight * (-plain.min(clipped) + kl_coef * kl - entropy_coef * new.entropy),
        kl,
        clipped_low: ratio < 1.0 - clip_low && token.advantage < 0.0,
        clipped_high: ratio > 1.0 + clip_high && token.advantage > 0.0,
        logprob_difference: (new.logprob - token.old_logprob).abs(),
        slope: Slope {
            logprob: token.weight * (surrogate_slope + kl_coef * kl_slope),
            entropy: -token.weight * entropy_coef,
        },
    }
}

/// k3 = exp(d) − d − 1 with d = reference − new (Schulman 2020), and its slope in `new`. Never negative, and unbiased only
/// for samples of the current policy; times the ratio it is unbiased for samples of the old one.
fn k3(d: f32, ratio: f32, ratio_correction: bool) -> (f32, f32) {
    let value = d.exp() - d - 1.0;
    let slope = 1.0 - d.exp();
    if ratio_correction { (ratio * value, ratio * (value + slope)) } else { (value, slope) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_the_finite_differences_of_the_values() {
        for ratio_correction in [false, true] {
            let loss = Loss::Grpo {
                clip_low: 0.2,
                clip_high: 0.28,
                kl_coef: 0.1,
                kl_ratio_correction: ratio_correction,
                entropy_coef: 0.01,
                temperature: 1.0,
            };
            for advantage in [-1.5, 0.0, 0.7] {
                for shift in [-0.5f32, -0.1, 0.05, 0.4] {
                    let token =
                        LossToken { weight: 0.3, advantage, old_logprob: -2.0 - shift, reference_logprob: Some(-1.7) };
                    let at = |d: f32| {
                        token_loss(&loss, token, Distribution { logprob: -2.0 + d, entropy: 1.0 }).value as f64
                    };
                    let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
                    let slope =
                        token_loss(&loss, token, Distribution { logprob: -2.0, entropy: 1.0 }).slope.logprob as f64;
                    assert!((numeric - slope).abs() < 2e-3, "A={advantage} shift={shift}: {slope} is not {numeric}");
                }
            }
        }
    }
}
