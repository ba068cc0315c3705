//! Frequencies for contexts longer than those a model was trained on: published rules as pure functions.
//!
//! Throughout, `d` is `rotary_dim`, pair `p` of `d / 2` turns by `f(p) = base^(-2p / d)` radians per position before scaling, and
//! `factor` is by how much the context grows. Arithmetic is double-double where a frequency is multiplied by
//! large positions later; ramps and bases are f64, as published code has them at best.

use std::f64::consts::TAU;

use super::double::DoubleDouble;
use super::frequencies::InvFreq;
use super::turns::TURNS_PER_RADIAN;
use super::{MAX_PAIRS, Unsupported};
use crate::check;
use crate::error::Error;

/// `f(p)` as it is ([RoFormer](https://arxiv.org/abs/2104.09864), section 3.2.2).
///
/// # Errors
/// [`Error::InvalidOption`] for a `base` that is not finite and positive, [`Unsupported::RotaryDim`] for a `rotary_dim` that no kernel takes.
pub fn unscaled(base: f64, rotary_dim: usize) -> Result<InvFreq, Error> {
    positive("base", base)?;
    let limit = 2 * MAX_PAIRS;
    if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) || rotary_dim > limit {
        return Err(Unsupported::RotaryDim {
            rotary_dim,
            head_dim: rotary_dim,
            limit,
        }
        .into());
    }
    Ok(InvFreq::powers(base, 1.0, rotary_dim / 2))
}

/// Linear position interpolation, `f(p) / factor` ([Chen et al.](https://arxiv.org/abs/2306.15595)).
///
/// # Errors
/// As [`unscaled`], and for a `factor` that is not finite and positive.
pub fn linear(base: f64, rotary_dim: usize, factor: f64) -> Result<InvFreq, Error> {
    positive("factor", factor)?;
    Ok(unscaled(base, rotary_dim)?.map(|(_, radians)| radians.over(factor)))
}

/// NTK-aware scaling: the base becomes `base * factor^(d / (d - 2))`, so that the first pair turns as before and the last one
/// slower by `factor` (bloc97, r/LocalLLaMA, 2023; section 3.1 of [YaRN](https://arxiv.org/abs/2309.00071)).
///
/// # Errors
/// As [`linear`], and [`Error::InvalidOption`] for a `rotary_dim` of 2, which leaves no pair to slow down.
pub fn ntk(base: f64, rotary_dim: usize, factor: f64) -> Result<InvFreq, Error> {
    unscaled(base, rotary_dim)?;
    positive("factor", factor)?;
    check::option(
        "rotary_dim",
        rotary_dim as f64,
        "must be above 2 for NTK scaling",
        |d| d > 2.0,
    )?;
    let d = rotary_dim as f64;
    unscaled(base * factor.powf(d / (d - 2.0)), rotary_dim)
}

/// Dynamic NTK: [`ntk`] with `factor * seqlen / original - (factor - 1)` in the place of `factor`, for the current length
/// of the sequence; as it is up to the original length (emozilla, r/LocalLLaMA, 2023; `dynamic` in Hugging Face transformers).
///
/// # Errors
/// As [`ntk`], and for an `original_max_position` of 0.
pub fn dynamic_ntk(
    base: f64,
    rotary_dim: usize,
    factor: f64,
    original_max_position: usize,
    seqlen: usize,
) -> Result<InvFreq, Error> {
    positive("factor", factor)?;
    let original = positive("original_max_position", original_max_position as f64)?;
    let seqlen = (seqlen as f64).max(original);
    ntk(
        base,
        rotary_dim,
        factor * seqlen / original - (factor - 1.0),
    )
}

/// Options of [`yarn`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// By how much the context grows.
    pub factor: f64,
    /// The context that the model was trained on.
    pub original_max_position: usize,
    /// Pairs that turn more often than this in the original context stay as they are; 32.
    pub beta_fast: f64,
    /// Pairs that turn less often are interpolated in full; 1.
    pub beta_slow: f64,
    /// Whether the ends of the ramp between are rounded outwards to whole pairs; yes in the authors' code.
    pub truncate: bool,
    /// `None`: `0.1 ln(factor) + 1` ([`yarn_attention_factor`]).
    pub attention_factor: Option<f64>,
}

impl Yarn {
    /// With the usual values of everything else.
    pub fn new(factor: f64, original_max_position: usize) -> Self {
        Self {
            factor,
            original_max_position,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention_factor: None,
        }
    }
}

/// YaRN's recommendation for the attention factor, `0.1 * mscale * ln(factor) + 1`, and 1 for a factor of at most 1. With a second
/// `mscale_all_dim`, as DeepSeek has it, the quotient of the two is what cosines and sines get.
pub fn yarn_attention_factor(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * mscale * factor.ln() + 1.0
    }
}

/// YaRN, "NTK by parts" with an attention factor ([Peng et al.](https://arxiv.org/abs/2309.00071), sections 3.2 to 3.4):
/// `f(p) * ((1 - ramp) + ramp / factor)`, where the ramp rises from 0 to 1 between the pairs that turn `beta_fast` and
/// `beta_slow` times in the original context, `d ln(original / (2π beta)) / (2 ln base)`.
///
/// # Errors
/// As [`linear`]; [`Error::InvalidOption`] for a `base` of 1, and for an `original_max_position`, `beta_fast`, `beta_slow` or
/// `attention_factor` that is not finite and positive.
pub fn yarn(base: f64, rotary_dim: usize, options: &Yarn) -> Result<InvFreq, Error> {
    let unscaled = unscaled(base, rotary_dim)?;
    check::option("base", base, "must not be 1 for YaRN", |base| base != 1.0)?;
    let factor = positive("factor", options.factor)?;
    let original = positive(
        "original_max_position",
        options.original_max_position as f64,
    )?;
    let pair_that_turns =
        |times: f64| rotary_dim as f64 * (original / (times * TAU)).ln() / (2.0 * base.ln());
    let mut low = pair_that_turns(positive("beta_fast", options.beta_fast)?);
    let mut high = pair_that_turns(positive("beta_slow", options.beta_slow)?);
    if options.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let low = low.max(0.0);
    let mut high = high.min(rotary_dim as f64 - 1.0);
    if low == high {
        high += 0.001; // the authors' code: no division by zero
    }
    let attention_factor = options
        .attention_factor
        .unwrap_or_else(|| yarn_attention_factor(factor, 1.0));
    unscaled
        .map(|(pair, radians)| {
            let ramp = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
            let kept = DoubleDouble::sum(1.0, -ramp);
            radians.mul(kept.add(DoubleDouble::from(ramp).over(factor)))
        })
        .with_attention_factor(attention_factor)
}

/// Options of [`llama3`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Llama3 {
    /// By how much the context grows; 8 in Llama 3.1, 32 in Llama 3.2.
    pub factor: f64,
    /// Pairs that turn less often than this in the original context are interpolated in full; 1.
    pub low_freq_factor: f64,
    /// Pairs that turn more often stay as they are; 4.
    pub high_freq_factor: f64,
    /// The context that the model was trained on; 8192.
    pub original_max_position: usize,
}

/// Llama 3.1's rule: with `s = (original * f(p) / 2π - low) / (high - low)` kept within 0 to 1, `f(p) * ((1 - s) / factor + s)`
/// (`apply_scaling` in Meta's llama-models, `models/llama3/model.py`).
///
/// # Errors
/// As [`linear`]; [`Error::InvalidOption`] for an `original_max_position` of 0, a `low_freq_factor` that is not finite and
/// positive, and a `high_freq_factor` that is not finite and larger.
pub fn llama3(base: f64, rotary_dim: usize, options: &Llama3) -> Result<InvFreq, Error> {
    let factor = positive("factor", options.factor)?;
    let original = positive(
        "original_max_position",
        options.original_max_position as f64,
    )?;
    let low = positive("low_freq_factor", options.low_freq_factor)?;
    let high = options.high_freq_factor;
    check::option(
        "high_freq_factor",
        high,
        "must be finite and above low_freq_factor",
        |high| high > low,
    )?;
    Ok(unscaled(base, rotary_dim)?.map(|(_, radians)| {
        let times = radians.mul(TURNS_PER_RADIAN).times(original);
        let smooth = times.plus(-low).over(high - low);
        if smooth.hi <= 0.0 {
            radians.over(factor)
        } else if smooth.hi >= 1.0 {
            radians
        } else {
            let rest = DoubleDouble::from(1.0).add(smooth.times(-1.0));
            radians.mul(rest.over(factor).add(smooth))
        }
    }))
}

/// Options of [`long_rope`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LongRope<'a> {
    /// `[rotary_dim / 2]`: what pairs are slowed down by in sequences up to the original context.
    pub short_factor: &'a [f64],
    /// `[rotary_dim / 2]`: the same in longer ones.
    pub long_factor: &'a [f64],
    /// The context that the model was trained on.
    pub original_max_position: usize,
    /// The context it is used with.
    pub max_position: usize,
    /// `None`: `sqrt(1 + ln(max / original) / ln(original))`, or 1 for a context that does not grow.
    pub attention_factor: Option<f64>,
}

/// LongRoPE: `f(p)` divided by the factor of pair `p`, of the short or the long list as the sequence's length asks for
/// ([Ding et al.](https://arxiv.org/abs/2402.13753); Phi-3).
///
/// # Errors
/// As [`unscaled`]; [`Error::ShapeMismatch`] for lists of another length than `rotary_dim / 2`, [`Error::InvalidOption`] for one of their
/// factors that is not finite and positive, an `original_max_position` below 2 or a `max_position` of 0.
pub fn long_rope(
    base: f64,
    rotary_dim: usize,
    options: &LongRope<'_>,
    seqlen: usize,
) -> Result<InvFreq, Error> {
    let unscaled = unscaled(base, rotary_dim)?;
    for (name, factors) in [
        ("short_factor", options.short_factor),
        ("long_factor", options.long_factor),
    ] {
        check::extent(name, "pairs", factors.len(), rotary_dim / 2)?;
        for &factor in factors {
            positive(name, factor)?;
        }
    }
    let original = options.original_max_position as f64;
    check::option(
        "original_max_position",
        original,
        "must be above 1",
        |original| original > 1.0,
    )?;
    let factor = positive("max_position", options.max_position as f64)? / original;
    let factors = if seqlen > options.original_max_position {
        options.long_factor
    } else {
        options.short_factor
    };
    let attention_factor = options.attention_factor.unwrap_or_else(|| {
        if factor <= 1.0 {
            1.0
        } else {
            (1.0 + factor.ln() / original.ln()).sqrt()
        }
    });
    unscaled
        .map(|(pair, radians)| radians.over(factors[pair]))
        .with_attention_factor(attention_factor)
}

fn positive(name: &'static str, value: f64) -> Result<f64, Error> {
    check::option(name, value, "must be finite and positive", |value| {
        value > 0.0
    })?;
    Ok(value)
}

#[cfg(test)]
mod tests;
