//! Prefill attention: descriptors, operands and entry points.

use cudarc::driver::CudaStream;

use super::call::{Call, Lengths, Queries};
use super::mask::{BlockMask, Mask};
use crate::dtype::{DType, Float};
use crate::error::Error;
use crate::kernels::Kernels;
use crate::metadata::{CuSeqlens, PageLayout, PageTable};
use crate::tensor::{TensorView, TensorViewMut};
use half::{bf16, f16};

/// Attention of a block of queries: `softmax(mask(logits(q kᵀ))) v`, where a logit is scaled, then capped, then given
/// ALiBi and bias.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Prefill {
    /// Which keys a query sees.
    pub mask: Mask,
    /// The first keys of a request are seen by every query that the mask does not forbid to look that far ahead,
    /// however far a window has moved on (StreamingLLM, [arXiv 2309.17453](https://arxiv.org/abs/2309.17453)).
    pub sink_tokens: u32,
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

/// What is added to capped logits: `[batch, num_qo_heads, seqlen_q, seqlen_k]`, of packed queries
/// `[1, num_qo_heads, tokens, longest seqlen_k]`. Any strides: 0 repeats along an axis. The last axis may be longer.
#[derive(Debug)]
pub enum Bias<'a> {
    /// In f16.
    F16(TensorView<'a, f16, 4>),
    /// In bf16.
    BF16(TensorView<'a, bf16, 4>),
    /// In f32.
    F32(TensorView<'a, f32, 4>),
}

impl Bias<'_> {
    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            Bias::F16(_) => DType::F16,
            Bias::BF16(_) => DType::BF16,
            Bias::F32(_) => DType::F32,
        }
    }
}

/// Operands that most calls do without.
#[derive(Debug, Default)]
pub struct PrefillOptions<'a> {
    /// `[num_qo_heads]`: a learned logit of each head that belongs to no key, added to the denominator once (gpt-oss).
    /// A query that sees no key then gives `o = 0` and `lse = sink`.
    pub sinks: Option<TensorView<'a, f32, 1>>,
    /// `[batch, num_qo_heads]`: `slope * |d - j|` is subtracted from logits (ALiBi,
    /// [arXiv 2108.12409](https://arxiv.org/abs/2108.12409)), `d` the key that the query stands at.
    pub alibi_slopes: Option<TensorView<'a, f32, 2>>,
    /// What is added to logits. -inf hides a key.
    pub bias: Option<Bias<'a>>,
    /// `[batch]`: the prefixes of [`Mask::PrefixLm`], in keys. Longer ones than the request are cut.
    pub prefix_lens: Option<TensorView<'a, i32, 1>>,
    /// `[batch, seqlen_q, bytes]`, of packed queries `[1, tokens, bytes]`: of the keys that the mask lets a query see, it
    /// sees those whose bit `j % 8` of byte `j / 8` is set. As many bytes as the longest request needs, or more. What a
    /// key that no query sees has in k and v must still be finite.
    pub bit_mask: Option<TensorView<'a, u8, 3>>,
    /// Of the keys that the mask lets a query see, it sees those in the listed blocks.
    pub block_mask: Option<&'a BlockMask>,
}

/// Operands of [`Kernels::prefill`](crate::Kernels::prefill).
#[derive(Debug)]
pub struct PrefillArgs<'a, T> {
    /// `[batch, seqlen_q, num_qo_heads, head_dim]`.
    pub q: TensorView<'a, T, 4>,
    /// `[batch, seqlen_k, num_kv_heads, head_dim]`.
    pub k: TensorView<'a, T, 4>,
    /// `[batch, seqlen_k, num_kv_heads, head_dim_v]`.
    pub v: TensorView<'a, T, 4>,
    /// `[batch, seqlen_q, num_qo_heads, head_dim_v]`: the output.
    pub o: TensorViewMut<'a, T, 4>,
    /// `[batch, num_qo_heads, seqlen_q]`: the natural log of the sum of exponentials, when asked for.
    pub lse: Option<TensorViewMut<'a, f32, 3>>,
    /// Everything else.
    pub options: PrefillOptions<'a>,
}

/// Operands of [`Kernels::prefill_in_place`](crate::Kernels::prefill_in_place).
#[derive(Debug)]
pub struct PrefillInPlaceArgs<'a, T> {
    /// `[batch, seqlen_q, num_qo_heads, head_dim]`: q, which o replaces.
    pub qo: TensorViewMut<'a, T, 4>,
    /// `[batch, seqlen_k, num_kv_heads, head_dim]`.
    pub k: TensorView<'a, T, 4>,
    /// `[batch, seqlen_k, num_kv_heads, head_dim]`.
    pub v: TensorView<'a, T, 4>,
    /// `[batch, num_qo_heads, seqlen_q]`: the natural log of the sum of exponentials, when asked for.
    pub lse: Option<TensorViewMut<'a, f32, 3>>,
    /// Everything else.
    pub options: PrefillOptions<'a>,
}

/// Operands of [`Kernels::prefill_varlen`](crate::Kernels::prefill_varlen).
#[derive(Debug)]
pub struct PrefillVarlenArgs<'a, T> {
    /// `[tokens_q, num_qo_heads, head_dim]`.
    pub q: TensorView<'a, T, 3>,
    /// `[tokens_k, num_kv_heads, head_dim]`.
    pub k: TensorView<'a, T, 3>,
    /// `[tokens_k, num_kv_heads, head_dim_v]`.
    pub v: TensorView<'a, T, 3>,
    /// `[tokens_q, num_qo_heads, head_dim_v]`: the output.
    pub o: TensorViewMut<'a, T, 3>,
    /// `[num_qo_heads, tokens_q]`: the natural log of the sum of exponentials, when asked for.
    pub lse: Option<TensorViewMut<'a, f32, 2>>,
    /// The queries of each request.
    pub cu_seqlens_q: &'a CuSeqlens,
    /// The keys of each request.
    pub cu_seqlens_k: &'a CuSeqlens,
    /// Everything else.
    pub options: PrefillOptions<'a>,
}

/// Operands of [`Kernels::prefill_paged`](crate::Kernels::prefill_paged).
#[derive(Debug)]
pub struct PrefillPagedArgs<'a, T> {
    /// `[tokens_q, num_qo_heads, head_dim]`.
    pub q: TensorView<'a, T, 3>,
    /// `[num_pages, page_size, num_kv_heads, head_dim]`, or as `layout` says.
    pub k_cache: TensorView<'a, T, 4>,
    /// `[num_pages, page_size, num_kv_heads, head_dim_v]`, or as `layout` says.
    pub v_cache: TensorView<'a, T, 4>,
    /// The order of axes in the cache.
    pub layout: PageLayout,
    /// `[tokens_q, num_qo_heads, head_dim_v]`: the output.
    pub o: TensorViewMut<'a, T, 3>,
    /// `[num_qo_heads, tokens_q]`: the natural log of the sum of exponentials, when asked for.
    pub lse: Option<TensorViewMut<'a, f32, 2>>,
    /// The queries of each request.
    pub cu_seqlens_q: &'a CuSeqlens,
    /// The pages and the length of each request.
    pub pages: &'a PageTable,
    /// `[1]`: where the kernel leaves `1 + r` when request `r` names a page that the cache does not have (of several
    /// requests, the last). What that request gets is undefined; nothing outside the operands is touched. The word is
    /// never cleared. Given exactly for a [`PageTable::from_device`].
    pub page_error: Option<TensorViewMut<'a, i32, 1>>,
    /// Everything else.
    pub options: PrefillOptions<'a>,
}

impl Kernels {
    /// Attention of every query of a dense batch: `o = softmax(mask(logits(q kᵀ))) v`, and optionally the log-sum-exp of
    /// the logits.
    ///
    /// Any number of query heads per key/value head; `seqlen_q` and `seqlen_k` are unrelated, so that
    /// `seqlen_q = 1` against a growing cache decodes. A query that sees no key, or only logits of -inf, gives `o = 0` and
    /// `lse = -inf`. Logits, softmax and sums are f32; probabilities are rounded to `T` before they multiply v. The method
    /// is FlashAttention-2 ([arXiv 2307.08691](https://arxiv.org/abs/2307.08691)): memory linear in the sequence, the
    /// result exact up to rounding, the same bits on every run and whatever else is in the batch.
    ///
    /// [`f32`] operands are rounded to bf16, to nearest even, as they are loaded, and probabilities too: an error of
    /// about 2⁻⁸ of the largest terms, without f16's limit of 65504. Logits, sums and o are f32.
    ///
    /// Head dimensions are multiples of 8, of q and k up to 576, of v up to 512. Addresses and strides of q, k, v and o
    /// must be multiples of 16 bytes.
    ///
    /// # Errors
    /// A typed [`Error`] for element types, head dimensions, shapes, strides, alignments, options or
    /// contexts that do not fit; nothing is launched then.
    pub fn prefill<T: Float>(
        &self,
        stream: &CudaStream,
        op: &Prefill,
        args: PrefillArgs<'_, T>,
    ) -> Result<(), Error> {
        let PrefillArgs { q, k, v, o, .. } = args;
        Call {
            queries: Queries::Apart { q, o },
            k,
            v,
            lse: args.lse,
            lengths: Lengths::Dense,
            options: args.options,
        }
        .launch(self, stream, op)
    }

    /// [`Kernels::prefill`] whose output replaces the queries.
    ///
    /// # Errors
    /// As [`Kernels::prefill`]; [`Unsupported::InPlace`](crate::Unsupported::InPlace) when the head dimensions differ.
    pub fn prefill_in_place<T: Float>(
        &self,
        stream: &CudaStream,
        op: &Prefill,
        args: PrefillInPlaceArgs<'_, T>,
    ) -> Result<(), Error> {
        Call {
            queries: Queries::InPlace { qo: args.qo },
            k: args.k,
            v: args.v,
            lse: args.lse,
            lengths: Lengths::Dense,
            options: args.options,
        }
        .launch(self, stream, op)
    }

    /// [`Kernels::prefill`] over requests of different lengths, packed one after the other without padding. Requests may
    /// be empty.
    ///
    /// # Errors
    /// As [`Kernels::prefill`].
    pub fn prefill_varlen<T: Float>(
        &self,
        stream: &CudaStream,
        op: &Prefill,
        args: PrefillVarlenArgs<'_, T>,
    ) -> Result<(), Error> {
        Call {
            queries: Queries::Apart {
                q: args.q.in_a_batch_of_one(),
                o: args.o.in_a_batch_of_one(),
            },
            k: args.k.in_a_batch_of_one(),
            v: args.v.in_a_batch_of_one(),
            lse: args.lse.map(TensorViewMut::<_, 2>::in_a_batch_of_one),
            lengths: Lengths::Packed {
                q: args.cu_seqlens_q,
                k: args.cu_seqlens_k,
            },
            options: args.options,
        }
        .launch(self, stream, op)
    }

    /// [`Kernels::prefill`] of packed queries over keys and values in pages of any size: chunked prefill against a cache,
    /// shared prefixes, speculative decoding.
    ///
    /// # Errors
    /// As [`Kernels::prefill`]; [`Error::PageOutOfRange`] when the page table was made for another cache.
    pub fn prefill_paged<T: Float>(
        &self,
        stream: &CudaStream,
        op: &Prefill,
        args: PrefillPagedArgs<'_, T>,
    ) -> Result<(), Error> {
        Call {
            queries: Queries::Apart {
                q: args.q.in_a_batch_of_one(),
                o: args.o.in_a_batch_of_one(),
            },
            k: in_order(args.k_cache, args.layout),
            v: in_order(args.v_cache, args.layout),
            lse: args.lse.map(TensorViewMut::<_, 2>::in_a_batch_of_one),
            lengths: Lengths::Paged {
                q: args.cu_seqlens_q,
                pages: args.pages,
                error: args.page_error,
            },
            options: args.options,
        }
        .launch(self, stream, op)
    }
}

/// A cache as `[num_pages, page_size, num_kv_heads, head_dim]`.
fn in_order<T>(cache: TensorView<'_, T, 4>, layout: PageLayout) -> TensorView<'_, T, 4> {
    match layout {
        PageLayout::Nhd => cache,
        PageLayout::Hnd => cache.swapped(1, 2),
    }
}
