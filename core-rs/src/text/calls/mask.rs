//! Tokens that may come next.

#[derive(Debug, Clone, PartialEq)]
pub enum Mask {
    /// All but these few.
    Except(Vec<u32>),
    /// Those whose bit is set, 32 tokens a word.
    Only(Vec<u32>),
}

impl Mask {
    pub fn allows(&self, token: u32) -> bool {
        match self {
            Mask::Except(tokens) => !tokens.contains(&token),
            Mask::Only(words) => words.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1),
        }
    }

    pub fn allow(&mut self, token: u32) {
        match self {
            Mask::Except(tokens) => tokens.retain(|&other| other != token),
            Mask::Only(words) => words.get_mut(token as usize / 32).into_iter().for_each(|w| *w |= 1 << (token % 32)),
        }
    }

    pub fn forbid(&mut self, token: u32) {
        match self {
            Mask::Except(tokens) => tokens.push(token),
            Mask::Only(words) => {
                words.get_mut(token as usize / 32).into_iter().for_each(|w| *w &= !(1 << (token % 32)))
            }
        }
    }

    /// Probability that is not allowed: log-probabilities are `scale`·logit − `log_sum_exp`. The smaller side is added up.
    pub fn forbidden_mass(&self, logits: &[f32], scale: f32, log_sum_exp: f32) -> f32 {
        let probability = |logit: &f32| f64::from((logit * scale - log_sum_exp).exp());
        let mass = match self {
            Mask::Except(tokens) => {
                tokens.iter().filter_map(|&token| logits.get(token as usize)).map(probability).sum()
            }
            Mask::Only(words) => {
                let set: usize = words.iter().map(|word| word.count_ones() as usize).sum();
                let few = set * 2 < logits.len();
                let flipped = words.iter().map(|&word| if few { word } else { !word });
                let beyond = logits.len().saturating_sub(words.len() * 32);
                let mut sum = 0.0;
                for (i, word) in flipped.enumerate() {
                    bits(word).filter_map(|bit| logits.get(i * 32 + bit)).for_each(|logit| sum += probability(logit));
                }
                if few { 1.0 - sum } else { sum + logits[logits.len() - beyond..].iter().map(probability).sum::<f64>() }
            }
        };
        mass.clamp(0.0, 1.0) as f32
    }

    /// Logits with −∞ where a token is not allowed.
    pub fn applied(&self, logits: &[f32]) -> Vec<f32> {
        let allowed =
            |(token, &logit): (usize, &f32)| if self.allows(token as u32) { logit } else { f32::NEG_INFINITY };
        logits.iter().enumerate().map(allowed).collect()
    }
}

/// Places of the bits that are set, in order.
fn bits(mut word: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then_some(word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let logits: Vec<f32> = (0..70).map(|token| (token % 7) as f32).collect();
        let forbidden = [0u32, 31, 32, 69];
        let mut only = Mask::Only(vec![u32::MAX; 3]);
        forbidden.iter().for_each(|&token| only.forbid(token));
        let except = Mask::Except(forbidden.to_vec());
        let total: f32 = logits.iter().map(|logit| logit.exp()).sum();
        let expected: f32 = forbidden.iter().map(|&token| logits[token as usize].exp()).sum::<f32>() / total;
        for mask in [&only, &except] {
            assert!((0..70).all(|token| mask.allows(token) != forbidden.contains(&token)));
            assert!((mask.forbidden_mass(&logits, 1.0, total.ln()) - expected).abs() < 1e-6);
        }
        assert_eq!(only.applied(&logits), except.applied(&logits));
        assert!(!only.allows(96), "beyond the words nothing is allowed");
        let short = Mask::Only(vec![u32::MAX; 2]);
        let rest: f32 = logits[64..].iter().map(|logit| logit.exp()).sum::<f32>() / total;
        assert!((short.forbidden_mass(&logits, 1.0, total.ln()) - rest).abs() < 1e-6);
        let mut few = Mask::Only(vec![0; 3]);
        few.allow(5);
        assert!((few.forbidden_mass(&logits, 1.0, total.ln()) - (1.0 - logits[5].exp() / total)).abs() < 1e-6);
    }
}
