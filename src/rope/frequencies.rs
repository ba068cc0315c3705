//! How fast each pair turns.

use super::double::DoubleDouble;
use super::turns;
use crate::check;
use crate::error::Error;

/// Radians per position of every pair (`inv_freq` in most models), and what cosines and sines are multiplied by. The functions of
/// [`scaling`](super::scaling) make them.
///
/// Kept to twice the precision of f64, so that what the functions compute is exact to f32 rounding at any position.
#[derive(Debug, Clone, PartialEq)]
pub struct InvFreq {
    radians: Vec<DoubleDouble>,
    attention_factor: f64,
}

impl InvFreq {
    /// From radians per position `[rotary_dim / 2]`, taken as they are, as a tensor of a checkpoint gives them.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] named `inv_freq` for one that is not finite.
    pub fn new(radians: &[f64]) -> Result<Self, Error> {
        for &radians in radians {
            check::option("inv_freq", radians, "must be finite", |_| true)?;
        }
        Ok(Self::from_exact(
            radians.iter().copied().map(DoubleDouble::from).collect(),
        ))
    }

    /// `scale * base^(-p / pairs)` for pair `p`.
    pub(crate) fn powers(base: f64, scale: f64, pairs: usize) -> Self {
        let ratio = inverse_root(base, pairs);
        let first = DoubleDouble::from(scale);
        let radians = std::iter::successors(Some(first), |frequency| Some(frequency.mul(ratio)));
        Self::from_exact(radians.take(pairs).collect())
    }

    pub(crate) fn from_exact(radians: Vec<DoubleDouble>) -> Self {
        Self {
            radians,
            attention_factor: 1.0,
        }
    }

    /// The same with another attention factor: cosines and sines are multiplied by it, so that logits are by its square
    /// (YaRN and LongRoPE).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] named `attention_factor` for one that is not finite and positive.
    pub fn with_attention_factor(self, attention_factor: f64) -> Result<Self, Error> {
        check::option(
            "attention_factor",
            attention_factor,
            "must be finite and positive",
            |factor| factor > 0.0,
        )?;
        Ok(Self {
            attention_factor,
            ..self
        })
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.radians.len()
    }

    /// True when there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.radians.is_empty()
    }

    /// Radians per position of every pair, rounded to f64.
    pub fn radians(&self) -> impl ExactSizeIterator<Item = f64> {
        self.radians.iter().map(|radians| radians.hi)
    }

    /// What cosines and sines are multiplied by.
    pub fn attention_factor(&self) -> f64 {
        self.attention_factor
    }

    pub(crate) fn exact(&self) -> &[DoubleDouble] {
        &self.radians
    }

    /// With what `f` makes of each pair's radians.
    pub(crate) fn map(self, f: impl FnMut((usize, DoubleDouble)) -> DoubleDouble) -> Self {
        Self {
            radians: self.radians.into_iter().enumerate().map(f).collect(),
            ..self
        }
    }

    pub(crate) fn turns(&self) -> [u64; super::MAX_PAIRS] {
        turns::turns(self)
    }
}

/// `base^(-1/n)`, by one step of Newton's method from the f64 value.
fn inverse_root(base: f64, n: usize) -> DoubleDouble {
    let start = base.powf(-1.0 / n as f64);
    // With r = start * (1 + d), base * r^n is 1 where n * d = 1 - base * start^n, but for d^2.
    let residual = DoubleDouble::from(start).pow(n).times(base).plus(-1.0);
    let correction = -residual.hi / n as f64;
    DoubleDouble::sum(start, start * correction)
}

/// Where the angles come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Frequencies {
    /// Pair `p` turns by `position * scale * base^(-2p / rotary_dim)` radians. The kernel multiplies
    /// in 64-bit fixed point, so the angle is exact to f32 rounding at every position.
    Base {
        /// Usually 10,000; positive and finite.
        base: f64,
        /// 1, or `1 / factor` for linear position interpolation; finite.
        scale: f64,
    },
    /// Given pair by pair: explicitly, or by one of the functions of [`scaling`](super::scaling).
    Explicit(InvFreq),
    /// Cosines and sines are read from the table given with the operands.
    Table,
}

impl Default for Frequencies {
    /// A base of 10,000.
    fn default() -> Self {
        Frequencies::Base {
            base: 10_000.0,
            scale: 1.0,
        }
    }
}
