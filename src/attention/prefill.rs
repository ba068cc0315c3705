//! Prefill attention over a dense batch.

use cudarc::driver::CudaStream;

use super::tiles::tile;
use crate::check::{self, MAX_COUNT};
use crate::dtype::Float;
use crate::error::{Error, Unsupported};
use crate::kernels::Kernels;
use crate::launch::params::{FFLASH_UNBOUNDED, fflash_prefill_params, fflash_strides4};
use crate::launch::{Geometry, Launcher, optional_mut};
use crate::tensor::{Layout, TensorView, TensorViewMut};
use crate::variant::{PREFILL_DTYPES, PREFILL_HEAD_DIMS, Variant};

/// Sequences stay at or below this (kMaxSeqlen of kernels/attention/seqlen.cuh), so that an index plus
/// or minus a window fits in 32 bits.
const MAX_SEQLEN: usize = 1 << 29;

/// What the kernel loads and stores at once.
const VECTOR_BYTES: usize = 16;

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

/// What one call computes, in the numbers the kernel counts with.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Problem {
    batch: i32,
    seqlen_q: i32,
    seqlen_k: i32,
    num_qo_heads: i32,
    num_kv_heads: i32,
    head_dim: usize,
}

impl Kernels {
    /// Attention of every query of a dense batch: `o = softmax(mask(softcap(q kᵀ · scale))) v`, and
    /// optionally the log-sum-exp of the logits.
    ///
    /// Any number of query heads per key/value head; `seqlen_q` and `seqlen_k` are unrelated, so that
    /// `seqlen_q = 1` against a growing cache decodes. A query that sees no key gives `o = 0` and
    /// `lse = -inf`. Logits, softmax and sums are f32; probabilities are rounded to `T` before
    /// they multiply v. The method is FlashAttention-2 ([arXiv 2307.08691](https://arxiv.org/abs/2307.08691)):
    /// memory linear in the sequence, the result exact up to rounding, the same bits on every run.
    ///
    /// Addresses and strides of q, k, v and o must be multiples of 16 bytes.
    ///
    /// # Errors
    /// A typed [`Error`] for element types, head dimensions, shapes, strides, alignments, options or
    /// contexts that do not fit; nothing is launched then.
    pub fn prefill<T: Float>(
        &self,
        stream: &CudaStream,
        op: &Prefill,
        mut args: PrefillArgs<'_, T>,
    ) -> Result<(), Error> {
        let problem = check(op, &args)?;
        let launcher = Launcher::new(self, stream)?;
        let (q_layout, k_layout, v_layout) = (*args.q.layout(), *args.k.layout(), *args.v.layout());
        let o_layout = *args.o.layout();
        let lse_layout = args.lse.as_ref().map(|lse| *lse.layout());
        let q = launcher.read("q", &args.q)?;
        let k = launcher.read("k", &args.k)?;
        let v = launcher.read("v", &args.v)?;
        let o = launcher.write("o", &mut args.o)?;
        let lse = args
            .lse
            .as_mut()
            .map(|lse| launcher.write("lse", lse))
            .transpose()?;
        for (operand, bound) in [("q", &q), ("k", &k), ("v", &v), ("o", &o)] {
            bound.check_aligned(operand, VECTOR_BYTES)?;
        }
        let Some(geometry) = geometry(&problem)? else {
            return Ok(());
        };

        let (window_left, window_right) = op.mask.window();
        let lse_stride = |axis| {
            lse_layout
                .as_ref()
                .map_or(0, |layout| check::stride(layout, axis))
        };
        let block = fflash_prefill_params {
            q: q.as_ptr(),
            k: k.as_ptr(),
            v: v.as_ptr(),
            o: o.as_mut_ptr(),
            lse: optional_mut(lse.as_ref()),
            q_strides: strides(&q_layout),
            k_strides: strides(&k_layout),
            v_strides: strides(&v_layout),
            o_strides: strides(&o_layout),
            lse_batch_stride: lse_stride(0),
            lse_head_stride: lse_stride(1),
            lse_seqlen_stride: lse_stride(2),
            batch: problem.batch,
            seqlen_q: problem.seqlen_q,
            seqlen_k: problem.seqlen_k,
            num_qo_heads: problem.num_qo_heads,
            num_kv_heads: problem.num_kv_heads,
            group_size: problem.num_qo_heads / problem.num_kv_heads,
            window_left: bound(window_left),
            window_right: bound(window_right),
            softmax_scale: op.scale_for(problem.head_dim),
            softcap: op.softcap.unwrap_or(0.0),
        };
        let variant = Variant::Prefill {
            dtype: T::DTYPE,
            head_dim: problem.head_dim,
        };
        launcher.submit(
            variant,
            geometry,
            &block,
            [Some(q), Some(k), Some(v), Some(o), lse],
        )
    }
}

/// Everything that can be known without an address.
fn check<T: Float>(op: &Prefill, args: &PrefillArgs<'_, T>) -> Result<Problem, Error> {
    const OP: &str = "prefill";
    if !PREFILL_DTYPES.contains(&T::DTYPE) {
        return Err(Unsupported::DType {
            op: OP,
            dtype: T::DTYPE,
        }
        .into());
    }
    let [batch, seqlen_q, num_qo_heads, head_dim] = args.q.shape();
    let [_, seqlen_k, num_kv_heads, _] = args.k.shape();
    if !PREFILL_HEAD_DIMS.contains(&head_dim) {
        let supported = PREFILL_HEAD_DIMS;
        return Err(Unsupported::HeadDim {
            op: OP,
            head_dim,
            supported,
        }
        .into());
    }
    let kv = [batch, seqlen_k, num_kv_heads, head_dim];
    let qo = [batch, seqlen_q, num_qo_heads, head_dim];
    for (operand, shape, expected) in [
        ("k", args.k.shape(), kv),
        ("v", args.v.shape(), kv),
        ("o", args.o.shape(), qo),
    ] {
        let axes = ["batch", "seqlen", "heads", "head_dim"];
        for ((axis, found), expected) in axes.into_iter().zip(shape).zip(expected) {
            check::extent(operand, axis, found, expected)?;
        }
    }
    if let Some(lse) = &args.lse {
        let expected = [batch, num_qo_heads, seqlen_q];
        let axes = ["batch", "heads", "seqlen"];
        for ((axis, found), expected) in axes.into_iter().zip(lse.shape()).zip(expected) {
            check::extent("lse", axis, found, expected)?;
        }
    }
    let divides = num_qo_heads
        .checked_rem(num_kv_heads)
        .map_or(num_qo_heads == 0, |rem| rem == 0);
    if !divides {
        return Err(Error::HeadsNotDivisible {
            num_qo_heads,
            num_kv_heads,
        });
    }
    for (operand, layout) in [
        ("q", args.q.layout()),
        ("k", args.k.layout()),
        ("v", args.v.layout()),
        ("o", args.o.layout()),
    ] {
        check_vectors::<T>(operand, layout)?;
    }
    if let Some(scale) = op.softmax_scale {
        check::option("softmax_scale", scale.into(), "must be finite", |_| true)?;
    }
    if let Some(softcap) = op.softcap {
        check::option(
            "softcap",
            softcap.into(),
            "must be finite and positive",
            |c| c > 0.0,
        )?;
    }
    Ok(Problem {
        batch: check::count("q", "batch", batch, MAX_COUNT)?,
        seqlen_q: check::count("q", "seqlen", seqlen_q, MAX_SEQLEN)?,
        seqlen_k: check::count("k", "seqlen", seqlen_k, MAX_SEQLEN)?,
        num_qo_heads: check::count("q", "heads", num_qo_heads, MAX_COUNT)?,
        num_kv_heads: check::count("k", "heads", num_kv_heads, MAX_COUNT)?,
        head_dim,
    })
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

/// One block for each tile of queries of each head; `None` when there is nothing to compute.
fn geometry(problem: &Problem) -> Result<Option<Geometry>, Error> {
    let Some(tile) = tile(problem.head_dim) else {
        return Ok(None);
    };
    let tiles = (problem.seqlen_q as u64).div_ceil(tile.block_m.into());
    let heads = problem.num_qo_heads as u64 * problem.batch as u64;
    let blocks = tiles.saturating_mul(heads);
    // CUDA C++ Programming Guide, "Compute Capabilities": grid.x is below 2^31.
    let limit = i32::MAX as usize;
    if blocks > limit as u64 {
        let found = usize::try_from(blocks).unwrap_or(usize::MAX);
        return Err(Error::TooLarge {
            operand: "q",
            axis: "tiles",
            found,
            limit,
        });
    }
    Ok((blocks > 0).then(|| Geometry {
        grid: [blocks as u32, 1, 1],
        block: [tile.warps * 32, 1, 1],
        shared_bytes: tile.shared_bytes(),
    }))
}

fn strides(layout: &Layout<4>) -> fflash_strides4 {
    fflash_strides4 {
        batch: check::stride(layout, 0),
        seqlen: check::stride(layout, 1),
        heads: check::stride(layout, 2),
    }
}

/// A window bound as the parameter block holds it. A window longer than any sequence bounds nothing.
fn bound(window: Option<u32>) -> i32 {
    let keys = window.filter(|&keys| (keys as usize) < MAX_SEQLEN);
    keys.unwrap_or(FFLASH_UNBOUNDED) as i32
}
