//! Root-mean-square normalisation (RMSNorm, [arXiv 1910.07467](https://arxiv.org/abs/1910.07467)), layer normalisation
//! (LayerNorm, [arXiv 1607.06450](https://arxiv.org/abs/1607.06450)), and what models do next to them in the same pass.
//!
//! - [`Kernels::rms_norm`](crate::Kernels::rms_norm) and [`Kernels::add_rms_norm`](crate::Kernels::add_rms_norm): the usual forms.
//! - [`Kernels::norm`](crate::Kernels::norm): every option of [`Norm`] and every operand of [`NormArgs`] in one pass.
//! - [`Kernels::qk_norm`](crate::Kernels::qk_norm): the heads of queries and keys, in one launch.
//! - [`Kernels::rms_norm_backward`](crate::Kernels::rms_norm_backward): gradients.

mod backward;
mod forward;
mod geometry;
mod qk;
mod support;

pub use backward::{NormBackwardArgs, backward_workspace};
pub use forward::{NormArgs, PostNorm};
pub use qk::QkNormArgs;
pub use support::{NormDTypes, SupportRow, support_matrix};

pub(crate) use geometry::{BackwardKernel, Kernel, max_shared_bytes};

/// How the weight enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WeightForm {
    /// Multiplies by `w` (Llama and most others).
    #[default]
    Plain,
    /// Multiplies by `1 + w` (Gemma).
    OnePlus,
}

/// RMSNorm over the last dimension: `out = x / sqrt(mean(x²) + eps) * w`, in f32, rounded once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsNorm {
    /// Added to the mean square; non-negative and finite.
    pub eps: f32,
    /// How the weight enters.
    pub weight: WeightForm,
}

/// What a row is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Statistics {
    /// `sqrt(mean(h²) + eps)`: RMSNorm.
    #[default]
    RootMeanSquare,
    /// `sqrt(variance(h) + eps)` after subtracting `mean(h)`; the variance is that of the population: LayerNorm.
    Deviation,
}

/// Where results are rounded on the way, after the implementations of the models of these names. All arithmetic is f32 in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Rounding {
    /// Once, at the end: `round(norm(h) * w)`.
    #[default]
    Gemma,
    /// The normalised row to the type of `h` (that of the residual where there is one, else that of `x`), and the end:
    /// `round(round(norm(h)) * w)`.
    Llama,
}

/// How a quantised output is scaled: `q = round(y * (1 / scale))`, ties to even, saturating; `y ≈ q * scale`.
///
/// A dynamic scale is `max(max|y| / MAX, 2^-126)` over the elements that share it, both divisions and the quotient rounded to
/// nearest in f32, with `MAX` the type's largest finite value ([`Quantized::MAX`](crate::Quantized::MAX)). Where one of these
/// elements is NaN the scale is NaN, and so are all of them; `i8` has no NaN and holds 0. With a static scale a NaN is NaN,
/// in `i8` 0, and infinities saturate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// This one; positive and finite, and so is its inverse in f32.
    Static(f32),
    /// One for each row: `scales` is `[rows, 1]`.
    PerRow,
    /// One for each group of so many columns, 64 or 128, of which the width is a multiple: `scales` is `[rows, groups]`.
    PerGroup(usize),
}

/// Everything that can be chosen about a normalisation, but for the operands.
///
/// For each row, with `h = x`, or `h = round(x + residual)` where there is a residual:
/// `out = norm(h) * w + bias`, times `gate * sigmoid(gate)` where there is a gate.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Norm {
    /// RMSNorm or LayerNorm.
    pub statistics: Statistics,
    /// Added to the mean square or variance; non-negative and finite.
    pub eps: f32,
    /// How weights enter.
    pub weight: WeightForm,
    /// Where results are rounded.
    pub rounding: Rounding,
    /// The statistics are those of the first so many columns (partial RMSNorm); all when absent.
    pub columns: Option<usize>,
    /// The output is quantised.
    pub scale: Option<Scale>,
}

impl From<RmsNorm> for Norm {
    fn from(RmsNorm { eps, weight }: RmsNorm) -> Self {
        Norm {
            eps,
            weight,
            ..Norm::default()
        }
    }
}
