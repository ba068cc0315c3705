//! Root-mean-square normalisation (RMSNorm, [arXiv 1910.07467](https://arxiv.org/abs/1910.07467)).

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
