//! Prefill attention over a dense batch.

use crate::tensor::{TensorView, TensorViewMut};

/// Which keys a query sees, counted from the diagonal that ends at the last query and the last key
/// (bottom-right alignment, as FlashAttention since 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mask {
    /// Every key.
    #[default]
    Full,
    /// The keys up to and including the query's own: query `i` sees keys `j <= i + seqlen_k - seqlen_q`.
    Causal,
    /// A sliding window: with `d = i + seqlen_k - seqlen_q`, query `i` sees keys
    /// `d - left <= j <= d + right`, both ends included; `None` does not limit that side.
    Window {
        /// Keys seen before the diagonal.
        left: Option<u32>,
        /// Keys seen after the diagonal; `Some(0)` is causal.
        right: Option<u32>,
    },
}

impl Mask {
    /// The window this mask is: keys seen before and after the diagonal.
    pub fn window(self) -> (Option<u32>, Option<u32>) {
        match self {
            Mask::Full => (None, None),
            Mask::Causal => (None, Some(0)),
            Mask::Window { left, right } => (left, right),
        }
    }
}

/// Attention of a block of queries: `softmax(mask(softcap(q kᵀ · softmax_scale))) v`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Prefill {
    /// Which keys a query sees.
    pub mask: Mask,
    /// Multiplies q kᵀ; `None` for `1 / sqrt(head_dim)`.
    pub softmax_scale: Option<f32>,
    /// `Some(c)` replaces every scaled logit `s` by `c * tanh(s / c)` (Gemma 2, Grok); positive.
    pub softcap: Option<f32>,
}

impl Prefill {
    /// The factor on q kᵀ for this head dimension.
    pub fn scale_for(&self, head_dim: usize) -> f32 {
        self.softmax_scale
            .unwrap_or_else(|| (1.0 / (head_dim as f64).sqrt()) as f32)
    }
}

/// Operands of [`Kernels::prefill`](crate::Kernels::prefill).
#[derive(Debug)]
pub struct PrefillArgs<'a, T> {
    /// `[batch, seqlen_q, num_qo_heads, head_dim]`.
    pub q: TensorView<'a, T, 4>,
    /// `[batch, seqlen_k, num_kv_heads, head_dim]`.
    pub k: TensorView<'a, T, 4>,
    /// `[batch, seqlen_k, num_kv_heads, head_dim]`.
    pub v: TensorView<'a, T, 4>,
    /// `[batch, seqlen_q, num_qo_heads, head_dim]`: the output.
    pub o: TensorViewMut<'a, T, 4>,
    /// `[batch, num_qo_heads, seqlen_q]`: the natural log of the sum of exponentials, when asked for.
    pub lse: Option<TensorViewMut<'a, f32, 3>>,
}
