//! One call of a prefill kernel: the operands of every entry point in one form, and their checks.

use super::mask::Mask;
use super::prefill::{Bias, Prefill, PrefillOptions};
use super::support::{KvStorage, OptionSet, PrefillDesc};
use crate::check::{self, MAX_COUNT};
use crate::dtype::Float;
use crate::error::{Error, Unsupported};
use crate::metadata::{Contents, CuSeqlens, PageTable};
use crate::tensor::{Layout, TensorView, TensorViewMut};

/// Sequences stay at or below this (kMaxSeqlen of kernels/attention/seqlen.cuh), so that an index plus
/// or minus a window fits in 32 bits.
pub(super) const MAX_SEQLEN: usize = 1 << 29;

/// What the kernel loads and stores at once.
pub(super) const VECTOR_BYTES: usize = 16;

/// The name of the operation in errors.
pub(super) const OP: &str = "prefill";

/// The operands of one call. Packed queries, keys and values are a batch of one.
pub(super) struct Call<'a, T> {
    pub(super) queries: Queries<'a, T>,
    /// `[batch, seqlen_k, num_kv_heads, head_dim]`, `[1, tokens, ..]` or `[pages, page_size, ..]`.
    pub(super) k: TensorView<'a, T, 4>,
    /// The same, with `head_dim_v`.
    pub(super) v: TensorView<'a, T, 4>,
    pub(super) lse: Option<TensorViewMut<'a, f32, 3>>,
    pub(super) lengths: Lengths<'a>,
    pub(super) options: PrefillOptions<'a>,
}

/// Where queries are read and outputs are written.
pub(super) enum Queries<'a, T> {
    Apart {
        q: TensorView<'a, T, 4>,
        o: TensorViewMut<'a, T, 4>,
    },
    InPlace {
        qo: TensorViewMut<'a, T, 4>,
    },
}

impl<T> Queries<'_, T> {
    pub(super) fn q(&self) -> &Layout<4> {
        match self {
            Queries::Apart { q, .. } => q.layout(),
            Queries::InPlace { qo } => qo.layout(),
        }
    }

    pub(super) fn o(&self) -> &Layout<4> {
        match self {
            Queries::Apart { o, .. } => o.layout(),
            Queries::InPlace { qo } => qo.layout(),
        }
    }
}

/// Where requests begin and end.
pub(super) enum Lengths<'a> {
    Dense,
    Packed {
        q: &'a CuSeqlens,
        k: &'a CuSeqlens,
    },
    Paged {
        q: &'a CuSeqlens,
        pages: &'a PageTable,
        error: Option<TensorViewMut<'a, i32, 1>>,
    },
}

impl Lengths<'_> {
    /// The lengths of queries, when they are packed.
    pub(super) fn cu_seqlens_q(&self) -> Option<&CuSeqlens> {
        match self {
            Lengths::Dense => None,
            Lengths::Packed { q, .. } | Lengths::Paged { q, .. } => Some(q),
        }
    }
}

/// What one call computes, in the numbers the kernel counts with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Problem {
    pub(super) batch: i32,
    /// Of the longest request.
    pub(super) seqlen_q: i32,
    pub(super) seqlen_k: i32,
    pub(super) num_qo_heads: i32,
    pub(super) num_kv_heads: i32,
    pub(super) head_dim: i32,
    pub(super) head_dim_v: i32,
}

/// Extents of the operands as they are and as they count.
struct Extents {
    requests: usize,
    longest_q: usize,
    longest_k: usize,
    /// Outermost axes of q, o, lse, bias and bits: batch and seqlen, or 1 and tokens.
    rows: [usize; 2],
    /// Outermost axes of k and v.
    keys: [usize; 2],
}

impl<T: Float> Call<'_, T> {
    /// Everything that can be known without an address.
    pub(super) fn check(&self, op: &Prefill) -> Result<(PrefillDesc, Problem), Error> {
        let desc = self.desc(op);
        desc.supports()?;
        self.check_options(op)?;
        let extents = self.extents()?;
        let [_, _, num_qo_heads, head_dim] = self.queries.q().shape();
        let [_, _, num_kv_heads, _] = self.k.shape();
        self.check_shapes(&extents)?;
        let divides = num_qo_heads
            .checked_rem(num_kv_heads)
            .map_or(num_qo_heads == 0, |rem| rem == 0);
        if !divides {
            return Err(Error::HeadsNotDivisible {
                num_qo_heads,
                num_kv_heads,
            });
        }
        self.check_option_shapes(&extents, num_qo_heads, num_kv_heads)?;
        for (operand, layout) in [
            ("q", self.queries.q()),
            ("k", self.k.layout()),
            ("v", self.v.layout()),
            ("o", self.queries.o()),
        ] {
            check_vectors::<T>(operand, layout)?;
        }
        let problem = Problem {
            batch: check::count("q", "batch", extents.requests, MAX_COUNT)?,
            seqlen_q: check::count("q", "seqlen", extents.longest_q, MAX_SEQLEN)?,
            seqlen_k: check::count("k", "seqlen", extents.longest_k, MAX_SEQLEN)?,
            num_qo_heads: check::count("q", "heads", num_qo_heads, MAX_SEQLEN)?,
            num_kv_heads: check::count("k", "heads", num_kv_heads, MAX_SEQLEN)?,
            head_dim: head_dim as i32,
            head_dim_v: desc.head_dim_v as i32,
        };
        Ok((desc, problem))
    }

    fn desc(&self, op: &Prefill) -> PrefillDesc {
        let options = &self.options;
        PrefillDesc {
            op: *op,
            dtype: T::DTYPE,
            head_dim: self.queries.q().shape()[3],
            head_dim_v: self.v.shape()[3],
            storage: match self.lengths {
                Lengths::Dense => KvStorage::Dense,
                Lengths::Packed { .. } => KvStorage::Packed,
                Lengths::Paged { .. } => KvStorage::Paged,
            },
            in_place: matches!(self.queries, Queries::InPlace { .. }),
            options: OptionSet {
                sinks: options.sinks.is_some(),
                alibi: options.alibi_slopes.is_some(),
                bias: options.bias.is_some(),
                bit_mask: options.bit_mask.is_some(),
                block_mask: options.block_mask.is_some(),
            },
        }
    }

    /// Scalars, and operands that scalars ask for.
    fn check_options(&self, op: &Prefill) -> Result<(), Error> {
        if let Some(scale) = op.softmax_scale {
            check::option("softmax_scale", scale.into(), "must be finite", |_| true)?;
        }
        if let Some(softcap) = op.softcap {
            let requirement = "must be finite and positive";
            check::option("softcap", softcap.into(), requirement, |c| c > 0.0)?;
        }
        if (op.mask == Mask::PrefixLm) != self.options.prefix_lens.is_some() {
            return Err(Error::OperandMismatch {
                operand: "prefix_lens",
                requirement: "must be given exactly for Mask::PrefixLm",
            });
        }
        if let Lengths::Paged { pages, error, .. } = &self.lengths {
            if (pages.contents() == Contents::Unknown) != error.is_some() {
                return Err(Error::OperandMismatch {
                    operand: "page_error",
                    requirement: "must be given exactly for a PageTable::from_device",
                });
            }
            if let Some(error) = error {
                check::extent("page_error", "words", error.shape()[0], 1)?;
            }
        }
        Ok(())
    }

    fn extents(&self) -> Result<Extents, Error> {
        let [batch, seqlen_q, ..] = self.queries.q().shape();
        let [_, seqlen_k, ..] = self.k.shape();
        let requests = |operand, found, q: &CuSeqlens| {
            check::extent(operand, "requests", found, q.sequences())
        };
        Ok(match &self.lengths {
            Lengths::Dense => Extents {
                requests: batch,
                longest_q: seqlen_q,
                longest_k: seqlen_k,
                rows: [batch, seqlen_q],
                keys: [batch, seqlen_k],
            },
            Lengths::Packed { q, k } => {
                requests("cu_seqlens_k", k.sequences(), q)?;
                Extents {
                    requests: q.sequences(),
                    longest_q: q.max_seqlen(),
                    longest_k: k.max_seqlen(),
                    rows: [1, q.total()],
                    keys: [1, k.total()],
                }
            }
            Lengths::Paged { q, pages, .. } => {
                requests("page_table", pages.requests(), q)?;
                let num_pages = self.k.shape()[0];
                pages.check_pages(num_pages)?;
                check::count("k", "pages", num_pages, MAX_COUNT)?;
                check::count("page_table", "page_size", pages.page_size(), MAX_SEQLEN)?;
                Extents {
                    requests: q.sequences(),
                    longest_q: q.max_seqlen(),
                    longest_k: pages.max_kv_len(),
                    rows: [1, q.total()],
                    keys: [num_pages, pages.page_size()],
                }
            }
        })
    }

    fn check_shapes(&self, extents: &Extents) -> Result<(), Error> {
        let [_, _, num_qo_heads, head_dim] = self.queries.q().shape();
        let [_, _, num_kv_heads, _] = self.k.shape();
        let [_, _, _, head_dim_v] = self.v.shape();
        let ([b, s], [kb, ks]) = (extents.rows, extents.keys);
        let (q_axes, k_axes) = match self.lengths {
            Lengths::Dense => (["batch", "seqlen"], ["batch", "seqlen"]),
            Lengths::Packed { .. } => (["batch", "tokens"], ["batch", "tokens"]),
            Lengths::Paged { .. } => (["batch", "tokens"], ["pages", "page_size"]),
        };
        let axes = |[outer, inner]: [&'static str; 2]| [outer, inner, "heads", "head_dim"];
        let q_shape = [b, s, num_qo_heads, head_dim];
        check::shape("q", axes(q_axes), self.queries.q().shape(), q_shape)?;
        let k_shape = [kb, ks, num_kv_heads, head_dim];
        check::shape("k", axes(k_axes), self.k.shape(), k_shape)?;
        let v_shape = [kb, ks, num_kv_heads, head_dim_v];
        check::shape("v", axes(k_axes), self.v.shape(), v_shape)?;
        let o_shape = [b, s, num_qo_heads, head_dim_v];
        check::shape("o", axes(q_axes), self.queries.o().shape(), o_shape)?;
        if let Some(lse) = &self.lse {
            let axes = [q_axes[0], "heads", q_axes[1]];
            check::shape("lse", axes, lse.shape(), [b, num_qo_heads, s])?;
        }
        Ok(())
    }

    fn check_option_shapes(
        &self,
        extents: &Extents,
        num_qo_heads: usize,
        num_kv_heads: usize,
    ) -> Result<(), Error> {
        let options = &self.options;
        let (requests, [b, s]) = (extents.requests, extents.rows);
        if let Some(sinks) = &options.sinks {
            check::extent("sinks", "heads", sinks.shape()[0], num_qo_heads)?;
        }
        if let Some(slopes) = &options.alibi_slopes {
            let axes = ["batch", "heads"];
            check::shape(
                "alibi_slopes",
                axes,
                slopes.shape(),
                [requests, num_qo_heads],
            )?;
        }
        if let Some(bias) = &options.bias {
            let layout = bias.layout();
            let [_, _, _, keys] = layout.shape();
            let axes = ["batch", "heads", "seqlen_q", "seqlen_k"];
            let expected = [b, num_qo_heads, s, keys];
            check::shape("bias", axes, layout.shape(), expected)?;
            check::at_least("bias", "seqlen_k", keys, extents.longest_k)?;
        }
        if let Some(prefixes) = &options.prefix_lens {
            check::extent("prefix_lens", "batch", prefixes.shape()[0], requests)?;
        }
        if let Some(bits) = &options.bit_mask {
            let [_, _, bytes] = bits.shape();
            let axes = ["batch", "seqlen_q", "bytes"];
            check::shape("bit_mask", axes, bits.shape(), [b, s, bytes])?;
            check::at_least("bit_mask", "bytes", bytes, extents.longest_k.div_ceil(8))?;
            check::last_contiguous("bit_mask", bits.layout())?;
        }
        if let Some(blocks) = options.block_mask {
            blocks.check(requests, num_kv_heads, extents.longest_q, extents.longest_k)?;
        }
        Ok(())
    }
}

impl Bias<'_> {
    pub(super) fn layout(&self) -> &Layout<4> {
        match self {
            Bias::F16(view) => view.layout(),
            Bias::BF16(view) => view.layout(),
            Bias::F32(view) => view.layout(),
        }
    }
}

/// Every row must start at a multiple of the vectors the kernel moves.
fn check_vectors<T: Float>(operand: &'static str, layout: &Layout<4>) -> Result<(), Error> {
    check::last_contiguous(operand, layout)?;
    let axes = ["stride of batch", "stride of seqlen", "stride of heads"];
    for (axis, what) in axes.into_iter().enumerate() {
        let bytes = check::stride(layout, axis) as u64 * size_of::<T>() as u64;
        if !bytes.is_multiple_of(VECTOR_BYTES as u64) {
            return Err(Error::Misaligned {
                operand,
                what,
                required: VECTOR_BYTES,
                found: bytes,
            });
        }
    }
    Ok(())
}

/// In-place output has the shape of the queries.
pub(super) fn check_in_place(head_dim: usize, head_dim_v: usize) -> Result<(), Unsupported> {
    if head_dim == head_dim_v {
        return Ok(());
    }
    Err(Unsupported::InPlace {
        op: OP,
        head_dim,
        head_dim_v,
    })
}
