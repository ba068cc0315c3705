//! Rotary position embedding (RoPE, [arXiv 2104.09864](https://arxiv.org/abs/2104.09864)).

/// Which elements of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RopeStyle {
    /// Element `p` with element `p + rotary_dim / 2` (GPT-NeoX, Llama in Hugging Face layout, Gemma).
    #[default]
    HalfSplit,
    /// Element `2p` with element `2p + 1` (GPT-J, Llama as published).
    Interleaved,
}

/// Where the angles come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Frequencies {
    /// Pair `p` turns by `position * scale * base^(-2p / rotary_dim)` radians. The kernel multiplies
    /// in 64-bit fixed point, so the angle is exact to f32 rounding at every position.
    Base {
        /// Usually 10,000; positive and finite.
        base: f64,
        /// 1, or `1 / factor` for linear position interpolation; finite.
        scale: f64,
    },
    /// Cosines and sines are read from the table given with the operands.
    Table,
}

/// RoPE on q and k, in place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Which elements turn together.
    pub style: RopeStyle,
    /// Leading elements of each head that are rotated; `None` for all of them.
    pub rotary_dim: Option<usize>,
    /// Where the angles come from.
    pub frequencies: Frequencies,
}
