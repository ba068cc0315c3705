//! Which token comes next.

use anyhow::{Result, ensure};
use rand::SeedableRng;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::StdRng;

/// Picks tokens from logits: the likeliest one, or at random in proportion to `exp(logit / temperature)`.
pub struct Sampler {
    temperature: f32,
    rng: StdRng,
}

impl Sampler {
    /// At temperature 0 the likeliest token always wins.
    pub fn new(temperature: f32, seed: u64) -> Result<Self> {
        ensure!(
            temperature.is_finite() && temperature >= 0.0,
            "the temperature must be finite and not negative, not {temperature}"
        );
        Ok(Self {
            temperature,
            rng: StdRng::seed_from_u64(seed),
        })
    }

    /// The next token.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        let best = argmax(logits);
        if self.temperature == 0.0 {
            return Ok(best as u32);
        }
        let top = logits[best];
        let weights = logits
            .iter()
            .map(|logit| ((logit - top) / self.temperature).exp());
        Ok(WeightedIndex::new(weights)?.sample(&mut self.rng) as u32)
    }
}

/// Where the largest element is; the first of equals. `logits` is not empty.
pub fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (index, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = index;
        }
    }
    best
}

/// Minus the natural log of the probability that `logits` give `token`.
pub fn surprise(logits: &[f32], token: u32) -> f64 {
    let top = f64::from(logits[argmax(logits)]);
    let sum: f64 = logits
        .iter()
        .map(|&logit| (f64::from(logit) - top).exp())
        .sum();
    top + sum.ln() - f64::from(logits[token as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        let mut sampler = Sampler::new(0.0, 1).expect("a sampler");
        assert_eq!(sampler.sample(&[-1.0, 3.0, 0.5, 3.0]).expect("a token"), 1);
    }

    #[test]
    fn a_temperature_draws_in_proportion() {
        let mut sampler = Sampler::new(0.5, 7).expect("a sampler");
        // exp(ln(3) / 2 / 0.5) = 3: three to one.
        let logits = [0.0, 3f32.ln() / 2.0];
        let ones: u32 = (0..4000)
            .map(|_| sampler.sample(&logits).expect("a token"))
            .sum();
        assert!((2900..3100).contains(&ones), "{ones} of 4000");
    }

    #[test]
    fn temperatures_that_mean_nothing_are_refused() {
        for temperature in [-1.0, f32::NAN, f32::INFINITY] {
            assert!(Sampler::new(temperature, 0).is_err());
        }
    }

    #[test]
    fn equal_logits_surprise_by_the_log_of_their_number() {
        let surprise = surprise(&[5.0; 8], 3);
        assert!((surprise - 8f64.ln()).abs() < 1e-12);
    }
}
